//! What a service answers to, before it runs.

use std::any::type_name;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use micro_codec_core::{Schema, Shape};
use micro_core::{Context, Result, Streaming};
use micro_transport_core::{ContractSpec, MethodKind, MethodSpec, Request, Response};

use crate::route::{
    BidiStreaming, Bound, ClientStreaming, Common, Handle, Raw, Route, ServerStreaming, Typed,
    Unary,
};

/// What a server can run: the `GreeterServer` of a contract, or [`Routes`] made by hand.
pub trait Contract {
    /// The methods with their handlers.
    fn routes(self) -> Routes;
}

impl Contract for Routes {
    fn routes(self) -> Routes {
        self
    }
}

/// The methods of one contract with their handlers.
///
/// Generated code begins with [`new`](Self::new); without a contract there is
/// [`dynamic`](Self::dynamic), with the same methods after it:
///
/// ```
/// use micro_codec_core::{RawBytes, shape};
/// use micro_server::Routes;
///
/// let routes = Routes::dynamic("Echo").unary(
///     "Say",
///     shape!(String),
///     shape!(String),
///     |_cx, text: String| async move { Ok(text) },
/// );
/// # let _ = routes;
/// ```
pub struct Routes {
    pub(crate) package: Cow<'static, str>,
    pub(crate) name: Cow<'static, str>,
    pub(crate) doc: Cow<'static, str>,
    pub(crate) methods: Vec<Entry>,
    pub(crate) reach: Reach,
}

/// Who may call, and past whom.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reach {
    pub(crate) local_only: bool,
    pub(crate) without_middleware: bool,
}

/// A method with its handler.
pub(crate) struct Entry {
    pub(crate) method: Method,
    /// What the handler does; the method's own word is checked against it.
    pub(crate) kind: MethodKind,
    pub(crate) request: Message,
    pub(crate) reply: Message,
    pub(crate) bind: Box<dyn FnOnce(Common) -> Arc<dyn Route> + Send + Sync>,
}

/// What is known of a message type.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// It is protobuf.
    Proto(Schema),
    /// It has serde's traits only; this is the name of the Rust type.
    Serde(&'static str),
    /// Raw bytes: nothing is known.
    Raw,
}

impl Message {
    fn of<T>(shape: Shape<T>) -> Self {
        match shape.schema() {
            Some(schema) => Self::Proto(schema),
            None if shape.is_raw() => Self::Raw,
            None => Self::Serde(type_name::<T>()),
        }
    }
}

impl Routes {
    /// The routes of a contract, none yet: for generated code.
    #[must_use]
    pub fn new(contract: &'static ContractSpec) -> Self {
        Self {
            package: Cow::Borrowed(contract.package),
            name: Cow::Borrowed(contract.name),
            doc: Cow::Borrowed(contract.doc),
            methods: Vec::with_capacity(contract.methods.len()),
            reach: Reach::default(),
        }
    }

    /// The routes of a service without a contract, none yet: `"Greeter"`, or with a package
    /// `"hello.v1.Greeter"`.
    ///
    /// Without a package, the service's registry name takes its place, as for a contract.
    #[must_use]
    pub fn dynamic(name: impl Into<String>) -> Self {
        let full: String = name.into();
        let (package, name) = match full.rsplit_once('.') {
            Some((package, name)) => (package.to_owned(), name.to_owned()),
            None => (String::new(), full),
        };
        Self {
            package: Cow::Owned(package),
            name: Cow::Owned(name),
            doc: Cow::Borrowed(""),
            methods: Vec::new(),
            reach: Reach::default(),
        }
    }

    /// Refuses peers that are not on this machine, with `PermissionDenied`.
    ///
    /// A peer that the transport says nothing of is refused too.
    #[must_use]
    pub fn local_only(mut self) -> Self {
        self.reach.local_only = true;
        self
    }

    pub(crate) fn without_middleware(mut self) -> Self {
        self.reach.without_middleware = true;
        self
    }

    /// Sets the doc comment: for [`dynamic`](Self::dynamic) ones.
    #[must_use]
    pub fn with_doc(mut self, doc: impl Into<Cow<'static, str>>) -> Self {
        self.doc = doc.into();
        self
    }

    /// Adds a method with one request and one reply.
    #[must_use]
    pub fn unary<Q, R, F, Fut>(
        self,
        method: impl Into<Method>,
        request: Shape<Q>,
        reply: Shape<R>,
        handler: F,
    ) -> Self
    where
        F: Fn(Context, Q) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R>> + Send + 'static,
        Q: Send + 'static,
        R: Send + 'static,
    {
        self.typed(method, MethodKind::Unary, request, reply, handler, Unary)
    }

    /// Adds a method with one request and many replies.
    #[must_use]
    pub fn server_streaming<Q, R, F, Fut>(
        self,
        method: impl Into<Method>,
        request: Shape<Q>,
        reply: Shape<R>,
        handler: F,
    ) -> Self
    where
        F: Fn(Context, Q) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Streaming<R>>> + Send + 'static,
        Q: Send + 'static,
        R: Send + 'static,
    {
        let kind = MethodKind::ServerStreaming;
        self.typed(method, kind, request, reply, handler, ServerStreaming)
    }

    /// Adds a method with many requests and one reply.
    #[must_use]
    pub fn client_streaming<Q, R, F, Fut>(
        self,
        method: impl Into<Method>,
        request: Shape<Q>,
        reply: Shape<R>,
        handler: F,
    ) -> Self
    where
        F: Fn(Context, Streaming<Q>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R>> + Send + 'static,
        Q: Send + 'static,
        R: Send + 'static,
    {
        let kind = MethodKind::ClientStreaming;
        self.typed(method, kind, request, reply, handler, ClientStreaming)
    }

    /// Adds a method with many requests and many replies.
    #[must_use]
    pub fn bidi_streaming<Q, R, F, Fut>(
        self,
        method: impl Into<Method>,
        request: Shape<Q>,
        reply: Shape<R>,
        handler: F,
    ) -> Self
    where
        F: Fn(Context, Streaming<Q>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Streaming<R>>> + Send + 'static,
        Q: Send + 'static,
        R: Send + 'static,
    {
        let kind = MethodKind::BidiStreaming;
        self.typed(method, kind, request, reply, handler, BidiStreaming)
    }

    /// Adds a method that gets the request as it came, whatever its content type, and makes the
    /// whole response itself: for proxies.
    ///
    /// The kind is what reflection and the registry say of it.
    #[must_use]
    pub fn raw<F, Fut>(self, method: impl Into<Method>, kind: MethodKind, handler: F) -> Self
    where
        F: Fn(Context, Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response>> + Send + 'static,
    {
        let (request, reply) = (Message::Raw, Message::Raw);
        self.add(method.into(), kind, request, reply, Raw(handler))
    }

    fn typed<Q, R, F, H>(
        self,
        method: impl Into<Method>,
        kind: MethodKind,
        request: Shape<Q>,
        reply: Shape<R>,
        handler: F,
        handle: impl FnOnce(Typed<Q, R, F>) -> H,
    ) -> Self
    where
        H: Handle,
    {
        let (q, r) = (Message::of(request), Message::of(reply));
        let handle = handle(Typed {
            request,
            reply,
            handler,
        });
        self.add(method.into(), kind, q, r, handle)
    }

    fn add<H: Handle>(
        mut self,
        method: Method,
        kind: MethodKind,
        request: Message,
        reply: Message,
        handle: H,
    ) -> Self {
        self.methods.push(Entry {
            method,
            kind,
            request,
            reply,
            bind: Box::new(move |common| Arc::new(Bound { common, handle })),
        });
        self
    }

    /// The full name on the wire when `service` runs these routes: `greeter.Greeter`.
    #[must_use]
    pub fn full_name(&self, service: &str) -> String {
        match self.package_for(service) {
            package if package.is_empty() => self.name.to_string(),
            package => format!("{package}.{}", self.name),
        }
    }

    pub(crate) fn package_for(&self, service: &str) -> String {
        if self.package.is_empty() {
            const NONE: ContractSpec = ContractSpec::new("", "", &[]);
            NONE.package_for(service)
        } else {
            self.package.to_string()
        }
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods: Vec<_> = self
            .methods
            .iter()
            .map(|entry| &entry.method.name)
            .collect();
        f.debug_struct("Routes")
            .field("package", &self.package)
            .field("name", &self.name)
            .field("methods", &methods)
            .finish()
    }
}

/// Which method a handler answers: a [`MethodSpec`] of a contract, or just a name.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Method {
    /// The name on the wire: `SayHello`.
    pub name: Cow<'static, str>,
    /// How many messages go each way, as the contract says; without one, the handler does.
    pub kind: Option<MethodKind>,
    /// Whether running it twice is as good as once.
    pub idempotent: bool,
    /// The doc comment, without markers.
    pub doc: Cow<'static, str>,
}

impl Method {
    /// A method that is not idempotent and has no docs.
    #[must_use]
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name: name.into(),
            kind: None,
            idempotent: false,
            doc: Cow::Borrowed(""),
        }
    }

    /// Declares it idempotent.
    #[must_use]
    pub fn with_idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// Sets the doc comment.
    #[must_use]
    pub fn with_doc(mut self, doc: impl Into<Cow<'static, str>>) -> Self {
        self.doc = doc.into();
        self
    }
}

impl From<&'static MethodSpec> for Method {
    fn from(spec: &'static MethodSpec) -> Self {
        Self {
            name: Cow::Borrowed(spec.name),
            kind: Some(spec.kind),
            idempotent: spec.idempotent,
            doc: Cow::Borrowed(spec.doc),
        }
    }
}

impl From<&'static str> for Method {
    fn from(name: &'static str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Method {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}
