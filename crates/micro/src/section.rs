//! The framework's own part of the configuration: the map `micro`.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use micro_config_core::{Config, Layer, LayerStream, Rank, Source, constant, secret};
use micro_core::{Context, Error, Live, Result, async_trait};
use micro_transport_core::{Limits, Middleware, Next, Policies, Policy, Request, Response};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error as ReadError, MapAccess, Visitor,
};

use crate::Settings;
use crate::settings::{self, key};

/// What the configuration, variables and flags say of the framework itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Section {
    pub(crate) settings: Settings,
    pub(crate) policies: Option<Policies>,
    pub(crate) limits: Bounds,
}

/// What is said of [`Limits`], field by field.
macro_rules! bounds {
    (
        more_than_0 { $($field:ident: $type:ty, $set:ident;)* }
        may_be_0 { $($other:ident: $other_type:ty, $set_other:ident;)* }
    ) => {
        #[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(crate) struct Bounds {
            $(
                #[serde(deserialize_with = "more_than_0")]
                $field: Option<$type>,
            )*
            $($other: Option<$other_type>,)*
        }

        impl Bounds {
            /// These over those of the code.
            fn over(self, mut limits: Limits) -> Limits {
                $(if let Some(value) = self.$field {
                    limits = limits.$set(value);
                })*
                $(if let Some(value) = self.$other {
                    limits = limits.$set_other(value);
                })*
                limits
            }
        }
    };
}

bounds! {
    more_than_0 {
        message_in: usize, with_message_in;
        message_out: usize, with_message_out;
        headers: usize, with_headers;
        connections: usize, with_connections;
        connections_per_peer: usize, with_connections_per_peer;
        calls_per_connection: usize, with_calls_per_connection;
        handshake: Duration, with_handshake;
        header_timeout: Duration, with_header_timeout;
        call: Duration, with_call;
        idle: Duration, with_idle;
        keepalive: Duration, with_keepalive;
        keepalive_timeout: Duration, with_keepalive_timeout;
        stream_window: u32, with_stream_window;
        connection_window: u32, with_connection_window;
    }
    may_be_0 {
        lane_message: usize, with_lane_message;
    }
}

fn more_than_0<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default + PartialEq,
{
    let value = Option::<T>::deserialize(deserializer)?;
    if value == Some(T::default()) {
        return Err(D::Error::custom("this limit is more than 0"));
    }
    Ok(value)
}

impl Section {
    /// The section of this configuration, as it changes.
    pub(crate) fn of(config: &Config) -> Result<Live<Self>> {
        config.live("micro")
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
                "policies" => section.policies = map.next_value()?,
                "limits" => section.limits = map.next_value()?,
                _ => {
                    let (variable, text) = map.next_value_seed(Named(&name))?;
                    section.settings.set(variable, text);
                }
            }
        }
        Ok(section)
    }
}

/// The value of one setting. What is wrong with it, or with its name, is said as of its own key.
struct Named<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Named<'_> {
    type Value = (&'static str, String);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let wrong = |err: Error| D::Error::custom(err.message());
        let variable = settings::named(self.0).map_err(wrong)?;
        let text = match URLS.contains(&variable) {
            true => Hidden::deserialize(deserializer)?.0,
            false => Plain::deserialize(deserializer)?.0,
        };
        settings::check(variable, &text).map_err(wrong)?;
        Ok((variable, text))
    }
}

/// Settings that are URLs: these may hold a password, so `explain` does not show them.
const URLS: [&str; 4] = [
    "MICRO_REGISTRY",
    "MICRO_SELECTOR",
    "MICRO_STORE",
    "MICRO_TRANSPORT",
];

struct Hidden(String);

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = secret::optional::deserialize(deserializer)?;
        Ok(Self(
            text.map_or_else(String::new, |text| text.expose().to_owned()),
        ))
    }
}

/// Text, or what files write without quotes; said to be nothing, it is as if it were not there.
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
        f.write_str("text or a whole number")
    }

    fn visit_str<E>(self, text: &str) -> Result<Plain, E> {
        Ok(Plain(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Plain, E> {
        Ok(Plain(String::new()))
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
    /// The task keeps the configuration alive. `known` are the settings that the program has begun with.
    pub(crate) fn start(
        config: Config,
        section: Live<Section>,
        mut known: Settings,
        code: Option<Live<Policies>>,
        code_limits: Live<Limits>,
    ) -> Result<Arc<Self>> {
        // First what tells of changes, then the values: a change in between is not lost.
        let mut changes = section.changes();
        let mut of_code = code.as_ref().map(Live::changes);
        let mut of_limits = code_limits.changes();
        let (writer, policies) = Live::channel(section.get().policies(code.as_ref())?);
        let (bounds, limits) = Live::channel(section.get().limits.over(code_limits.get().clone()));
        let task = async move {
            let _alive = config;
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
                for variable in known.differences(&now.settings) {
                    if !LIVE.contains(&variable) {
                        tracing::warn!(
                            key = key(variable),
                            "this has changed, and takes effect at the next start"
                        );
                    }
                }
                known.clone_from(&now.settings);
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

#[cfg(all(test, feature = "log"))]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Mutex, PoisonError};

    use micro_config_core::Value;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn take(&self) -> String {
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            String::from_utf8(std::mem::take(&mut lines)).unwrap()
        }
    }

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            lines.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn section(pairs: &[(&str, &str)]) -> Section {
        Section {
            settings: Settings::from_pairs(pairs.iter().copied()).unwrap(),
            ..Section::default()
        }
    }

    #[tokio::test]
    async fn what_waits_for_the_next_start_is_said_once() {
        let lines = Lines::default();
        let writer = lines.clone();
        let _logged = tracing::subscriber::set_default(
            tracing_subscriber::fmt()
                .with_writer(move || writer.clone())
                .finish(),
        );
        let config = Config::constant(Value::Map(micro_config_core::Map::new())).unwrap();
        let (set, live) = Live::channel(section(&[]));
        let limits = Live::constant(Limits::default());
        let tuner = Tuner::start(config, live, Settings::new(), None, limits).unwrap();
        let tell = async |pairs: &[(&str, &str)]| {
            set.set(section(pairs));
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            lines.take()
        };
        let zone = ("MICRO_ZONE", "b");
        let said = tell(&[zone]).await;
        assert!(
            said.contains("micro.zone") && said.contains("next start"),
            "{said}"
        );
        assert_eq!(tell(&[zone, ("MICRO_CLIENT_TIMEOUT", "1s")]).await, "");
        let policies = tuner.policies().get();
        let policy = policies.of("a", "/a.A/X").unwrap().policy;
        assert_eq!(policy.timeout, Some(Duration::from_secs(1)));
        assert!(tell(&[]).await.contains("micro.zone"));
    }
}
