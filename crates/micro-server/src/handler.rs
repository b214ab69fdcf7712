//! What a transport pushes calls to.

use std::fmt;
use std::sync::Arc;

use micro_codec_core::{Codec, Codecs};
use micro_core::{Context, Error, Result, TraceContext};
use micro_transport_core::{BoxFuture, Handler, Middleware, Next, Request, Response};

use crate::barrier::barrier;
use crate::router::Router;
use crate::{Routes, Stats};

/// Options for [`ServerHandler::new`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct HandlerOptions {
    /// The codecs known. Raw bytes always are.
    pub codecs: Codecs,
    /// What stands around every call, outermost first.
    pub middleware: Vec<Arc<dyn Middleware>>,
}

impl HandlerOptions {
    /// Sets [`codecs`](Self::codecs).
    #[must_use]
    pub fn with_codecs(mut self, codecs: Codecs) -> Self {
        self.codecs = codecs;
        self
    }

    /// Adds one of the [`codecs`](Self::codecs).
    #[must_use]
    pub fn with_codec(mut self, codec: impl Codec) -> Self {
        self.codecs = self.codecs.with(codec);
        self
    }

    /// Adds [`middleware`](Self::middleware), inside of what is there.
    #[must_use]
    pub fn with_middleware(mut self, middleware: impl Middleware) -> Self {
        self.middleware.push(Arc::new(middleware));
        self
    }
}

/// Answers calls: route, middleware, decode, handler, encode.
///
/// [`Server`](crate::Server) makes one; use it directly to answer calls without a registry.
pub struct ServerHandler {
    router: Router,
    middleware: Vec<Arc<dyn Middleware>>,
}

impl ServerHandler {
    /// Builds it for the service of this registry name, which stands in for the package of
    /// contracts that have none.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if two handlers answer one method; `InvalidArgument` if a name is no proto
    /// identifier, or handler and contract differ in which way streams.
    pub fn new(service: &str, routes: Vec<Routes>, opts: HandlerOptions) -> Result<Arc<Self>> {
        Self::with_own(service, routes, Vec::new(), opts)
    }

    pub(crate) fn with_own(
        service: &str,
        routes: Vec<Routes>,
        own: Vec<Routes>,
        opts: HandlerOptions,
    ) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            router: Router::new(service, routes, own, &opts.codecs)?,
            middleware: opts.middleware,
        }))
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.router.stats()
    }

    /// The full names of the services that are answered, sorted.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.router.services()
    }
}

impl Handler for ServerHandler {
    fn call(
        self: Arc<Self>,
        mut cx: Context,
        mut request: Request,
    ) -> BoxFuture<'static, Result<Response>> {
        // A transport that did not give the context what came in; the others have the trace there.
        if cx.metadata().is_empty()
            && let Some(trace) = request.metadata.get(TraceContext::HEADER)
            && let Ok(trace) = trace.parse()
        {
            cx = cx.with_trace(trace);
        }
        let route = match self.router.find(&request.path) {
            Ok(route) => Arc::clone(route),
            Err(err) => return Box::pin(std::future::ready(Err(err))),
        };
        let common = route.common();
        if common.reach.local_only && !request.peer.as_ref().is_some_and(|peer| peer.local) {
            return Box::pin(std::future::ready(Err(not_local())));
        }
        // Whatever the peer wrote, rules see the canonical path.
        request.path = Arc::clone(&common.path);
        if self.middleware.is_empty() || common.reach.without_middleware {
            return route.call_owned(cx, request);
        }
        Box::pin(async move {
            let mut run = Next::new(&self.middleware, &*route).run(&cx, request);
            // The endpoint has a barrier of its own: this one is for the middleware.
            barrier(&route.common().path, run.as_mut()).await
        })
    }
}

fn not_local() -> Error {
    Error::permission_denied("only peers on the server's machine may call this")
        .with_operation("server.call")
}

impl fmt::Debug for ServerHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandler")
            .field("services", &self.router.services().collect::<Vec<_>>())
            .field("middleware", &self.middleware)
            .finish()
    }
}
