//! What can be chosen about a broker over NATS.

use std::time::Duration;

use micro_broker_core::{Durability, Error, Metadata, Result, Url};
use micro_broker_delivery::envelope;
use micro_core::url::{Options, Span};
use micro_nats::NatsConfig;

/// Longer times are mistakes.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86400);

/// A message's headers take so many bytes at most: metadata, of which each may be written as three, and
/// what the broker adds.
const HEADERS: usize = 3 * Metadata::MAX_BYTES + 4096;

/// Which part of NATS carries messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// JetStream: the server keeps messages until they are handled.
    #[default]
    JetStream,
    /// Core NATS, which go-micro uses: who is not there gets nothing.
    Core,
}

/// Where the server keeps a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Storage {
    /// In files.
    #[default]
    File,
    /// In its memory.
    Memory,
}

impl Storage {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Memory => "memory",
        }
    }
}

/// The settings of a [`NatsBroker`](crate::NatsBroker).
///
/// Those of streams hold for a stream that is made; one that is there stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NatsBrokerConfig {
    /// The servers, and who we are.
    pub server: NatsConfig,
    /// Which part of NATS carries messages. Default JetStream.
    pub mode: Mode,
    /// Where streams are kept. Default in files.
    pub storage: Storage,
    /// On how many servers of a cluster each stream is kept: 1, 3 or 5. Default 1.
    pub replicas: usize,
    /// How large a topic's stream may become, at least 64 KiB. The server sets so much aside. Where messages
    /// that no group has handled take it all, the topic refuses more. Default 128 MiB.
    pub max_bytes: u64,
    /// How old a message may become, at least a second. The server then drops it, handled or not. Default:
    /// messages go when there is no room.
    pub max_age: Option<Duration>,
    /// For how long an id is known, so that a message is not published twice; from 100 ms to `max_age`.
    /// Default 2 min, which is the server's own.
    pub dedup: Duration,
    /// The server's `max_payload`, in bytes: a message with its headers takes no more. From 128 KiB to 64 MiB;
    /// default 1 MiB, which is the server's own.
    pub max_payload: usize,
    /// What messages survive, where that is more than streams by default: the loss of power if the
    /// server's `sync_interval` is `always`. No client can ask for that.
    pub durability: Option<Durability>,
}

impl Default for NatsBrokerConfig {
    fn default() -> Self {
        Self {
            server: NatsConfig::default(),
            mode: Mode::default(),
            storage: Storage::default(),
            replicas: 1,
            max_bytes: 128 << 20,
            max_age: None,
            dedup: Duration::from_secs(120),
            max_payload: 1 << 20,
            durability: None,
        }
    }
}

impl NatsBrokerConfig {
    /// A broker over these servers, with default settings.
    #[must_use]
    pub fn new(server: NatsConfig) -> Self {
        Self {
            server,
            ..Self::default()
        }
    }

    /// Sets [`mode`](Self::mode).
    #[must_use]
    pub fn with_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets [`storage`](Self::storage).
    #[must_use]
    pub fn with_storage(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// Sets [`replicas`](Self::replicas).
    #[must_use]
    pub fn with_replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// Sets [`max_bytes`](Self::max_bytes).
    #[must_use]
    pub fn with_max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets [`max_age`](Self::max_age).
    #[must_use]
    pub fn with_max_age(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.max_age = age.into();
        self
    }

    /// Sets [`dedup`](Self::dedup).
    #[must_use]
    pub fn with_dedup(mut self, window: Duration) -> Self {
        self.dedup = window;
        self
    }

    /// Sets [`max_payload`](Self::max_payload).
    #[must_use]
    pub fn with_max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = bytes;
        self
    }

    /// Sets [`durability`](Self::durability).
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// Reads a URL: `nats://user:password@host:4222?max_bytes=1000000`; the README names the options.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an unknown option, a value that cannot be read, or what does not go
    /// together.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let mut config = Self::new(NatsConfig::take(url, &mut options)?);
        if let Some(mode) = options.take::<String>("mode")? {
            config.mode = match &*mode {
                "jetstream" => Mode::JetStream,
                "core" => Mode::Core,
                _ => return Err(invalid("mode is 'jetstream' or 'core'")),
            };
        }
        if let Some(storage) = options.take::<String>("storage")? {
            config.storage = match &*storage {
                "file" => Storage::File,
                "memory" => Storage::Memory,
                _ => return Err(invalid("storage is 'file' or 'memory'")),
            };
        }
        if let Some(replicas) = options.take("replicas")? {
            config.replicas = replicas;
        }
        if let Some(bytes) = options.take("max_bytes")? {
            config.max_bytes = bytes;
        }
        config.max_age = options.take("max_age")?.map(|Span(age)| age);
        if let Some(Span(dedup)) = options.take("dedup")? {
            config.dedup = dedup;
        }
        if let Some(bytes) = options.take("max_payload")? {
            config.max_payload = bytes;
        }
        if let Some(durability) = options.take::<String>("durability")? {
            config.durability = Some(match &*durability {
                "memory" => Durability::Memory,
                "process" => Durability::Process,
                "power" => Durability::Power,
                "quorum" => Durability::Quorum,
                _ => {
                    return Err(invalid(
                        "durability is 'memory', 'process', 'power' or 'quorum'",
                    ));
                }
            });
        }
        options.finish()?;
        config.check()?;
        Ok(config)
    }

    /// Checks what fields alone cannot say.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, saying what is allowed.
    pub fn check(&self) -> Result<()> {
        if !matches!(self.replicas, 1 | 3 | 5) {
            return Err(invalid("replicas is 1, 3 or 5"));
        }
        if !(64 << 10..=1 << 50).contains(&self.max_bytes) {
            return Err(invalid("max_bytes is at least 65536"));
        }
        let age = self.max_age.unwrap_or(LONGEST);
        if !(Duration::from_secs(1)..=LONGEST).contains(&age) {
            return Err(invalid("max_age lies between a second and ten years"));
        }
        if self.dedup < Duration::from_millis(100) || self.dedup > age {
            return Err(invalid("dedup lies between 100ms and max_age"));
        }
        if !(128 << 10..=64 << 20).contains(&self.max_payload) {
            return Err(invalid("max_payload lies between 128 KiB and 64 MiB"));
        }
        if let Some(durability) = self.durability {
            let most = match (self.mode, self.storage, self.replicas) {
                (Mode::Core, ..) | (_, Storage::Memory, 1) => Durability::Memory,
                (_, _, 1) => Durability::Power,
                _ => Durability::Quorum,
            };
            if durability > most {
                return Err(invalid(
                    "durability is more than this can give: 'power' needs files, 'quorum' needs replicas",
                ));
            }
        }
        self.server.check()
    }

    /// What messages survive. Two servers may be killed one after the other, but where the power of all
    /// fails, what they have not synchronized is lost.
    pub(crate) fn survives(&self) -> Durability {
        self.durability.unwrap_or(match (self.mode, self.storage) {
            (Mode::JetStream, Storage::File) => Durability::Process,
            _ => Durability::Memory,
        })
    }

    /// The largest body that fits, whatever the headers.
    pub(crate) fn max_body(&self) -> usize {
        match self.mode {
            Mode::JetStream => self.max_payload.saturating_sub(HEADERS),
            Mode::Core => self.max_payload.saturating_sub(envelope::max_len(0)) / 4 * 3,
        }
    }
}

pub(crate) fn invalid(message: &'static str) -> Error {
    Error::invalid_argument(message).with_operation("broker.open")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<NatsBrokerConfig> {
        NatsBrokerConfig::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn the_url_says_it_all_and_debug_does_not() {
        assert_eq!(config("nats").unwrap(), NatsBrokerConfig::default());
        let url = "nats://me:hunter2@h?mode=jetstream&storage=memory&replicas=3&max_bytes=100000&max_age=1h&dedup=5s&max_payload=2000000&durability=quorum";
        let config = config(url).unwrap();
        assert_eq!(config.server.endpoints, ["h:4222"]);
        let expected = NatsBrokerConfig::new(config.server.clone())
            .with_storage(Storage::Memory)
            .with_replicas(3)
            .with_max_bytes(100_000)
            .with_max_age(Duration::from_secs(3600))
            .with_dedup(Duration::from_secs(5))
            .with_max_payload(2_000_000)
            .with_durability(Durability::Quorum);
        assert_eq!(config, expected);
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for options in [
            "mode=redis",
            "storage=tape",
            "replicas=2",
            "max_bytes=1",
            "max_age=1ms",
            "max_age=200000h",
            "dedup=1ms",
            "max_age=1m&dedup=2m",
            "max_payload=1",
            "durability=quorum",
            "durability=power&mode=core",
            "durability=process&storage=memory",
            "retian=1s",
        ] {
            assert!(config(&format!("nats://h?{options}")).is_err(), "{options}");
        }
    }

    #[test]
    fn the_largest_body_fits_with_its_headers() {
        for mode in [Mode::JetStream, Mode::Core] {
            for max_payload in [128 << 10, 1 << 20, 64 << 20] {
                let config = NatsBrokerConfig::default()
                    .with_mode(mode)
                    .with_max_payload(max_payload);
                let body = config.max_body();
                let taken = match mode {
                    Mode::JetStream => body + HEADERS,
                    Mode::Core => envelope::max_len(body),
                };
                assert!(taken <= max_payload, "{mode:?}: {taken} of {max_payload}");
            }
        }
    }
}
