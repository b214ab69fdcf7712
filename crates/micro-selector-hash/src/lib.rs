#![doc = include_str!("../README.md")]
//!
//! # For users
//!
//! `MICRO_SELECTOR=hash` or `hash:?bound=1.25`, or a [`HashSelector`] handed to the client.
//!
//! # For implementors
//!
//! See `micro_selector_core::Selector`.

mod selector;

use std::sync::Arc;

use micro_core::url::Options;
use micro_selector_core::{Driver, Env, Result, Selector, Url, async_trait};

pub use self::selector::HashSelector;

/// The URL scheme of this backend.
pub const SCHEME: &str = "hash";

/// Opens `hash` URLs; the option `bound` is that of [`HashSelector::with_bound`], the others are those
/// of `micro_selector_core::Balance::or_url`.
#[derive(Clone, Copy, Debug, Default)]
pub struct HashDriver;

#[async_trait]
impl Driver<dyn Selector> for HashDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, _env: &Env) -> Result<Arc<dyn Selector>> {
        let mut options = Options::new(url);
        let bound = options.take::<f64>("bound")?;
        let selector = HashSelector::new();
        // The zone only if the URL says so: by itself, it would change where every key belongs.
        let balance = selector.balance().clone().or_url(&mut options)?;
        options.finish()?;
        let selector = selector.with_balance(balance);
        Ok(Arc::new(match bound {
            Some(bound) => selector.with_bound(bound)?,
            None => selector,
        }))
    }
}

#[cfg(test)]
mod tests {
    use micro_selector_core::{Drivers, ErrorKind};

    use super::*;

    #[tokio::test]
    async fn it_opens_by_url_and_refuses_what_it_does_not_know() {
        let drivers = Drivers::<dyn Selector>::new().with(HashDriver);
        for url in ["hash", "hash:?bound=1.25"] {
            let opened = drivers.open(url, &Env::new()).await.unwrap();
            assert_eq!(opened.backend(), SCHEME);
        }
        for url in [
            "hash:?x=1",
            "hash:?bound=1",
            "hash:?bound=NaN",
            "hash:?bound=inf",
            "hash:?bound=x",
        ] {
            let err = drivers.open(url, &Env::new()).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}");
        }
    }
}
