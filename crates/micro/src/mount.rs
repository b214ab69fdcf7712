//! The HTTP broker on the port of a service.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use micro_broker_core::Broker;
use micro_broker_http::{HttpBroker, HttpBrokerConfig, HttpDriver, Inlet, Post as Parcel, Reply};
use micro_core::{Driver, Env, Metadata, Result, Url, async_trait};
use micro_transport_core::{BoxFuture, Post, PostHandler, PostReply};

/// How often a message was delivered, as its publisher says.
const DELIVERY: &str = "micro-delivery";
/// After so many milliseconds it is to come again.
const RETRY_IN: &str = "micro-retry-in";

/// Where a broker and a port meet, whichever is there first.
#[derive(Debug, Default)]
pub(crate) struct Mount(Mutex<State>);

/// A [`Mount`] as drivers find it. A broker keeps what it was opened with, and must not keep the mount,
/// which keeps the broker.
#[derive(Debug)]
pub(crate) struct MountRef {
    pub(crate) mount: Weak<Mount>,
    /// What the port shows and demands.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<micro_core::Live<micro_transport_core::TlsIdentity>>,
}

#[derive(Debug, Default)]
struct State {
    broker: Option<Mounted>,
    /// What others call.
    address: Option<String>,
}

#[derive(Debug)]
struct Mounted {
    broker: HttpBroker,
    inlet: Arc<Inlet>,
    advertise: Option<String>,
}

impl Mount {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A broker is open that has no address of its own.
    fn opened(&self, broker: HttpBroker, advertise: Option<String>) {
        let mut state = self.state();
        state.broker = Some(Mounted {
            inlet: broker.inlet(),
            broker,
            advertise,
        });
        state.join();
    }

    /// A port is open, at which others call this address.
    pub(crate) fn served_at(&self, address: &str) {
        let mut state = self.state();
        state.address = Some(address.to_owned());
        state.join();
    }

    fn inlet(&self) -> Option<Arc<Inlet>> {
        let state = self.state();
        let mounted = state.broker.as_ref()?;
        Some(Arc::clone(&mounted.inlet))
    }
}

impl State {
    fn join(&self) {
        let (Some(mounted), Some(address)) = (&self.broker, &self.address) else {
            return;
        };
        let address = mounted.advertise.as_ref().unwrap_or(address);
        if let Err(error) = mounted.broker.served_at(address) {
            tracing::debug!(%error, "the broker keeps the port that it has");
        }
    }
}

impl PostHandler for Mount {
    fn limit(&self, path: &str) -> Option<usize> {
        (path == "/")
            .then(|| self.inlet())?
            .map(|inlet| inlet.max_request())
    }

    fn answer(self: Arc<Self>, post: Post) -> BoxFuture<'static, PostReply> {
        Box::pin(async move {
            let Some(inlet) = self.inlet() else {
                return PostReply::text(404, "nothing is posted here");
            };
            match read(post) {
                Ok(parcel) => written(&inlet.receive(parcel).await),
                Err(refusal) => refusal,
            }
        })
    }
}

fn read(post: Post) -> std::result::Result<Parcel, PostReply> {
    let url = Url::parse(&format!("http://localhost{}", post.target)).ok();
    let id = url.and_then(|url| {
        let mut pairs = url.query_pairs();
        Some(pairs.find(|(name, _)| name == "id")?.1.into_owned())
    });
    let Some(id) = id.filter(|id| id.len() <= 512) else {
        return Err(PostReply::text(
            404,
            "messages are posted to /?id=<subscriber>",
        ));
    };
    let delivery = match post.headers.get(DELIVERY) {
        None => None,
        Some(number) => {
            let number = number.parse().ok();
            Some(number.ok_or_else(|| PostReply::text(400, "micro-delivery is no number"))?)
        }
    };
    Ok(Parcel::new(id, delivery, post.body))
}

fn written(reply: &Reply) -> PostReply {
    let mut headers = Metadata::new();
    if let Some(pause) = reply.retry_in {
        let inserted = headers.insert(RETRY_IN, pause.as_millis().to_string());
        inserted.expect("a number is printable");
    }
    PostReply::text(reply.status, reply.text).with_headers(headers)
}

/// Opens `http` URLs: a broker without an address of its own takes the port of the service that opens it,
/// and its identity.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MountingDriver;

#[async_trait]
impl Driver<dyn Broker> for MountingDriver {
    fn schemes(&self) -> &'static [&'static str] {
        HttpDriver.schemes()
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Broker>> {
        // A bare `http` is `http://localhost`.
        let bare =
            url.scheme() == "http" && url.host_str() == Some("localhost") && url.port().is_none();
        let Some(found) = env.get::<MountRef>().filter(|_| bare) else {
            return HttpDriver.open(url, env).await;
        };
        let config = HttpBrokerConfig::from_url(url)?;
        // Who calls by TLS does not publish in the clear.
        #[cfg(feature = "tls")]
        let config = match &found.tls {
            Some(tls) => config.with_tls(tls.clone()),
            None => config,
        };
        let advertise = config.advertise.clone();
        let broker = HttpBroker::open(config, env)?;
        if let Some(mount) = found.mount.upgrade() {
            mount.opened(broker.clone(), advertise);
        }
        Ok(Arc::new(broker))
    }
}
