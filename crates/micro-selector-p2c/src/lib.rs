#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! `MICRO_SELECTOR=p2c`, or a [`P2cSelector`] handed to the client.
//!
//! # For implementors
//!
//! See `micro_selector_core::Selector`.

mod selector;

use std::sync::Arc;

use micro_core::url::Options;
use micro_selector_core::{Driver, Env, Result, Selector, Url, async_trait};

pub use self::selector::P2cSelector;

/// The URL scheme of this backend.
pub const SCHEME: &str = "p2c";

/// Opens `p2c` URLs.
#[derive(Clone, Copy, Debug, Default)]
pub struct P2cDriver;

#[async_trait]
impl Driver<dyn Selector> for P2cDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, _env: &Env) -> Result<Arc<dyn Selector>> {
        Options::new(url).finish()?;
        Ok(Arc::new(P2cSelector::new()))
    }
}

#[cfg(test)]
mod tests {
    use micro_selector_core::{Drivers, ErrorKind};

    use super::*;

    #[tokio::test]
    async fn it_opens_by_url_and_refuses_options() {
        let drivers = Drivers::<dyn Selector>::new().with(P2cDriver);
        let opened = drivers.open("p2c", &Env::new()).await.unwrap();
        assert_eq!(opened.backend(), SCHEME);
        let err = drivers.open("p2c:?x=1", &Env::new()).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument);
    }
}
