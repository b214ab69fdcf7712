//! A subscriber's place in the registry.

use std::sync::Arc;
use std::time::Duration;

use micro_broker_core::Result;
use micro_registry_core::{DeregisterOptions, RegisterOptions, Registry, Service};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

/// A subscriber is forgotten by the registry after so long without a word; go-micro's value.
const TTL: Duration = Duration::from_secs(60);
/// It is registered again after so long.
const REFRESH: Duration = Duration::from_secs(30);
/// And after so long if that failed.
const AGAIN: Duration = Duration::from_secs(3);
/// The registry may take so long to be told of the end.
const GOODBYE: Duration = Duration::from_secs(5);

/// A registration that is kept up. Dropping it ends it, as soon as the registry can be told.
pub(crate) struct Presence {
    registry: Arc<dyn Registry>,
    pub(crate) service: Service,
    refresh: Option<AbortHandle>,
    left: bool,
}

impl Presence {
    pub(crate) fn new(registry: &Arc<dyn Registry>, service: Service) -> Self {
        Self {
            registry: Arc::clone(registry),
            service,
            refresh: None,
            left: false,
        }
    }

    /// Registers it. If this is dropped or fails, it is deregistered with this value all the same: it may
    /// have arrived.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        let mut opts = RegisterOptions::default();
        if self.registry.capabilities().ttl {
            opts = opts.with_ttl(TTL);
        }
        self.registry.register(&self.service, opts.clone()).await?;
        let (registry, service) = (Arc::clone(&self.registry), self.service.clone());
        // It ends with this value.
        let refresh = tokio::spawn(async move {
            let mut pause = REFRESH;
            loop {
                sleep(pause).await;
                pause = match registry.register(&service, opts.clone()).await {
                    Ok(()) => REFRESH,
                    Err(error) => {
                        tracing::warn!(service = service.name, %error, "a subscriber cannot be registered again");
                        AGAIN
                    }
                };
            }
        });
        self.refresh = Some(refresh.abort_handle());
        Ok(())
    }

    fn stop_refreshing(&self) {
        if let Some(refresh) = &self.refresh {
            refresh.abort();
        }
    }

    /// Tells the registry of the end.
    pub(crate) async fn end(mut self) -> Result<()> {
        self.stop_refreshing();
        self.left = true;
        let gone = self
            .registry
            .deregister(&self.service, DeregisterOptions::default());
        timeout(GOODBYE, gone).await.unwrap_or_else(|_| {
            Err(micro_broker_core::Error::unavailable(
                "the registry does not answer",
            ))
        })
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.stop_refreshing();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if !self.left {
            let (registry, service) = (Arc::clone(&self.registry), self.service.clone());
            // It ends by its timeout; until then, who asks for the subscriber is told that it is gone.
            runtime.spawn(async move {
                let gone = registry.deregister(&service, DeregisterOptions::default());
                let _ = timeout(GOODBYE, gone).await;
            });
        }
    }
}
