#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! `MICRO_SELECTOR=random`, or a [`RandomSelector`] handed to the client.
//!
//! # For implementors
//!
//! See `micro_selector_core::Selector`.

mod selector;

use std::sync::Arc;

use micro_core::url::Options;
use micro_selector_core::{Driver, Env, Result, Selector, Url, async_trait};

pub use self::selector::RandomSelector;

/// The URL scheme of this backend.
pub const SCHEME: &str = "random";

/// Opens `random` URLs.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomDriver;

#[async_trait]
impl Driver<dyn Selector> for RandomDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, _env: &Env) -> Result<Arc<dyn Selector>> {
        Options::new(url).finish()?;
        Ok(Arc::new(RandomSelector::new()))
    }
}

#[cfg(test)]
mod tests {
    use micro_selector_core::{Drivers, ErrorKind};

    use super::*;

    #[tokio::test]
    async fn it_opens_by_url_and_refuses_options() {
        let drivers = Drivers::<dyn Selector>::new().with(RandomDriver);
        let opened = drivers.open("random", &Env::new()).await.unwrap();
        assert_eq!(opened.backend(), SCHEME);
        let err = drivers.open("random:?x=1", &Env::new()).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument);
    }
}
