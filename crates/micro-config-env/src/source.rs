//! The source of this crate.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::Arc;

use micro_config_core::{
    Error, Layer, LayerStream, Rank, Result, Source, Value, async_trait, constant,
};

use crate::EnvConfig;

/// The variables of the process that begin with a prefix.
#[derive(Clone)]
pub struct EnvSource {
    config: EnvConfig,
    /// Instead of those of the process.
    variables: Option<Arc<[(OsString, OsString)]>>,
}

impl EnvSource {
    /// The variables whose names begin with `prefix` and `_`.
    #[must_use]
    pub fn new(prefix: impl Into<String>) -> Self {
        Self::with_config(EnvConfig::default().with_prefix(prefix))
    }

    /// The same with further options.
    #[must_use]
    pub fn with_config(config: EnvConfig) -> Self {
        Self {
            config,
            variables: None,
        }
    }

    /// Sets what separates the levels of a key; `__` by default.
    #[must_use]
    pub fn with_separator(mut self, separator: impl Into<String>) -> Self {
        self.config.separator = separator.into();
        self
    }

    /// Reads these variables instead of those of the process.
    #[must_use]
    pub fn with_variables<K: Into<OsString>, V: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let variables = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        self.variables = Some(variables.collect());
        self
    }

    fn read(&self) -> Result<Layer> {
        self.config.check()?;
        let mut variables: Vec<(OsString, OsString)> = match &self.variables {
            Some(variables) => variables.to_vec(),
            None => std::env::vars_os().collect(),
        };
        // The order of the environment is anybody's guess; messages should not be.
        variables.sort();
        let mut layer = Layer::new();
        for (name, value) in &variables {
            self.add(&mut layer, name, value)?;
        }
        Ok(layer)
    }

    fn add(&self, layer: &mut Layer, name: &OsStr, value: &OsStr) -> Result<()> {
        let Some(rest) = self.rest(name) else {
            return Ok(());
        };
        let place = format!("variable {}", name.display());
        let refused = |message: &'static str| {
            Error::invalid_argument(message)
                .with_operation("config.env")
                .with_context("variable", shown(name))
        };
        if name.to_str().is_none() {
            return Err(refused("the name of this variable is not UTF-8"));
        }
        let Some(value) = value.to_str() else {
            return Err(refused("the value of this variable is not UTF-8"));
        };
        let keys: Vec<String> = rest
            .split(&self.config.separator)
            .map(str::to_lowercase)
            .collect();
        if layer.get(&micro_config_core::path::join(&keys)).is_some() {
            return Err(refused(
                "another variable names the same key, or one below it",
            ));
        }
        layer
            .set_keys(&keys, Value::Word(value.to_owned()))
            .map_err(|err| {
                err.with_operation("config.env")
                    .with_context("variable", shown(name))
            })?;
        layer.add_place(micro_config_core::path::join(&keys), place);
        Ok(())
    }

    /// What follows the prefix in a name, if it has the prefix.
    fn rest(&self, name: &OsStr) -> Option<String> {
        let lossy = name.to_string_lossy();
        let rest = match &*self.config.prefix {
            "" => &*lossy,
            prefix => lossy.strip_prefix(prefix)?.strip_prefix('_')?,
        };
        // Every variable that an empty prefix takes must be one of ours to be complained about.
        if self.config.prefix.is_empty() && (rest.starts_with('_') || rest.ends_with('_')) {
            return None;
        }
        Some(rest.to_owned())
    }
}

fn shown(name: &OsStr) -> String {
    name.to_string_lossy()
        .chars()
        .take(100)
        .flat_map(char::escape_debug)
        .collect()
}

/// Names only: a value could be a password.
impl fmt::Debug for EnvSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvSource")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Source for EnvSource {
    fn backend(&self) -> &'static str {
        crate::SCHEME
    }

    fn describe(&self) -> String {
        match &*self.config.prefix {
            "" => "environment".to_owned(),
            prefix => format!("environment {prefix}_*"),
        }
    }

    fn rank(&self) -> Rank {
        Rank::Env
    }

    async fn load(&self) -> Result<Layer> {
        self.read()
    }

    async fn watch(&self) -> Result<LayerStream> {
        Ok(constant(self.read()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(source: EnvSource, variables: &[(&str, &str)]) -> Result<Layer> {
        source.with_variables(variables.iter().copied()).read()
    }

    #[test]
    fn names_become_paths() {
        let variables = [
            ("APP_PORT", "1"),
            ("APP_HTTP__MAX_CONNS", "2"),
            ("APP_HTTP__A__B", "3"),
            ("APPLE_X", "4"),
            ("APP", "5"),
            ("app_low", "6"),
        ];
        let found = layer(EnvSource::new("APP"), &variables).unwrap();
        let text = |path| match found.get(path) {
            Some(Value::Word(text)) => text.clone(),
            other => panic!("{path}: {other:?}"),
        };
        assert_eq!(text("port"), "1");
        assert_eq!(text("http.max_conns"), "2");
        assert_eq!(text("http.a.b"), "3");
        assert_eq!(found.root().len(), 2, "{found:?}");
        assert_eq!(found.place("port"), Some("variable APP_PORT"));
        let found = layer(
            EnvSource::new("APP").with_separator("_"),
            &[("APP_HTTP_PORT", "1")],
        );
        assert_eq!(
            found.unwrap().get("http.port"),
            Some(&Value::Word("1".to_owned()))
        );
    }

    #[test]
    fn contradictions_are_refused_with_the_variable_and_not_its_value() {
        let table: [(&[(&str, &str)], &str); 4] = [
            (&[("APP_A", "hunter2"), ("APP_A__B", "hunter2")], "APP_A__B"),
            (&[("APP_a", "hunter2"), ("APP_A", "hunter2")], "APP_a"),
            (&[("APP_A____B", "hunter2")], "APP_A____B"),
            (&[("APP_", "hunter2")], "APP_"),
        ];
        for (variables, name) in table {
            let err = layer(EnvSource::new("APP"), variables).unwrap_err();
            let text = format!("{err:?}");
            assert!(text.contains(&format!("variable: {name}")), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn what_is_not_utf8_is_refused_with_the_variable() {
        use std::os::unix::ffi::OsStringExt as _;
        let bad = || OsString::from_vec(b"x\xff".to_vec());
        let source = EnvSource::new("APP");
        let err = source
            .clone()
            .with_variables([(OsString::from("APP_X"), bad())])
            .read()
            .unwrap_err();
        assert!(err.to_string().contains("variable: APP_X"), "{err}");
        let mut name = OsString::from("APP_");
        name.push(bad());
        let err = source
            .clone()
            .with_variables([(name, "1")])
            .read()
            .unwrap_err();
        assert!(err.to_string().contains("not UTF-8"), "{err}");
        // Other programs' variables are none of ours.
        let others = source.with_variables([(OsString::from("OTHER"), bad())]);
        assert!(others.read().is_ok());
    }

    #[test]
    fn s70_a_name_of_ten_thousand_levels_is_refused() {
        let name = format!("APP_{}A", "A__".repeat(10_000));
        let err = layer(EnvSource::new("APP"), &[(&name, "1")]).unwrap_err();
        assert!(err.to_string().contains("too many parts"), "{err}");
        assert!(err.to_string().len() < 2_000, "{}", err.to_string().len());
    }
}
