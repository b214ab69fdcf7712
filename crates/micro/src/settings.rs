//! What a program is told from outside: variables and flags.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use micro_config_core::{Layer, Rank, Value, path};
use micro_core::url::Span;
use micro_core::{Error, Result};

/// One setting: a variable, the flag of the same meaning, its default, and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setting {
    /// The variable: `MICRO_REGISTRY`.
    pub variable: &'static str,
    /// The flag: `--registry`.
    pub flag: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
}

macro_rules! settings {
    ($($variable:literal $flag:literal $default:literal $help:literal)*) => {
        &[$(Setting { variable: $variable, flag: $flag, default: $default, help: $help }),*]
    };
}

/// Every setting there is. A flag (read only by [`Service::from_args`](crate::Service::from_args))
/// outweighs the variable, this the configuration's key (`MICRO_CLIENT_TIMEOUT` is
/// `micro.client_timeout`), and this the code; a backend handed in as a value is not outweighed.
///
/// `MICRO_CLIENT_TIMEOUT`, `MICRO_CLIENT_RETRIES` and `MICRO_LOG` may change in the configuration while
/// the program runs, and so may `micro.policies` and `micro.limits`, which are no variables; the others
/// are read at start. `MICRO_CONFIG` is no key, as it says where the keys are.
///
/// Besides these flags there is `--set path=value`, which sets any key of the configuration.
pub const SETTINGS: &[Setting] = settings! {
    "MICRO_CONFIG" "--config" "" "The configuration's sources: URLs, separated by spaces: file:app.toml env:APP etcd://host:2379; one that may be away has optional=true"
    "MICRO_REGISTRY" "--registry" "mdns" "The registry's URL"
    "MICRO_TRANSPORT" "--transport" "grpc" "The transport's URL"
    "MICRO_SELECTOR" "--selector" "p2c" "The balancing strategy's URL: p2c, random, roundrobin, hash"
    "MICRO_STORE" "--store" "memory" "The store's URL: memory, file:./data, postgres://host/database, redis://host"
    "MICRO_BROKER" "--broker" "http" "The broker's URL: http (found through the registry), memory, nats://host, redis://host, amqp://host"
    "MICRO_SYNC" "--sync" "memory" "The URL of locks and leadership: memory (this process only), etcd://host, postgres://host/database"
    "MICRO_NAMESPACE" "--namespace" "" "Separates fleets: services of other namespaces are not seen"
    "MICRO_ZONE" "--zone" "" "The zone that the program runs in: nodes announce it, clients prefer it"
    "MICRO_SERVER_ADDRESS" "--server-address" "127.0.0.1:0" "Where the server listens: host, port, host:port or host:from-to; ':8080' is every IPv4 interface"
    "MICRO_SERVER_ADVERTISE" "--server-advertise" "" "The address that is registered, if it is not the one bound"
    "MICRO_SERVER_ID" "--server-id" "<name>-<random>" "The node's id"
    "MICRO_SERVER_VERSION" "--server-version" "latest" "The service's version"
    "MICRO_SERVER_METADATA" "--server-metadata" "" "The node's metadata: key=value, separated by commas"
    "MICRO_REGISTER_TTL" "--register-ttl" "30s" "How long a registration lives without a heartbeat"
    "MICRO_REGISTER_INTERVAL" "--register-interval" "10s" "How often a registration is renewed"
    "MICRO_STOP_TIMEOUT" "--stop-timeout" "10s" "How long a stop may take, from the signal to the end"
    "MICRO_CLIENT_TIMEOUT" "--client-timeout" "30s" "The time of a call that brings no deadline"
    "MICRO_CLIENT_RETRIES" "--client-retries" "2" "The most repetitions of a call that may be repeated"
    "MICRO_CLIENT_WAIT" "--client-wait" "2s" "How long a call waits for a service that is not known yet"
    "MICRO_LOG" "--log" "info" "What `run` logs if the program installs no subscriber: a level, or tracing's target=level list"
};

/// The settings of one program: what variables and flags said.
///
/// ```
/// use micro::Settings;
///
/// let settings = Settings::from_pairs([("MICRO_REGISTRY", "memory")])?
///     .with_args(["--namespace=dev", "--client-retries", "0", "--set=greeting.loud=yes"])?;
/// assert_eq!(settings.get("MICRO_REGISTRY"), Some("memory"));
/// assert_eq!(settings.get("MICRO_NAMESPACE"), Some("dev"));
/// # Ok::<(), micro::Error>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Settings {
    variables: Values,
    flags: Values,
    /// What `--set` said: path and value.
    sets: Vec<(String, String)>,
    /// Variables that micro does not know.
    unknown: Vec<String>,
}

type Values = BTreeMap<&'static str, String>;

impl Settings {
    /// Nothing set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the process's variables say.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if a `MICRO_…` variable is not UTF-8. One that micro does not know is
    /// logged at start with the name it may have meant, for it may be the program's own.
    pub fn from_env() -> Result<Self> {
        let mut settings = Self::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with("MICRO_")) else {
                continue;
            };
            let known = SETTINGS.iter().find(|setting| setting.variable == name);
            match known {
                Some(setting) => {
                    settings.set(setting.variable, text(name, value)?);
                }
                None if !is_foreign(name) => settings.unknown.push(name.to_owned()),
                None => {}
            }
        }
        Ok(settings)
    }

    /// What these variables say, instead of the process's: for tests.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a name that micro does not know.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut settings = Self::new();
        for (name, value) in pairs {
            let known = SETTINGS.iter().find(|setting| setting.variable == name);
            let setting =
                known.ok_or_else(|| unknown(name, SETTINGS.iter().map(|s| s.variable)))?;
            settings.set(setting.variable, value.to_owned());
        }
        Ok(settings)
    }

    /// Logs the variables that micro does not know: not before there is a log.
    pub(crate) fn warn_of_unknown(&self) {
        for name in &self.unknown {
            let nearest = nearest(name, SETTINGS.iter().map(|setting| setting.variable));
            tracing::warn!(
                variable = name,
                "micro knows no such variable; did you mean {nearest}?"
            );
        }
    }

    /// Adds what flags say; they outweigh variables. `--flag value` and `--flag=value` both do.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a flag that micro does not know or that lacks its value, and for a
    /// `--set` that is not `path=value`.
    pub fn with_args<A: Into<OsString>>(
        mut self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        let mut args = args.into_iter().map(|arg| text("argument", arg.into()));
        while let Some(arg) = args.next() {
            let arg = arg?;
            let (flag, value) = match arg.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (&*arg, None),
            };
            let known = SETTINGS.iter().find(|setting| setting.flag == flag);
            if known.is_none() && flag != SET {
                let flags = SETTINGS.iter().map(|setting| setting.flag);
                return Err(unknown(flag, flags.chain([SET])));
            }
            let value = match value {
                Some(value) => value,
                None => args.next().transpose()?.ok_or_else(|| {
                    Error::invalid_argument("this flag needs a value").with_context("flag", flag)
                })?,
            };
            let Some(setting) = known else {
                // Without a `=` it may be a value that lost its path: it is not shown.
                let (at, value) = value.split_once('=').ok_or_else(|| {
                    Error::invalid_argument(
                        "a setting is 'path=value', as in '--set http.port=8080'",
                    )
                })?;
                self.sets.push((at.to_owned(), value.to_owned()));
                continue;
            };
            // As without the flag and the variable, if it is empty.
            if value.is_empty() {
                self.variables.remove(setting.variable);
                self.flags.remove(setting.variable);
            } else {
                self.flags.insert(setting.variable, value);
            }
        }
        Ok(self)
    }

    pub(crate) fn set(&mut self, variable: &'static str, text: String) {
        // An empty variable is how shells and manifests say "not set".
        if text.is_empty() {
            self.variables.remove(variable);
        } else {
            self.variables.insert(variable, text);
        }
    }

    /// What variables or flags said, as a source of configuration has it: each under its key.
    pub(crate) fn layer(&self, rank: Rank) -> Result<Layer> {
        let mut layer = Layer::new();
        let values = match rank {
            Rank::Flags => &self.flags,
            _ => &self.variables,
        };
        for (variable, text) in values {
            // It says where the configuration is, and is no part of it.
            if *variable == CONFIG {
                continue;
            }
            let setting = SETTINGS.iter().find(|known| known.variable == *variable);
            let place = match rank {
                Rank::Flags => setting.map_or(*variable, |setting| setting.flag),
                _ => *variable,
            };
            let at = key(variable);
            // A password in a URL is not for `explain`.
            let value = match shown(text) == *text {
                true => Value::Word(text.clone()),
                false => Value::Secret(text.as_str().into()),
            };
            layer.set(&at, value)?;
            layer.add_place(at, place);
        }
        if rank == Rank::Flags {
            for (at, value) in &self.sets {
                layer.set(at, Value::Word(value.clone()))?;
                // As keys are known, however the caller writes them.
                layer.add_place(path::join(path::split(at)), SET);
            }
        }
        Ok(layer)
    }

    /// The variables whose values differ.
    pub(crate) fn differences(&self, other: &Self) -> impl Iterator<Item = &'static str> {
        SETTINGS
            .iter()
            .map(|setting| setting.variable)
            .filter(|variable| self.get(variable) != other.get(variable))
    }

    /// The value of a setting, by its variable's name.
    #[must_use]
    pub fn get(&self, variable: &str) -> Option<&str> {
        let said = self.flags.get(variable);
        said.or_else(|| self.variables.get(variable))
            .map(String::as_str)
    }

    /// The value of a setting, read as a `T`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, naming variable and flag, if it cannot be read.
    pub fn parse<T: FromStr>(&self, variable: &str) -> Result<Option<T>>
    where
        T::Err: fmt::Display,
    {
        let Some(value) = self.get(variable) else {
            return Ok(None);
        };
        match value.parse() {
            Ok(value) => Ok(Some(value)),
            Err(err) => {
                let flag = SETTINGS.iter().find(|setting| setting.variable == variable);
                Err(
                    Error::invalid_argument(format!("{variable} cannot be read: {err}"))
                        .with_context("value", value.escape_debug())
                        .with_context("flag", flag.map_or("", |setting| setting.flag)),
                )
            }
        }
    }

    pub(crate) fn duration(&self, variable: &str) -> Result<Option<Duration>> {
        Ok(self.parse::<Span>(variable)?.map(|span| span.0))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.variables.iter().chain(&self.flags);
        f.debug_map()
            .entries(values.map(|(name, text)| (name, shown(text))))
            // Paths only: a value could be a password.
            .entries(self.sets.iter().map(|(at, _)| (SET, at)))
            .finish()
    }
}

/// A value without the passwords in its URLs: several may stand in it, and some that are none.
fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for part in text.split_inclusive(char::is_whitespace) {
        let url = part.trim_end();
        let read = micro_core::Url::parse(url).ok();
        match (read, url.rsplit_once('@')) {
            // Without `//` there is no user in it: this may be a user and a password without a scheme.
            (Some(url), at) if at.is_none() || !url.cannot_be_a_base() => {
                shown += &micro_core::url::redacted(&url);
            }
            (_, Some((_, after))) => shown.extend(["***@", after]),
            (_, None) => shown += url,
        }
        shown += &part[url.len()..];
    }
    shown
}

/// The variable of a key of the configuration's `micro` map.
pub(crate) fn named(name: &str) -> Result<&'static str> {
    let keys = || SETTINGS.iter().map(|setting| setting.variable);
    match keys().find(|known| key(known) == format!("micro.{name}")) {
        Some(CONFIG) => Err(Error::invalid_argument(
            "a source names no sources: MICRO_CONFIG, --config and the program's code do",
        )),
        Some(variable) => Ok(variable),
        None => {
            let variable = format!("MICRO_{}", name.to_uppercase());
            let keys = keys().filter(|known| *known != CONFIG);
            let nearest = nearest(&variable, keys.chain(["MICRO_LIMITS", "MICRO_POLICIES"]));
            Err(Error::invalid_argument(format!(
                "micro knows no such setting; did you mean {}?",
                key(nearest)
            )))
        }
    }
}

/// Refuses a value that cannot be read; a program that runs would find out too late.
pub(crate) fn check(variable: &str, text: &str) -> Result<()> {
    // As if it were not there.
    if text.is_empty() {
        return Ok(());
    }
    match variable {
        "MICRO_CLIENT_TIMEOUT" => match text.parse::<Span>()?.0 {
            Duration::ZERO => Err(Error::invalid_argument("a call's time is more than 0")),
            _ => Ok(()),
        },
        "MICRO_REGISTER_TTL"
        | "MICRO_REGISTER_INTERVAL"
        | "MICRO_STOP_TIMEOUT"
        | "MICRO_CLIENT_WAIT" => text.parse::<Span>().map(drop),
        "MICRO_CLIENT_RETRIES" => match text.parse::<u32>() {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::invalid_argument(
                "retries are a number: 0, 1, 2 and so on",
            )),
        },
        #[cfg(feature = "log")]
        "MICRO_LOG" => crate::log::check(text),
        _ => Ok(()),
    }
}

/// What names the configuration's sources.
const CONFIG: &str = "MICRO_CONFIG";

/// The flag that sets any key.
const SET: &str = "--set";

/// The key of a variable in the configuration: `micro.client_timeout`.
pub(crate) fn key(variable: &str) -> String {
    let name = variable.strip_prefix("MICRO_").unwrap_or(variable);
    format!("micro.{}", name.to_lowercase())
}

fn text(name: &str, value: OsString) -> Result<String> {
    value
        .into_string()
        .map_err(|_| Error::invalid_argument("the value is not UTF-8").with_context("name", name))
}

/// Variables of our tools and tests.
fn is_foreign(name: &str) -> bool {
    [
        "MICRO_TEST_",
        "MICRO_SKIP_LOG",
        "MICRO_REQUIRED",
        "MICRO_MAY_MISS",
        "MICRO_FUZZ_",
        "MICRO_SEED",
        "MICRO_BENCH_",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix))
}

fn unknown(name: &str, known: impl Iterator<Item = &'static str>) -> Error {
    let nearest = nearest(name, known);
    Error::invalid_argument(format!(
        "micro knows no such setting; did you mean {nearest}?"
    ))
    .with_context("name", name.escape_debug())
}

/// The known name with the smallest edit distance.
fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> &'static str {
    known
        .min_by_key(|known| distance(name, known))
        .unwrap_or("")
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_outweigh_variables_and_bad_ones_are_refused() {
        let settings = Settings::from_pairs([("MICRO_REGISTRY", "memory"), ("MICRO_LOG", "")])
            .unwrap()
            .with_args(["--registry", "mdns", "--client-timeout=250ms"])
            .unwrap();
        assert_eq!(settings.get("MICRO_REGISTRY"), Some("mdns"));
        assert_eq!(settings.get("MICRO_LOG"), None);
        assert_eq!(
            settings.duration("MICRO_CLIENT_TIMEOUT").unwrap(),
            Some(Duration::from_millis(250))
        );
        let err = Settings::new()
            .with_args(["--registri=x"])
            .unwrap_err()
            .to_string();
        assert!(err.contains("did you mean --registry?"), "{err}");
        assert!(Settings::new().with_args(["--registry"]).is_err());
        let settings = Settings::from_pairs([("MICRO_CLIENT_RETRIES", "many")]).unwrap();
        let err = settings
            .parse::<u32>("MICRO_CLIENT_RETRIES")
            .unwrap_err()
            .to_string();
        assert!(
            err.contains("MICRO_CLIENT_RETRIES") && err.contains("--client-retries"),
            "{err}"
        );
    }

    #[test]
    fn every_setting_has_a_flag_of_its_own_name() {
        for setting in SETTINGS {
            let flag = setting.variable["MICRO_".len()..]
                .to_lowercase()
                .replace('_', "-");
            assert_eq!(setting.flag, format!("--{flag}"));
        }
    }
}
