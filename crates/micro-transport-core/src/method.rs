//! What a contract says of itself, known to client and server alike.

/// How many messages go each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MethodKind {
    /// One request, one reply.
    Unary,
    /// One request, many replies.
    ServerStreaming,
    /// Many requests, one reply.
    ClientStreaming,
    /// Many requests, many replies.
    BidiStreaming,
}

impl MethodKind {
    /// Whether the client sends many messages.
    #[must_use]
    pub const fn client_streams(self) -> bool {
        matches!(self, Self::ClientStreaming | Self::BidiStreaming)
    }

    /// Whether the server sends many messages.
    #[must_use]
    pub const fn server_streams(self) -> bool {
        matches!(self, Self::ServerStreaming | Self::BidiStreaming)
    }
}

/// A method of a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MethodSpec {
    /// The name on the wire: `SayHello`.
    pub name: &'static str,
    /// How many messages go each way.
    pub kind: MethodKind,
    /// Whether running it twice is as good as once, so that a failed call may be repeated.
    pub idempotent: bool,
    /// The doc comment, without markers.
    pub doc: &'static str,
}

impl MethodSpec {
    /// A method that is not idempotent and has no docs.
    #[must_use]
    pub const fn new(name: &'static str, kind: MethodKind) -> Self {
        Self {
            name,
            kind,
            idempotent: false,
            doc: "",
        }
    }

    /// Declares it idempotent.
    #[must_use]
    pub const fn with_idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// Sets the doc comment.
    #[must_use]
    pub const fn with_doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }
}

/// A contract: a set of methods under one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContractSpec {
    /// The proto package; `""` means that the registry name of the service takes its place.
    pub package: &'static str,
    /// The name on the wire: `Greeter`.
    pub name: &'static str,
    /// The doc comment, without markers.
    pub doc: &'static str,
    /// The methods, in the order of the contract.
    pub methods: &'static [MethodSpec],
}

impl ContractSpec {
    /// A contract without docs.
    #[must_use]
    pub const fn new(
        package: &'static str,
        name: &'static str,
        methods: &'static [MethodSpec],
    ) -> Self {
        Self {
            package,
            name,
            doc: "",
            methods,
        }
    }

    /// Sets the doc comment.
    #[must_use]
    pub const fn with_doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }

    /// The package on the wire when `service` runs the contract.
    ///
    /// A character that a proto identifier lacks becomes `_` (a hyphen would break reflection).
    #[must_use]
    pub fn package_for(&self, service: &str) -> String {
        if !self.package.is_empty() {
            return self.package.to_owned();
        }
        let mut package = String::with_capacity(service.len());
        for part in service.split('.').filter(|part| !part.is_empty()) {
            if !package.is_empty() {
                package.push('.');
            }
            if part.starts_with(|c: char| c.is_ascii_digit()) {
                package.push('_');
            }
            package.extend(
                part.chars()
                    .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }),
            );
        }
        package
    }

    /// The path of a method on the wire when `service` runs the contract:
    /// `/package.Contract/Method`.
    #[must_use]
    pub fn path_for(&self, service: &str, method: &MethodSpec) -> String {
        match self.package_for(service) {
            package if package.is_empty() => format!("/{}/{}", self.name, method.name),
            package => format!("/{package}.{}/{}", self.name, method.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_s_name_stands_in_for_a_missing_package() {
        const HELLO: MethodSpec = MethodSpec::new("Hello", MethodKind::Unary);
        const NONE: ContractSpec = ContractSpec::new("", "Greeter", &[HELLO]);
        const SOME: ContractSpec = ContractSpec::new("hello.v1", "Greeter", &[HELLO]);
        for (contract, service, path) in [
            (NONE, "greeter", "/greeter.Greeter/Hello"),
            (
                NONE,
                "go.micro.srv.greeter",
                "/go.micro.srv.greeter.Greeter/Hello",
            ),
            (NONE, "my-greeter", "/my_greeter.Greeter/Hello"),
            (NONE, "2nd", "/_2nd.Greeter/Hello"),
            (NONE, "", "/Greeter/Hello"),
            (SOME, "greeter", "/hello.v1.Greeter/Hello"),
        ] {
            assert_eq!(contract.path_for(service, &HELLO), path);
        }
    }
}
