//! The trait of this crate.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;

use crate::{Layer, Result, async_trait};

/// What a source says, now and after each change; dropping the stream ends the watch.
pub type LayerStream = Pin<Box<dyn Stream<Item = Result<Layer>> + Send + 'static>>;

/// How strong a source is: a higher rank wins. Within a rank the source added later wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rank {
    /// What holds if nobody says anything.
    Defaults,
    /// What the program's code says.
    Code,
    /// A file or a directory.
    File,
    /// A server: etcd, NATS.
    Remote,
    /// The environment of the process.
    Env,
    /// The command line.
    Flags,
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Defaults => "defaults",
            Self::Code => "code",
            Self::File => "file",
            Self::Remote => "remote",
            Self::Env => "env",
            Self::Flags => "flags",
        })
    }
}

/// A place where configuration stands.
///
/// It is read as a whole: a [`Layer`] is everything that the source says at one moment, never a
/// part of it, so that nobody sees half a change. Futures and streams may be dropped at any await
/// point. Put `#[async_trait]` on the impl. Methods are called within a tokio runtime.
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// The backend's name, as in its URL scheme: `"env"`, `"file"`.
    fn backend(&self) -> &'static str;

    /// What to call this source in messages: `file /etc/app.toml`. It has no secret in it.
    fn describe(&self) -> String;

    /// How strong it is by its nature; the program may give it another rank.
    fn rank(&self) -> Rank;

    /// Reads all of it.
    ///
    /// # Errors
    ///
    /// `NotFound` if it is not there, `Unavailable` or `DeadlineExceeded` if it cannot be reached:
    /// these are asked again. `PermissionDenied`, `Unauthenticated`. For content that cannot be
    /// taken over, `InvalidArgument` or `ResourceExhausted` (too large) naming the place and the
    /// key, and never a value.
    async fn load(&self) -> Result<Layer>;

    /// Reports what it says now, and again after each change.
    ///
    /// The first item is the present state, so that nothing is lost between a
    /// [`load`](Self::load) and the watch. Changes may be taken together: the last item is always
    /// the newest state. An error item says that the present state is not there or not fit, as
    /// from `load`; the stream goes on, and an item follows when that changes. A stream that ends
    /// cannot tell of changes any more: it is opened again. A source that never changes gives one
    /// item and stays pending.
    ///
    /// # Errors
    ///
    /// `Unavailable` if it cannot be watched just now: it is asked again later.
    async fn watch(&self) -> Result<LayerStream>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Source + ?Sized> Source for Arc<S> {
    fn backend(&self) -> &'static str {
        (**self).backend()
    }

    fn describe(&self) -> String {
        (**self).describe()
    }

    fn rank(&self) -> Rank {
        (**self).rank()
    }

    async fn load(&self) -> Result<Layer> {
        (**self).load().await
    }

    async fn watch(&self) -> Result<LayerStream> {
        (**self).watch().await
    }
}

// `Source` must stay usable as a trait object.
const _: fn(&dyn Source) = |_| ();

/// The stream of a source that never changes: its one state, and then nothing.
#[must_use]
pub fn constant(layer: Layer) -> LayerStream {
    use futures_util::StreamExt as _;
    futures_util::stream::once(async { Ok(layer) })
        .chain(futures_util::stream::pending())
        .boxed()
}
