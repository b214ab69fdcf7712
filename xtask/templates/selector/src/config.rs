//! What the URL says.

use std::time::Duration;

use micro_core::url::Options;
use micro_selector_core::{Balance, Env, Result, Url};

/// How to pick.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct {{Type}}Config {
    /// A node with this many calls in flight is taken only if every other one has as many.
    pub max_in_flight: Option<u32>,
    /// What surrounds the strategy: zone, subset, ejection.
    pub balance: Balance,
}

impl Default for {{Type}}Config {
    fn default() -> Self {
        Self {
            max_in_flight: None,
            // The strategy takes no part in the slow start (`NodeState::ramp`).
            balance: Balance::new().with_slow_start(Duration::ZERO),
        }
    }
}

impl {{Type}}Config {
    /// Reads `{{backend}}:?max-in-flight=100`, the options of [`Balance::or_url`] besides, and the
    /// zone that the program runs in.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown, given twice or not readable.
    pub fn from_url(url: &Url, env: &Env) -> Result<Self> {
        let mut options = Options::new(url);
        let config = Self {
            max_in_flight: options.take("max-in-flight")?,
            balance: Self::default().balance.or_url(&mut options)?.or_env(env),
        };
        options.finish()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<{{Type}}Config> {
        {{Type}}Config::from_url(&micro_core::url::resolve(url)?, &Env::new())
    }

    #[test]
    fn options_are_read_and_others_refused() {
        assert_eq!(config("{{backend}}").unwrap(), {{Type}}Config::default());
        let some = config("{{backend}}:?max-in-flight=7").unwrap();
        assert_eq!(some.max_in_flight, Some(7));
        assert_eq!(config("{{backend}}:?subset=9").unwrap().balance.subset, 9);
        assert!(config("{{backend}}:?max-in-fligth=7").is_err());
    }
}
