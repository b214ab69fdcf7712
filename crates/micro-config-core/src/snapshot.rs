//! The merged configuration of one moment.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::{Layer, Map, Rank, Value, path};

/// What is known of a source for as long as the configuration lives.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) name: String,
    pub(crate) rank: Rank,
    pub(crate) required: bool,
}

/// The layers, the weakest first, and what they come to.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) version: u64,
    pub(crate) tree: Value,
    pub(crate) layers: Vec<(Arc<Origin>, Option<Arc<Layer>>)>,
}

impl Snapshot {
    pub(crate) fn new(version: u64, layers: Vec<(Arc<Origin>, Option<Arc<Layer>>)>) -> Self {
        let mut tree = Map::new();
        for layer in layers.iter().filter_map(|(_, layer)| layer.as_ref()) {
            merge(&mut tree, layer.root());
        }
        Self {
            version,
            tree: Value::Map(tree),
            layers,
        }
    }

    /// The strongest source that says something of a path, and where.
    pub(crate) fn source_of(&self, at: &str) -> Option<(&Origin, Option<&str>)> {
        let keys = path::split(at);
        self.layers.iter().rev().find_map(|(origin, layer)| {
            let layer = layer.as_ref()?;
            layer.get_keys(&keys)?;
            Some((&**origin, layer.place(at)))
        })
    }

    /// The texts that must not be printed: those of secrets, and those at the given paths.
    pub(crate) fn secret_texts(&self, paths: &BTreeSet<String>) -> Vec<String> {
        let mut texts = Vec::new();
        let mut layers: Vec<&Layer> = Vec::new();
        for (_, layer) in &self.layers {
            layers.extend(layer.as_deref());
        }
        for layer in layers {
            for value in layer.root().values() {
                value.leaves(&mut |_, leaf| {
                    if let Value::Secret(secret) = leaf {
                        texts.push(secret.expose().to_owned());
                    }
                });
            }
            for at in paths {
                if let Some(Value::Text(text) | Value::Word(text)) = layer.get(at) {
                    texts.push(text.clone());
                }
            }
        }
        texts
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// Puts a layer over what is there: maps are merged, everything else is replaced.
fn merge(below: &mut Map, above: &Map) {
    for (key, value) in above {
        match (below.get_mut(key), value) {
            (Some(Value::Map(below)), Value::Map(above)) => merge(below, above),
            (Some(below), value) => below.clone_from(value),
            (None, value) => {
                below.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Replaces the texts of secrets in a message.
pub(crate) fn scrub(mut message: String, secrets: &[String]) -> String {
    /// A shorter one would be found in every sentence.
    const SHORTEST: usize = 3;
    let mut secrets: Vec<&str> = secrets
        .iter()
        .map(String::as_str)
        .filter(|secret| secret.len() >= SHORTEST)
        .collect();
    // The longest first: one secret may be part of another.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    for secret in secrets {
        if message.contains(secret) {
            message = message.replace(secret, "***");
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(json: &str) -> Map {
        match serde_json::from_str(json).unwrap() {
            Value::Map(map) => map,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn maps_merge_and_the_rest_is_replaced() {
        let table = [
            (
                r#"{"a":{"b":1}}"#,
                r#"{"a":{"c":2}}"#,
                r#"{"a":{"b":1,"c":2}}"#,
            ),
            (r#"{"a":[1,2]}"#, r#"{"a":[3]}"#, r#"{"a":[3]}"#),
            (r#"{"a":{"b":1}}"#, r#"{"a":2}"#, r#"{"a":2}"#),
            (r#"{"a":2}"#, r#"{"a":{"b":1}}"#, r#"{"a":{"b":1}}"#),
            (r#"{"a":{"b":1}}"#, r#"{"a":null}"#, r#"{"a":null}"#),
            (r#"{"a":{"b":1}}"#, r#"{"a":{}}"#, r#"{"a":{"b":1}}"#),
        ];
        for (below, above, expected) in table {
            let mut merged = map(below);
            merge(&mut merged, &map(above));
            assert_eq!(merged, map(expected), "{below} {above}");
        }
    }

    #[test]
    fn s71_secrets_are_scrubbed_from_messages() {
        let secrets = [
            "hunter2".to_owned(),
            "hunter2-long".to_owned(),
            "a".to_owned(),
        ];
        assert_eq!(
            scrub("a hunter2-long and hunter2".to_owned(), &secrets),
            "a *** and ***"
        );
    }
}
