//! The stacks that take turns. A new one is a module here, an [`Echo`] and a line in [`STACKS`].

mod hyper;
#[cfg(feature = "micro")]
mod micro;
mod mux;
mod stream;
#[cfg(feature = "tarpc")]
mod tarpc;
mod tonic;

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

use crate::cost::{Cost, Side};
use crate::load::Turn;
use crate::options::names;
use crate::{Result, process};

/// A stack: an echo server, and a client for it in another process.
pub(crate) trait Echo: 'static {
    const NAME: &'static str;
    const ABOUT: &'static str;

    type Client: Client;

    /// Serves in the background of this runtime.
    fn serve() -> impl Future<Output = Result<Serving>> + Send;

    /// Connects to the server of that word, and returns when a call would go out at once.
    fn connect(target: &str) -> impl Future<Output = Result<Self::Client>> + Send;
}

/// A server that is running.
pub(crate) struct Serving {
    /// One word by which a client finds it.
    target: String,
    /// Run when it is no longer needed, and holding what must live until then.
    end: Pin<Box<dyn Future<Output = Result<()>> + Send>>,
}

impl Serving {
    /// At an address, with nothing to do at the end.
    fn at(address: SocketAddr) -> Self {
        Self {
            target: address.to_string(),
            end: Box::pin(async { Ok(()) }),
        }
    }
}

/// A connected client. Each caller has its own clone; all clones share their connections.
pub(crate) trait Client: Clone + Send + Sync + 'static {
    /// One call, made as an application would make it, with all that the stack has of [`METADATA`]
    /// and [`TIMEOUT`].
    fn call(&mut self, payload: Bytes) -> impl Future<Output = Result<Bytes>> + Send;
}

/// The deadline of each call, on stacks that know deadlines.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// What each call carries beside its payload, on stacks that know metadata: of the sizes that
/// services send. Every stack makes its set once and gives each call a clone, which is the cheapest
/// that each of them offers: one that built it anew for each call would be compared unfairly.
pub(crate) const METADATA: [(&str, &str); 8] = [
    ("x-request-id", "6f1c2a52-9b0e-4e0b-8f7d-3d8a1c5e9b40"),
    ("x-tenant", "acme-production"),
    ("x-user", "user-1048576"),
    ("x-session", "s-7f3b9c2e4d5a6b1c"),
    ("x-region", "eu-central-1"),
    ("x-version", "2026.11.25-1"),
    ("x-feature", "checkout-v2,search-b"),
    (
        "traceparent",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
];

/// A row of the table of stacks.
pub(crate) struct Stack {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    serve: fn(usize) -> Result<()>,
    load: fn(&str, usize) -> Result<()>,
}

/// All of them, the limit first.
pub(crate) const STACKS: &[Stack] = &[
    row::<mux::Mux>(),
    row::<hyper::Hyper>(),
    row::<tonic::Tonic<1>>(),
    row::<tonic::Tonic<2>>(),
    row::<stream::Stream>(),
    #[cfg(feature = "tarpc")]
    row::<tarpc::Tarpc>(),
    #[cfg(feature = "micro")]
    row::<micro::Micro<true, false>>(),
    #[cfg(feature = "micro")]
    row::<micro::Micro<false, false>>(),
    #[cfg(feature = "micro")]
    row::<micro::Micro<true, true>>(),
];

const fn row<E: Echo>() -> Stack {
    Stack {
        name: E::NAME,
        about: E::ABOUT,
        serve: serve_echo::<E>,
        load: load_echo::<E>,
    }
}

/// # Errors
///
/// If there is no such stack; the message names those there are.
pub(crate) fn find(name: &str) -> Result<&'static Stack> {
    STACKS
        .iter()
        .find(|stack| stack.name == name)
        .ok_or_else(|| {
            let known = names(STACKS.iter().map(|stack| stack.name));
            format!("no stack {name:?}. There are: {known}").into()
        })
}

/// Is the server of a stack, until the parent goes.
pub(crate) fn serve(stack: &str, threads: usize) -> Result<()> {
    (find(stack)?.serve)(threads)
}

/// Is the client of a stack, until the parent goes.
pub(crate) fn load(stack: &str, target: &str, threads: usize) -> Result<()> {
    (find(stack)?.load)(target, threads)
}

fn serve_echo<E: Echo>(threads: usize) -> Result<()> {
    process::live(Side::Server, threads, async {
        let serving = match E::serve().await {
            Ok(serving) => serving,
            Err(error) => return process::tell(Err(error)),
        };
        process::tell(Ok(format!("target={}", serving.target)))?;
        let mut commands = process::commands();
        while let Some(command) = commands.recv().await {
            process::tell(match command.as_str() {
                "cost" => Ok(process::cost_fields(Cost::so_far())),
                other => Err(format!("a server does not know {other:?}").into()),
            })?;
        }
        serving.end.await
    })
}

fn load_echo<E: Echo>(target: &str, threads: usize) -> Result<()> {
    process::live(Side::Client, threads, async {
        let client = match E::connect(target).await {
            Ok(client) => client,
            Err(error) => return process::tell(Err(error)),
        };
        process::tell(Ok(String::new()))?;
        let mut commands = process::commands();
        while let Some(command) = commands.recv().await {
            let outcome = match Turn::parse(&command) {
                Ok(turn) => turn.run(&client).await,
                Err(error) => Err(error),
            };
            process::tell(outcome.map(|outcome| outcome.fields()))?;
        }
        Ok(())
    })
}
