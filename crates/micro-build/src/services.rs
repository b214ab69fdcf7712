//! Services: a trait under `#[micro::service]`, which makes the rest.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::rc::Rc;

use prost_build::{Method, Service, ServiceGenerator};
use prost_types::method_options::IdempotencyLevel;

/// Writes the trait of each service.
pub(crate) struct Traits {
    pub(crate) krate: String,
    /// What is wrong with services: the generator itself cannot say.
    pub(crate) problems: Rc<RefCell<Vec<String>>>,
}

impl ServiceGenerator for Traits {
    fn generate(&mut self, service: Service, out: &mut String) {
        if service.package.is_empty() {
            self.problems.borrow_mut().push(format!(
                "service {} has no package: without one, its name on the wire would be that of whatever runs it",
                service.proto_name
            ));
            return;
        }
        self.write(&service, out);
    }
}

impl Traits {
    fn write(&self, service: &Service, out: &mut String) {
        let krate = &self.krate;
        let mut arguments = format!("package = {:?}", service.package);
        if service.name != service.proto_name {
            let _ = write!(arguments, ", name = {:?}", service.proto_name);
        }
        if krate != "::micro" {
            let _ = write!(arguments, ", crate = {krate:?}");
        }
        service.comments.append_with_indent(0, out);
        let deprecated = |deprecated: bool| match deprecated {
            true => "#[deprecated]\n",
            false => "",
        };
        let _ = writeln!(
            out,
            "#[{krate}::service({arguments})]\n{}pub trait {} {{",
            deprecated(service.options.deprecated()),
            service.name,
        );
        for method in &service.methods {
            method.comments.append_with_indent(1, out);
            out.push_str(deprecated(method.options.deprecated()));
            self.method(method, out);
        }
        out.push_str("}\n");
    }

    fn method(&self, method: &Method, out: &mut String) {
        let v1 = format!("{}::__v1", self.krate);
        let mut arguments = Vec::new();
        if camel(&method.name) != method.proto_name {
            arguments.push(format!("name = {:?}", method.proto_name));
        }
        match method.options.idempotency_level() {
            IdempotencyLevel::NoSideEffects | IdempotencyLevel::Idempotent => {
                arguments.push("idempotent".to_owned());
            }
            IdempotencyLevel::IdempotencyUnknown => {}
        }
        if !arguments.is_empty() {
            let _ = writeln!(out, "#[micro({})]", arguments.join(", "));
        }
        let stream = |streaming: bool, message: &str| match streaming {
            true => format!("{v1}::Streaming<{message}>"),
            false => message.to_owned(),
        };
        let _ = writeln!(
            out,
            "async fn {}(&self, cx: &{v1}::Context, {}: {}) -> {v1}::Result<{}>;",
            method.name,
            if method.client_streaming {
                "requests"
            } else {
                "request"
            },
            stream(method.client_streaming, &method.input_type),
            stream(method.server_streaming, &method.output_type),
        );
    }
}

/// The name that `#[micro::service]` gives a method by itself.
fn camel(name: &str) -> String {
    let mut out = String::new();
    for word in name.trim_start_matches("r#").split('_') {
        let mut chars = word.chars();
        out.extend(chars.next().map(|first| first.to_ascii_uppercase()));
        out.push_str(chars.as_str());
    }
    out
}
