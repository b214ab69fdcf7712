//! What stands around a call, on either side.

use std::fmt;
use std::sync::Arc;

use micro_core::async_trait;

use crate::{Context, Request, Response, Result};

/// Stands around every call, on the client or on the server: the same trait for both.
///
/// The first middleware added is the outermost. It may change the context and the request, answer
/// itself, or run the rest more than once. Dropping its future ends what it runs.
#[async_trait]
pub trait Middleware: fmt::Debug + Send + Sync + 'static {
    /// Makes the call, usually by [`next.run`](Next::run).
    async fn call(&self, cx: &Context, request: Request, next: Next<'_>) -> Result<Response>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<M: Middleware + ?Sized> Middleware for Arc<M> {
    async fn call(&self, cx: &Context, request: Request, next: Next<'_>) -> Result<Response> {
        (**self).call(cx, request, next).await
    }
}

/// What stands at the end of the middleware: the connection, or the handler.
#[async_trait]
pub trait Endpoint: Send + Sync {
    /// Makes the call.
    async fn call(&self, cx: &Context, request: Request) -> Result<Response>;
}

/// The rest of the way: further middleware, then the endpoint.
///
/// It is `Copy` and may be run again, also at the same time: retrying and hedging are ordinary
/// middleware, without tasks.
#[derive(Clone, Copy)]
pub struct Next<'a> {
    rest: &'a [Arc<dyn Middleware>],
    end: &'a dyn Endpoint,
}

impl<'a> Next<'a> {
    /// The way through `middleware`, in this order, to `end`.
    #[must_use]
    pub fn new(middleware: &'a [Arc<dyn Middleware>], end: &'a dyn Endpoint) -> Self {
        Self {
            rest: middleware,
            end,
        }
    }

    /// Makes the call.
    ///
    /// # Errors
    ///
    /// Whatever the rest of the way fails with.
    pub fn run<'b>(
        self,
        cx: &'b Context,
        request: Request,
    ) -> crate::BoxFuture<'b, Result<Response>>
    where
        'a: 'b,
    {
        // The boxed future of the next one is handed on as it is: no box of our own around it.
        match self.rest.split_first() {
            // By what the `Arc` holds: its own impl would box the future once more.
            Some((first, rest)) => (**first).call(
                cx,
                request,
                Next {
                    rest,
                    end: self.end,
                },
            ),
            None => self.end.call(cx, request),
        }
    }
}

impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.rest).finish()
    }
}

const _: fn(&dyn Middleware) = |_| ();
