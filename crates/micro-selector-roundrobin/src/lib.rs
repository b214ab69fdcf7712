#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! `MICRO_SELECTOR=roundrobin`, or a [`RoundRobinSelector`] handed to the client.
//!
//! # For implementors
//!
//! See `micro_selector_core::Selector`.

mod selector;

use std::sync::Arc;

use micro_core::url::Options;
use micro_selector_core::{Balance, Driver, Env, Result, Selector, Url, async_trait};

pub use self::selector::RoundRobinSelector;

/// The URL scheme of this backend.
pub const SCHEME: &str = "roundrobin";

/// Opens `roundrobin` URLs; the options are those of `micro_selector_core::Balance::or_url`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundRobinDriver;

#[async_trait]
impl Driver<dyn Selector> for RoundRobinDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Selector>> {
        let mut options = Options::new(url);
        let balance = Balance::new().or_url(&mut options)?.or_env(env);
        options.finish()?;
        Ok(Arc::new(RoundRobinSelector::new().with_balance(balance)))
    }
}

#[cfg(test)]
mod tests {
    use micro_selector_core::{Drivers, ErrorKind};

    use super::*;

    #[tokio::test]
    async fn it_opens_by_url_and_refuses_what_it_does_not_know() {
        let drivers = Drivers::<dyn Selector>::new().with(RoundRobinDriver);
        let opened = drivers.open("roundrobin", &Env::new()).await.unwrap();
        assert_eq!(opened.backend(), SCHEME);
        let url = "roundrobin:?subset=20&slow_start=5s";
        let opened = drivers.open(url, &Env::new()).await.unwrap();
        assert_eq!(opened.balance().subset, 20);
        let err = drivers
            .open("roundrobin:?x=1", &Env::new())
            .await
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument);
    }
}
