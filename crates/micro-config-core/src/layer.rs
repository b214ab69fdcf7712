//! What a source holds at one moment.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use micro_core::{Error, Result};

use crate::{Map, Value, path};

/// Everything a source says at one moment: it is always whole.
///
/// Two layers are equal if their values are.
#[derive(Clone, Default)]
pub struct Layer {
    root: Map,
    /// Where a key stands within the source: `line 3`, `variable APP_PORT`.
    places: BTreeMap<String, Arc<str>>,
    note: Option<Arc<str>>,
}

impl Layer {
    /// A layer that says nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A layer of these values.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if the value is not a map; nothing is an empty map.
    pub fn from_value(value: Value) -> Result<Self> {
        match value {
            Value::Map(root) => Ok(Self {
                root,
                ..Self::default()
            }),
            Value::Null => Ok(Self::default()),
            other => Err(
                Error::invalid_argument("a configuration is a map: keys with values")
                    .with_context("found", other.kind()),
            ),
        }
    }

    /// Puts a value at a path, making the maps above it.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if the path is empty, has an empty key, is too deep, or leads through a
    /// value that is no map: two settings contradict each other.
    pub fn set(&mut self, at: &str, value: impl Into<Value>) -> Result<()> {
        self.set_keys(&path::split(at), value.into())
    }

    /// The same by keys, which may contain dots.
    ///
    /// # Errors
    ///
    /// As for [`set`](Self::set).
    pub fn set_keys(&mut self, keys: &[String], value: Value) -> Result<()> {
        let invalid = |message: &'static str| {
            let shown: Vec<_> = keys.iter().take(Limits::default().depth).collect();
            Error::invalid_argument(message).with_context("key", path::join(shown))
        };
        let Some((last, above)) = keys.split_last() else {
            return Err(invalid("a setting needs a key"));
        };
        if keys.iter().any(String::is_empty) {
            return Err(invalid("a part of this key is empty"));
        }
        if keys.len() > Limits::default().depth {
            return Err(invalid("this key has too many parts"));
        }
        let mut map = &mut self.root;
        for key in above {
            let next = map
                .entry(key.clone())
                .or_insert_with(|| Value::Map(Map::new()));
            map = match next {
                Value::Map(next) => next,
                _ => return Err(invalid("above this key stands a value, not a map")),
            };
        }
        match map.get(last) {
            Some(Value::Map(below)) if !below.is_empty() && !matches!(value, Value::Map(_)) => {
                return Err(invalid("below this key stand others: it is a map"));
            }
            _ => {}
        }
        map.insert(last.clone(), value);
        Ok(())
    }

    /// The same without minding what stands there: for a source of several documents, of which the
    /// later ones win.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if there is no key, or too many.
    pub fn replace_keys(&mut self, keys: &[String], value: Value) -> Result<()> {
        let invalid = |message: &'static str| Err(Error::invalid_argument(message));
        let Some((last, above)) = keys.split_last() else {
            return invalid("a setting needs a key");
        };
        if keys.len() > Limits::default().depth {
            return invalid("this key has too many parts");
        }
        let mut map = &mut self.root;
        for key in above {
            let next = map.entry(key.clone()).or_default();
            if !matches!(next, Value::Map(_)) {
                *next = Value::Map(Map::new());
            }
            let Value::Map(below) = next else {
                return invalid("above this key stands a value, not a map");
            };
            map = below;
        }
        map.insert(last.clone(), value);
        Ok(())
    }

    /// Says where in the source the key at a path stands: `line 3`, `variable APP_PORT`.
    ///
    /// What is said of a map holds for what is in it.
    #[must_use]
    pub fn with_place(mut self, path: impl Into<String>, place: impl Into<Arc<str>>) -> Self {
        self.add_place(path, place);
        self
    }

    /// [`with_place`](Self::with_place) without moving the layer.
    pub fn add_place(&mut self, path: impl Into<String>, place: impl Into<Arc<str>>) {
        self.places.insert(path.into(), place.into());
    }

    /// Adds what an operator should know of the source, such as that it polls: the status shows it.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<Arc<str>>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// The note, if there is one.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The values.
    #[must_use]
    pub fn root(&self) -> &Map {
        &self.root
    }

    /// The value at a path.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Value> {
        self.get_keys(&path::split(path))
    }

    pub(crate) fn get_keys(&self, keys: &[String]) -> Option<&Value> {
        let (first, rest) = keys.split_first()?;
        self.root.get(first)?.at_keys(rest)
    }

    /// Where the key at a path stands, or the nearest one above it of which that is known.
    #[must_use]
    pub fn place(&self, path: &str) -> Option<&str> {
        let keys = path::split(path);
        (1..=keys.len())
            .rev()
            .find_map(|count| self.places.get(&path::join(&keys[..count])))
            .map(|place| &**place)
    }

    /// Changes every text of the layer, and secrets that are sealed; `change` gets its path.
    pub(crate) fn map_texts(
        &mut self,
        change: &mut dyn FnMut(&str, &str) -> Result<Option<Value>>,
    ) -> Result<()> {
        fn walk(
            value: &mut Value,
            path: &str,
            change: &mut dyn FnMut(&str, &str) -> Result<Option<Value>>,
        ) -> Result<()> {
            match value {
                Value::Map(map) => {
                    for (key, value) in map {
                        walk(value, &path::child(path, key), change)?;
                    }
                }
                Value::List(list) => {
                    for (index, value) in list.iter_mut().enumerate() {
                        walk(value, &path::child(path, &index.to_string()), change)?;
                    }
                }
                Value::Text(text) | Value::Word(text) => {
                    if let Some(new) = change(path, text)? {
                        *value = new;
                    }
                }
                // A secret may be sealed besides; nothing else is done to it.
                Value::Secret(secret) if crate::is_sealed(secret.expose()) => {
                    let text = secret.clone();
                    if let Some(new) = change(path, text.expose())? {
                        *value = new;
                    }
                }
                _ => {}
            }
            Ok(())
        }
        for (key, value) in &mut self.root {
            walk(value, &path::child("", key), change)?;
        }
        Ok(())
    }

    /// Refuses a layer that is larger than a configuration should be.
    pub(crate) fn check(&self, limits: &Limits) -> Result<()> {
        fn walk(value: &Value, depth: usize, count: &mut usize, limits: &Limits) -> Result<()> {
            *count += 1;
            if *count > limits.values {
                return Err(Error::resource_exhausted(
                    "the source has too many values; raise Limits::values if they are meant",
                )
                .with_context("limit", limits.values));
            }
            if depth > limits.depth {
                return Err(Error::resource_exhausted(
                    "the source is nested too deep; raise Limits::depth if that is meant",
                )
                .with_context("limit", limits.depth));
            }
            match value {
                Value::Map(map) => {
                    for value in map.values() {
                        walk(value, depth + 1, count, limits)?;
                    }
                }
                Value::List(list) => {
                    for value in list {
                        walk(value, depth + 1, count, limits)?;
                    }
                }
                _ => {}
            }
            Ok(())
        }
        let mut count = 0;
        for value in self.root.values() {
            walk(value, 1, &mut count, limits)?;
        }
        Ok(())
    }
}

impl PartialEq for Layer {
    fn eq(&self, other: &Self) -> bool {
        self.root == other.root
    }
}

/// Keys only: a value could be a password.
impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.root.keys()).finish()
    }
}

/// How large a layer may be. A source has limits of its own for what it reads.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Levels of maps and lists; 64 by default.
    pub depth: usize,
    /// Values, maps and lists included; 100,000 by default.
    pub values: usize,
}

impl Limits {
    /// Sets the levels.
    #[must_use]
    pub fn with_depth(mut self, depth: usize) -> Self {
        self.depth = depth;
        self
    }

    /// Sets the number of values.
    #[must_use]
    pub fn with_values(mut self, values: usize) -> Self {
        self.values = values;
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            depth: 64,
            values: 100_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use micro_core::ErrorKind;

    use super::*;

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let mut layer = Layer::new();
        layer.set("a.b", 1).unwrap();
        layer.set("a.c", 2).unwrap();
        for (path, value) in [("a.b.c", 1), ("a", 1), ("", 1), ("a..b", 1), (".", 1)] {
            let err = layer.set(path, value).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{path}");
        }
        assert_eq!(layer.get("a.c"), Some(&Value::Int(2)));
    }

    #[test]
    fn a_place_holds_for_what_is_below_it() {
        let mut layer = Layer::new()
            .with_place("a", "line 1")
            .with_place("a.b", "line 2");
        layer.set("a.b.c", 1).unwrap();
        assert_eq!(layer.place("a.b.c"), Some("line 2"));
        assert_eq!(layer.place("a.x"), Some("line 1"));
        assert_eq!(layer.place("b"), None);
    }

    #[test]
    fn s70_a_million_keys_and_a_deep_tree_are_refused() {
        let mut layer = Layer::new();
        for key in 0..1000 {
            layer.set_keys(&[key.to_string()], 1.into()).unwrap();
        }
        let err = layer
            .check(&Limits::default().with_values(999))
            .unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
        layer.check(&Limits::default()).unwrap();
        let deep: Vec<String> = (0..10_000).map(|_| "a".to_owned()).collect();
        assert!(layer.set_keys(&deep, 1.into()).is_err());
        layer.set("x.x.x.x", 1).unwrap();
        assert!(layer.check(&Limits::default().with_depth(3)).is_err());
    }
}
