//! Opening multicast DNS by URL.

use std::sync::Arc;

use micro_registry_core::{Driver, Env, Registry, Result, Url, async_trait};

use crate::{MdnsConfig, MdnsRegistry, SCHEME};

/// Opens `mdns:` URLs.
#[derive(Clone, Copy, Debug, Default)]
pub struct MdnsDriver;

#[async_trait]
impl Driver<dyn Registry> for MdnsDriver {
    fn schemes(&self) -> &'static [&'static str] {
        &[SCHEME]
    }

    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<dyn Registry>> {
        let config = MdnsConfig::from_url(url)?;
        Ok(Arc::new(MdnsRegistry::open(config, env)?))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use micro_registry_core::{Drivers, ErrorKind};

    use super::*;

    #[tokio::test]
    async fn what_is_misspelt_or_out_of_range_is_refused() {
        let drivers = Drivers::<dyn Registry>::new().with(MdnsDriver);
        for url in [
            "mdns:?interfaces=lo",
            "mdns://host",
            "mdns:lo",
            "mdns:?port=0",
            "mdns:?port=70000",
            "mdns:?ttl=0s",
            "mdns:?ttl=2h",
            "mdns:?lookup=2m",
            "mdns:?interface=",
        ] {
            let err = drivers.open(url, &Env::new()).await.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{url}: {err}");
        }
        let long = Env::new().with_namespace(&"n".repeat(300));
        assert!(drivers.open("mdns", &long).await.is_err());
    }

    #[test]
    fn a_url_says_everything() {
        let url = "mdns:?interface=lo&interface=eth0&port=5454&ttl=5s&lookup=200ms";
        let config = MdnsConfig::from_url(&micro_core::url::resolve(url).unwrap()).unwrap();
        let expected = MdnsConfig::default()
            .with_interface("lo")
            .with_interface("eth0")
            .with_port(5454)
            .with_ttl(Duration::from_secs(5))
            .with_lookup(Duration::from_millis(200));
        assert_eq!(config, expected);
    }
}
