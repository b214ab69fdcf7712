//! What the URL says.

use micro_core::url::Options;
use micro_selector_core::{Result, Url};

/// How to pick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct {{Type}}Config {
    /// A node with this many calls in flight is taken only if every other one has as many.
    pub max_in_flight: Option<u32>,
}

impl {{Type}}Config {
    /// Reads `{{backend}}:?max-in-flight=100`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an option that is unknown, given twice or not readable.
    pub fn from_url(url: &Url) -> Result<Self> {
        let mut options = Options::new(url);
        let config = Self {
            max_in_flight: options.take("max-in-flight")?,
        };
        options.finish()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<{{Type}}Config> {
        {{Type}}Config::from_url(&micro_core::url::resolve(url)?)
    }

    #[test]
    fn options_are_read_and_others_refused() {
        assert_eq!(config("{{backend}}").unwrap(), {{Type}}Config::default());
        let some = config("{{backend}}:?max-in-flight=7").unwrap();
        assert_eq!(some.max_in_flight, Some(7));
        assert!(config("{{backend}}:?max-in-fligth=7").is_err());
    }
}
