//! Opening a backend by URL.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::{Env, Error, Result, Url};

/// Opens implementations of the interface `I` from a URL.
///
/// One type may be a driver for several interfaces: `impl Driver<dyn Registry>` and
/// `impl Driver<dyn Store>` for the same `EtcdDriver`. Put `#[async_trait]` on each impl, as each
/// core re-exports it.
#[async_trait]
pub trait Driver<I: ?Sized + Send + Sync + 'static>: fmt::Debug + Send + Sync + 'static {
    /// The URL schemes that this driver answers to, in lower case.
    fn schemes(&self) -> &'static [&'static str];

    /// Opens the backend that the URL names.
    ///
    /// The URL has been through [`url::resolve`](crate::url::resolve). A driver refuses options it
    /// does not know ([`url::Options`](crate::url::Options)), and never prints the password.
    ///
    /// Opening does not need the server to be there: a backend connects when it is first used, so
    /// that a program starts while its registry is away. It is called within a tokio runtime, and
    /// so are the backend's methods.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a URL that cannot be read; what is wrong with the server is for the
    /// methods to say.
    async fn open(&self, url: &Url, env: &Env) -> Result<Arc<I>>;
}

/// The drivers a program chose, by URL scheme.
///
/// This is a value, not a global: two of them in one process do not meet.
/// The backends that come with `micro` are added with the same [`with`](Self::with) as a stranger's.
pub struct Drivers<I: ?Sized> {
    by_scheme: BTreeMap<&'static str, Arc<dyn Driver<I>>>,
    features: BTreeMap<&'static str, &'static str>,
}

impl<I: ?Sized + Send + Sync + 'static> Drivers<I> {
    /// No drivers at all.
    #[must_use]
    pub fn new() -> Self {
        Self {
            by_scheme: BTreeMap::new(),
            features: BTreeMap::new(),
        }
    }

    /// Adds a driver; for a scheme already taken, the last one wins.
    #[must_use]
    pub fn with(mut self, driver: impl Driver<I>) -> Self {
        let driver: Arc<dyn Driver<I>> = Arc::new(driver);
        for scheme in driver.schemes() {
            self.by_scheme.insert(scheme, Arc::clone(&driver));
        }
        self
    }

    /// Says which cargo feature would add the driver for `scheme`: for the facade, so that the
    /// error for a backend that is known but not compiled in names the cure.
    #[must_use]
    pub fn with_feature(mut self, scheme: &'static str, feature: &'static str) -> Self {
        self.features.insert(scheme, feature);
        self
    }

    /// The schemes there are, sorted.
    pub fn schemes(&self) -> impl Iterator<Item = &'static str> {
        self.by_scheme.keys().copied()
    }

    /// Opens the backend that `url` names; see [`url::resolve`](crate::url::resolve) for what it may look like.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a URL that cannot be read, `Unimplemented` if no driver answers to its
    /// scheme (the error lists those there are and the feature to add), and whatever the driver says.
    pub async fn open(&self, url: &str, env: &Env) -> Result<Arc<I>> {
        let url = crate::url::resolve(url)?;
        if let Some(driver) = self.by_scheme.get(url.scheme()) {
            return driver.open(&url, env).await;
        }
        let err = match self.features.get(url.scheme()) {
            Some(feature) => Error::unimplemented(format!(
                "this program was built without the backend for '{scheme}': add the cargo feature \"{feature}\" to micro",
                scheme = url.scheme(),
            ))
            .with_context("feature", feature),
            None => Error::unimplemented(format!(
                "there is no backend for '{}': a backend of one's own is added to the drivers, as in micro::drivers().with(..)",
                url.scheme()
            )),
        };
        Err(err
            .with_operation("drivers.open")
            .with_context("scheme", url.scheme())
            .with_context("available", self.schemes().collect::<Vec<_>>().join(" ")))
    }
}

impl<I: ?Sized + Send + Sync + 'static> Default for Drivers<I> {
    fn default() -> Self {
        Self::new()
    }
}

impl<I: ?Sized> Clone for Drivers<I> {
    fn clone(&self) -> Self {
        Self {
            by_scheme: self.by_scheme.clone(),
            features: self.features.clone(),
        }
    }
}

impl<I: ?Sized> fmt::Debug for Drivers<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.by_scheme.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::ErrorKind;

    trait Named: fmt::Debug + Send + Sync + 'static {
        fn name(&self) -> String;
    }

    #[derive(Debug)]
    struct Opened(String);

    impl Named for Opened {
        fn name(&self) -> String {
            self.0.clone()
        }
    }

    #[derive(Debug)]
    struct First;

    #[async_trait]
    impl Driver<dyn Named> for First {
        fn schemes(&self) -> &'static [&'static str] {
            &["one", "uno"]
        }

        async fn open(&self, url: &Url, _env: &Env) -> Result<Arc<dyn Named>> {
            Ok(Arc::new(Opened(url.to_string())))
        }
    }

    fn open(drivers: &Drivers<dyn Named>, url: &str) -> Result<Arc<dyn Named>> {
        let env = Env::new();
        let future = pin!(drivers.open(url, &env));
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(opened) => opened,
            Poll::Pending => panic!("the driver does not wait"),
        }
    }

    #[test]
    fn the_scheme_chooses_the_driver() {
        let drivers = Drivers::new().with(First);
        assert_eq!(open(&drivers, "uno://x:1/y").unwrap().name(), "uno://x:1/y");
        assert_eq!(open(&drivers, "one").unwrap().name(), "one:");
    }

    #[test]
    fn an_unknown_scheme_says_what_there_is_and_what_to_add() {
        let drivers = Drivers::new()
            .with(First)
            .with_feature("etcd", "registry-etcd");
        let err = open(&drivers, "etcd://10.0.0.5:2379").unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unimplemented);
        let text = err.to_string();
        assert!(
            text.contains("\"registry-etcd\"") && text.contains("one uno"),
            "{text}"
        );
        let err = open(&drivers, "two:").unwrap_err().to_string();
        assert!(
            err.contains("no backend for 'two'") && err.contains("one uno"),
            "{err}"
        );
    }
}
