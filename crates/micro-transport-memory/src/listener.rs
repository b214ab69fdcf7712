//! The listening side.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use micro_transport_core::{Error, Handler, Listener, Live, Result, Stop, async_trait};

use crate::port::{Port, Stage};
use crate::transport::Network;

/// How long [`Listener::serve`] waits for calls it has closed to be gone. Their futures are the
/// callers', who are woken at once, but may be busy elsewhere.
const CLOSE_GRACE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct MemoryListener {
    port: Arc<Port>,
    network: Arc<Network>,
}

impl MemoryListener {
    pub(crate) fn new(port: Arc<Port>, network: Arc<Network>) -> Self {
        Self { port, network }
    }
}

/// Whether serving has ended or was given up: nobody is left waiting.
impl Drop for MemoryListener {
    fn drop(&mut self) {
        self.network.unbind(&self.port);
        self.port.advance(Stage::Closed);
    }
}

#[async_trait]
impl Listener for MemoryListener {
    fn address(&self) -> String {
        self.port.address.clone()
    }

    fn advertise(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    async fn serve(self: Box<Self>, handler: Arc<dyn Handler>, stop: Live<Stop>) -> Result<()> {
        let port = &self.port;
        if port.handler.set(handler).is_err() {
            // `self` is consumed, so nobody can have served before.
            return Err(
                Error::internal("this address is served already").with_operation("transport.serve")
            );
        }
        port.advance(Stage::Serving);
        // Asked for before the first look: a change in between is not missed.
        let mut changes = stop.changes();
        let mut order = *stop.get();
        while order != Stop::Close {
            let until = match order {
                Stop::Drain { until } => {
                    // As when a socket closes: the address is free, new connections are refused.
                    self.network.unbind(port);
                    port.advance(Stage::Draining);
                    Some(until.saturating_duration_since(port.options.clock.now()))
                }
                _ => None,
            };
            let mut changed = pin!(changes.changed());
            let mut over = pin!(async {
                match until {
                    // Idle or late: all that is left is closed.
                    Some(left) => drop(tokio::time::timeout(left, port.idle()).await),
                    None => std::future::pending().await,
                }
            });
            let next = poll_fn(|task| {
                if let Poll::Ready(order) = changed.as_mut().poll(task) {
                    return Poll::Ready(*order);
                }
                over.as_mut().poll(task).map(|()| Stop::Close)
            })
            .await;
            // A listener that drains does not come back.
            order = match (order, next) {
                (Stop::Drain { .. }, Stop::Run) => order,
                _ => next,
            };
        }
        self.network.unbind(port);
        port.advance(Stage::Closed);
        drop(tokio::time::timeout(CLOSE_GRACE, port.idle()).await);
        Ok(())
    }
}
