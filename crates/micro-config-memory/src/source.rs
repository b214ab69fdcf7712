//! The source of this crate.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt as _;
use micro_config_core::{
    Error, ErrorKind, Layer, LayerStream, Live, Rank, Result, Source, Value, async_trait,
};
use micro_core::LiveWriter;
use serde::Serialize;

/// A source whose content the program sets.
#[derive(Clone, Debug)]
pub struct MemorySource {
    name: Arc<str>,
    rank: Rank,
    content: Arc<Content>,
}

#[derive(Debug)]
struct Content {
    writer: LiveWriter<State>,
    live: Live<State>,
    /// Changes are made one after the other, each of what the one before it left.
    changing: Mutex<()>,
}

#[derive(Clone, Debug)]
enum State {
    Good(Layer),
    Bad(ErrorKind, String, Layer),
}

impl State {
    fn layer(&self) -> &Layer {
        match self {
            Self::Good(layer) | Self::Bad(_, _, layer) => layer,
        }
    }

    fn outcome(&self) -> Result<Layer> {
        match self {
            Self::Good(layer) => Ok(layer.clone()),
            Self::Bad(kind, message, _) => Err(Error::new(*kind, message.clone())),
        }
    }
}

impl MemorySource {
    /// A source that says nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let (writer, live) = Live::channel(State::Good(Layer::new()));
        Self {
            name: Arc::from(""),
            rank: Rank::Code,
            content: Arc::new(Content {
                writer,
                live,
                changing: Mutex::new(()),
            }),
        }
    }

    /// Names it in messages.
    #[must_use]
    pub fn with_name(mut self, name: &str) -> Self {
        self.name = Arc::from(name);
        self
    }

    /// Gives it another rank.
    #[must_use]
    pub fn with_rank(mut self, rank: Rank) -> Self {
        self.rank = rank;
        self
    }

    /// Sets one value.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if the path leads through a value that is no map.
    pub fn set(&self, path: &str, value: impl Into<Value>) -> Result<()> {
        self.change(|layer| layer.set(path, value))
    }

    /// Takes one value away, and what is below it.
    pub fn remove(&self, path: &str) {
        let keys = micro_config_core::path::split(path);
        let removed = self.change(|layer| {
            let mut root = Value::Map(layer.root().clone());
            remove(&mut root, &keys);
            *layer = Layer::from_value(root)?;
            Ok(())
        });
        debug_assert!(removed.is_ok(), "a map without a key is a map");
    }

    /// Replaces everything at once.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if it does not serialize to a map.
    pub fn replace<T: Serialize + ?Sized>(&self, all: &T) -> Result<()> {
        let new = Layer::from_value(Value::from_serialize(all)?)?;
        self.replace_layer(new);
        Ok(())
    }

    /// Replaces everything at once by a layer, which may have places, notes and secrets.
    pub fn replace_layer(&self, new: Layer) {
        let _changing = self.changing();
        self.content.writer.set(State::Good(new));
    }

    /// Answers with an error until the next change.
    pub fn fail(&self, kind: ErrorKind, message: impl Into<String>) {
        let _changing = self.changing();
        let layer = self.content.live.get().layer().clone();
        self.content
            .writer
            .set(State::Bad(kind, message.into(), layer));
    }

    fn change(&self, change: impl FnOnce(&mut Layer) -> Result<()>) -> Result<()> {
        let _changing = self.changing();
        let mut layer = self.content.live.get().layer().clone();
        change(&mut layer)?;
        self.content.writer.set(State::Good(layer));
        Ok(())
    }

    fn changing(&self) -> std::sync::MutexGuard<'_, ()> {
        let changing = self.content.changing.lock();
        changing.unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove(value: &mut Value, keys: &[String]) {
    let (Value::Map(map), Some((first, rest))) = (value, keys.split_first()) else {
        return;
    };
    if rest.is_empty() {
        map.remove(first);
    } else if let Some(below) = map.get_mut(first) {
        remove(below, rest);
    }
}

impl Default for MemorySource {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Source for MemorySource {
    fn backend(&self) -> &'static str {
        crate::SCHEME
    }

    fn describe(&self) -> String {
        match &*self.name {
            "" => "memory".to_owned(),
            name => format!("memory {name}"),
        }
    }

    fn rank(&self) -> Rank {
        self.rank
    }

    async fn load(&self) -> Result<Layer> {
        self.content.live.get().outcome()
    }

    async fn watch(&self) -> Result<LayerStream> {
        // First the changes, then the state: a change in between is seen twice, not never.
        let changes = self.content.live.changes();
        let now = self.content.live.get_arc();
        let states = futures_util::stream::once(async { now }).chain(changes);
        Ok(states.map(|state| state.outcome()).boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_set_and_taken_away() {
        let source = MemorySource::new();
        source.set("a.b", 1).unwrap();
        source.set("a.c", "x").unwrap();
        source.remove("a.b");
        source.remove("a.none.x");
        let layer = source.content.live.get().outcome().unwrap();
        assert_eq!(layer.get("a.b"), None);
        assert_eq!(layer.get("a.c"), Some(&Value::from("x")));
        source.fail(ErrorKind::Unavailable, "away");
        assert!(source.content.live.get().outcome().is_err());
        source.set("a.d", 2).unwrap();
        let layer = source.content.live.get().outcome().unwrap();
        assert_eq!(layer.get("a.c"), Some(&Value::from("x")));
    }
}
