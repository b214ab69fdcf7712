//! A readable log for programs that install none.

use std::io::IsTerminal as _;

use micro_core::{Error, Live, Result};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::section::Section;

/// The log that `run` has installed.
pub(crate) struct Log(reload::Handle<EnvFilter, Registry>);

/// Ends the following when it is dropped.
pub(crate) struct Follows(tokio::task::AbortHandle);

/// Installs a subscriber that writes to standard error, unless the program has one.
pub(crate) fn install(filter: Option<&str>) -> Option<Log> {
    let filter = EnvFilter::try_new(filter.unwrap_or(DEFAULT));
    let filter = filter.unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer()
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Fails if there is a subscriber already, and then that one is right.
    let installed = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init();
    installed.is_ok().then_some(Log(handle))
}

const DEFAULT: &str = "info";

/// Refuses a filter that cannot be read.
pub(crate) fn check(filter: &str) -> Result<()> {
    EnvFilter::try_new(filter).map(drop).map_err(|err| {
        Error::invalid_argument(format!(
            "what is logged is a level (info) or tracing's list (info,h2=warn): {err}"
        ))
    })
}

impl Log {
    /// Follows what the configuration says.
    pub(crate) fn follow(self, section: &Live<Section>) -> Follows {
        let mut changes = section.changes();
        let set = move |section: &Section| {
            let filter = section.settings.get("MICRO_LOG").unwrap_or(DEFAULT);
            // The view was checked, so that it can be read.
            if let Ok(filter) = EnvFilter::try_new(filter) {
                let _ = self.0.reload(filter);
            }
        };
        set(&section.get());
        let task = tokio::spawn(async move {
            loop {
                set(&*changes.changed().await);
            }
        });
        Follows(task.abort_handle())
    }
}

impl Drop for Follows {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;
    use tracing::Level;

    fn section(level: &str) -> Section {
        let settings = Settings::from_pairs([("MICRO_LOG", level)]).unwrap();
        Section {
            settings,
            ..Section::default()
        }
    }

    #[tokio::test]
    async fn what_is_logged_follows_the_configuration() {
        let (filter, handle) = reload::Layer::new(EnvFilter::new(DEFAULT));
        let enabled = || {
            handle
                .with_current(|filter| filter.max_level_hint())
                .unwrap()
        };
        let log = Log(handle.clone());
        let _subscriber = tracing_subscriber::registry().with(filter);
        let (writer, live) = Live::channel(section("warn"));
        let follows = log.follow(&live);
        assert_eq!(enabled(), Some(Level::WARN.into()));
        writer.set(section("debug"));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(enabled(), Some(Level::DEBUG.into()));
        drop(follows);
        assert!(check("info,h2=warn").is_ok());
        assert!(check("info,=loud=").is_err());
    }
}
