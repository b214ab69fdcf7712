//! A client with its backends.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use micro_codec_core::Codec;
use micro_core::{Env, Live, Result};
use micro_registry_core::Registry;
use micro_selector_core::Selector;
use micro_transport_core::{Limits, Middleware, TlsIdentity, Transport};

use crate::backends::{Backends, Wishes};
use crate::{DriverSet, Settings};

/// Makes calls to services by their names.
///
/// It derefs to [`micro_client::Client`], where its methods are; generated clients take either.
///
/// ```no_run
/// # async fn f() -> micro::Result<()> {
/// use micro::{Client, Context};
///
/// let client = Client::from_env().await?;
/// let reply: String = client
///     .call("greeter", "Greeter.Hello", &"Ada")
///     .send(&Context::new())
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client(micro_client::Client);

impl Client {
    /// A client as the `MICRO_…` variables say: the backends this program was built with, and
    /// without any variable multicast DNS, gRPC and power of two choices.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a variable that cannot be read, and whatever opening a backend says.
    pub async fn from_env() -> Result<Self> {
        Self::from_env_with(crate::drivers()).await
    }

    /// [`from_env`](Self::from_env) with drivers of one's own choice.
    ///
    /// # Errors
    ///
    /// As [`from_env`](Self::from_env).
    pub async fn from_env_with(drivers: DriverSet) -> Result<Self> {
        Self::from_settings(Settings::from_env()?, drivers).await
    }

    /// A client as these settings say.
    ///
    /// # Errors
    ///
    /// As [`from_env`](Self::from_env).
    pub async fn from_settings(settings: Settings, drivers: DriverSet) -> Result<Self> {
        Backends::new(settings, drivers, Wishes::default())
            .client()
            .await
    }
}

impl Deref for Client {
    type Target = micro_client::Client;

    fn deref(&self) -> &micro_client::Client {
        &self.0
    }
}

impl From<micro_client::Client> for Client {
    fn from(client: micro_client::Client) -> Self {
        Self(client)
    }
}

impl From<Client> for micro_client::Client {
    fn from(client: Client) -> Self {
        client.0
    }
}
