//! The framework's own part of the configuration: the map `micro`.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use micro_config_core::{Config, Layer, LayerStream, Rank, Source, ViewOptions, constant, secret};
use micro_core::{Context, Error, Live, Result, async_trait};
use micro_transport_core::{Limits, Middleware, Next, Policies, Policy, Request, Response};
use serde::de::{Deserialize, Deserializer, Error as ReadError, MapAccess, Visitor};

use crate::Settings;
use crate::settings::key;

/// What the configuration, variables and flags say of the framework itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Section {
    pub(crate) settings: Settings,
    pub(crate) policies: Option<Policies>,
    pub(crate) limits: Bounds,
}

/// What is said of [`Limits`], field by field.
macro_rules! bounds {
    ($($field:ident: $type:ty, $set:ident;)*) => {
        #[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(crate) struct Bounds {
            $($field: Option<$type>,)*
        }

        impl Bounds {
            /// These over those of the code.
            fn over(self, mut limits: Limits) -> Limits {
                $(if let Some(value) = self.$field {
                    limits = limits.$set(value);
                })*
                limits
            }

            fn check(self) -> Result<()> {
                $(if self.$field == Some(<$type>::default()) && stringify!($field) != "lane_message" {
                    return Err(Error::invalid_argument(
                        concat!("micro.limits.", stringify!($field), " is more than 0"),
                    ));
                })*
                Ok(())
            }
        }
    };
}

bounds! {
    message_in: usize, with_message_in;
    message_out: usize, with_message_out;
    headers: usize, with_headers;
    connections: usize, with_connections;
    connections_per_peer: usize, with_connections_per_peer;
    calls_per_connection: usize, with_calls_per_connection;
    lane_message: usize, with_lane_message;
    handshake: Duration, with_handshake;
    header_timeout: Duration, with_header_timeout;
    call: Duration, with_call;
    idle: Duration, with_idle;
    keepalive: Duration, with_keepalive;
    keepalive_timeout: Duration, with_keepalive_timeout;
    stream_window: u32, with_stream_window;
    connection_window: u32, with_connection_window;
}

impl Section {
    /// The section of this configuration, as it changes.
    pub(crate) fn of(config: &Config) -> Result<Live<Self>> {
        let options = ViewOptions::<Self>::new().with_check(|section| {
            section.limits.check()?;
            section.settings.check()
        });
        config.live_with("micro", options)
    }

    /// The policies of the configuration over those of the code; where both say nothing, the timeout
    /// and retries of the settings hold, so that these may change too.
    fn policies(&self, code: Option<&Live<Policies>>) -> Result<Policies> {
        let mut general = Policy::new();
        general.timeout = self.settings.duration("MICRO_CLIENT_TIMEOUT")?;
        let retries = self.settings.parse::<u32>("MICRO_CLIENT_RETRIES")?;
        general.retry.attempts = retries.map(|retries| retries.saturating_add(1).min(5));
        let mut policies = Policies::new().with_default(general);
        if let Some(code) = code {
            policies = code.get().over(&policies);
        }
        if let Some(own) = &self.policies {
            policies = own.over(&policies);
        }
        Ok(policies)
    }
}

impl<'de> Deserialize<'de> for Section {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SectionVisitor)
    }
}

struct SectionVisitor;

impl<'de> Visitor<'de> for SectionVisitor {
    type Value = Section;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of micro's settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Section, A::Error> {
        let mut section = Section::default();
        while let Some(name) = map.next_key::<String>()? {
            match &*name {
                "policies" => {
                    section.policies = map.next_value()?;
                    continue;
                }
                "limits" => {
                    section.limits = map.next_value()?;
                    continue;
                }
                _ => {}
            }
            let text = match URLS.contains(&&*name) {
                true => map.next_value::<Hidden>()?.0,
                false => map.next_value::<Plain>()?.0,
            };
            let taken = section.settings.take(&name, text);
            taken.map_err(|err| A::Error::custom(err.message()))?;
        }
        Ok(section)
    }
}

/// Keys whose values are URLs: these may hold a password, so `explain` does not show them.
const URLS: [&str; 5] = ["config", "registry", "selector", "store", "transport"];

struct Hidden(String);

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = secret::deserialize(deserializer)?;
        Ok(Self(text.expose().to_owned()))
    }
}

/// Text, or what files write without quotes.
struct Plain(String);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlainVisitor)
    }
}

struct PlainVisitor;

impl Visitor<'_> for PlainVisitor {
    type Value = Plain;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text or a number")
    }

    fn visit_str<E>(self, text: &str) -> Result<Plain, E> {
        Ok(Plain(text.to_owned()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Plain, E> {
        Ok(Plain(number.to_string()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Plain, E> {
        Ok(Plain(number.to_string()))
    }
}

/// What variables or flags say, as a source.
#[derive(Debug)]
pub(crate) struct Outside {
    rank: Rank,
    layer: Layer,
}

impl Outside {
    pub(crate) fn new(rank: Rank, settings: &Settings) -> Result<Self> {
        let layer = settings.layer(rank)?;
        Ok(Self { rank, layer })
    }
}

#[async_trait]
impl Source for Outside {
    fn backend(&self) -> &'static str {
        "micro"
    }

    fn describe(&self) -> String {
        match self.rank {
            Rank::Flags => "micro's flags".to_owned(),
            _ => "micro's variables".to_owned(),
        }
    }

    fn rank(&self) -> Rank {
        self.rank
    }

    async fn load(&self) -> Result<Layer> {
        Ok(self.layer.clone())
    }

    async fn watch(&self) -> Result<LayerStream> {
        Ok(constant(self.layer.clone()))
    }
}

/// Policies and limits that follow the configuration and the code. Dropping it ends the task that does
/// it; they keep their last value.
#[derive(Debug)]
pub(crate) struct Tuner {
    policies: Live<Policies>,
    limits: Live<Limits>,
    task: tokio::task::AbortHandle,
}

impl Tuner {
    /// The task keeps the configuration alive.
    pub(crate) fn start(
        config: Config,
        section: Live<Section>,
        code: Option<Live<Policies>>,
        code_limits: Live<Limits>,
    ) -> Result<Arc<Self>> {
        let mut changes = section.changes();
        let (writer, policies) = Live::channel(section.get().policies(code.as_ref())?);
        let (bounds, limits) = Live::channel(section.get().limits.over(code_limits.get().clone()));
        let task = async move {
            let _alive = config;
            let started = section.get_arc();
            let mut of_code = code.as_ref().map(Live::changes);
            let mut of_limits = code_limits.changes();
            loop {
                tokio::select! {
                    _ = changes.changed() => {}
                    _ = of_limits.changed() => {}
                    () = async {
                        match &mut of_code {
                            Some(changes) => drop(changes.changed().await),
                            None => std::future::pending().await,
                        }
                    } => {}
                }
                let now = section.get_arc();
                match now.policies(code.as_ref()) {
                    Ok(policies) => writer.set(policies),
                    // Cannot be: the view was checked.
                    Err(err) => tracing::warn!(%err, "the policies stay as they are"),
                }
                bounds.set(now.limits.over(code_limits.get().clone()));
                for variable in started.settings.differences(&now.settings) {
                    if !LIVE.contains(&variable) {
                        tracing::warn!(
                            key = key(variable),
                            "this has changed, and takes effect at the next start"
                        );
                    }
                }
            }
        };
        let task = tokio::spawn(task).abort_handle();
        Ok(Arc::new(Self {
            policies,
            limits,
            task,
        }))
    }

    pub(crate) fn policies(&self) -> &Live<Policies> {
        &self.policies
    }

    pub(crate) fn limits(&self) -> &Live<Limits> {
        &self.limits
    }
}

/// Middleware that keeps what it depends on.
#[derive(Debug)]
pub(crate) struct Kept<M> {
    middleware: M,
    _tuner: Option<Arc<Tuner>>,
}

impl<M> Kept<M> {
    pub(crate) fn new(middleware: M, tuner: Option<Arc<Tuner>>) -> Self {
        Self {
            middleware,
            _tuner: tuner,
        }
    }
}

impl<M: Middleware> Middleware for Kept<M> {
    // Passed on by hand: this is on the way of every call, and needs no future of its own.
    fn call<'a, 'b, 'c, 'f>(
        &'a self,
        cx: &'b Context,
        request: Request,
        next: Next<'c>,
    ) -> Pin<Box<dyn Future<Output = Result<Response>> + Send + 'f>>
    where
        Self: 'f,
        'a: 'f,
        'b: 'f,
        'c: 'f,
    {
        self.middleware.call(cx, request, next)
    }
}

impl Drop for Tuner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Settings that take effect while the program runs.
const LIVE: [&str; 3] = ["MICRO_CLIENT_TIMEOUT", "MICRO_CLIENT_RETRIES", "MICRO_LOG"];
