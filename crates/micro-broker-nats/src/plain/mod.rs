//! Core NATS, with go-micro's JSON: who is there gets a message, and keeps it in memory until it is handled.

mod later;
mod member;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use micro_broker_core::{Context, ErrorKind, Message, Result, wire_name};
use micro_broker_delivery::envelope;
use micro_core::Env;
use micro_nats::async_nats::Client;
use micro_nats::{Connection, publish_failed};
use tokio::time::Instant;

pub(crate) use self::member::subscribe;
use crate::call::Call;
use crate::names::Names;

/// So many subjects are remembered that we may publish to.
const MOST_PERMITTED: usize = 16_384;

/// The subjects of a namespace.
#[derive(Debug)]
pub(crate) struct Plain {
    connection: Connection,
    names: Names,
    env: Env,
    permitted: Mutex<HashSet<String>>,
}

impl Plain {
    pub(crate) fn new(connection: Connection, names: Names, env: &Env) -> Self {
        Self {
            connection,
            names,
            env: env.clone(),
            permitted: Mutex::default(),
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.connection.config().timeout
    }

    /// Publishes a message, and waits until the server has it.
    ///
    /// # Errors
    ///
    /// Those of [`micro_broker_core::Broker::publish`].
    pub(crate) async fn publish(self: &Arc<Self>, cx: &Context, message: &Message) -> Result<()> {
        let call = Call::new(cx, self.connection.config().timeout);
        let work = async {
            let topic = wire_name(self.env.namespace(), &message.topic);
            let payload = envelope::encode(message, &topic);
            let subject = self.names.plain(&message.topic);
            let client = self.connection.client(call.deadline).await?;
            let sent = self.send(&client, subject, payload.into(), &call);
            sent.await
        };
        call.run(cx, work).await
    }

    async fn send(
        &self,
        client: &Client,
        subject: String,
        payload: Bytes,
        call: &Call,
    ) -> Result<()> {
        // The server complains about what it does not permit, but to another task, a little later.
        let careful = !self.permitted().contains(&subject);
        let denials = self.connection.denials();
        call.set_sent(true);
        let publishing = client.publish(subject.clone(), payload);
        publishing.await.map_err(|err| {
            call.set_sent(false);
            publish_failed(err)
        })?;
        let confirmed = self
            .connection
            .confirm(client, denials, careful, call.deadline);
        confirmed.await.inspect_err(|err| {
            if err.kind() == ErrorKind::PermissionDenied {
                call.set_sent(false);
            }
        })?;
        if careful {
            let mut permitted = self.permitted();
            if permitted.len() >= MOST_PERMITTED {
                permitted.clear();
            }
            permitted.insert(subject);
        }
        Ok(())
    }

    fn permitted(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.permitted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
