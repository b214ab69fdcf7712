//! The source of this crate.

use std::ffi::OsString;
use std::fmt::Display;

use micro_config_core::{
    Error, Layer, LayerStream, Rank, Result, Source, Value, async_trait, constant, path,
};

/// Settings of a command line.
#[derive(Clone, Debug, Default)]
pub struct ArgsSource {
    layer: Layer,
}

impl ArgsSource {
    /// A command line without settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The `--set path=value` of a command line, whose first word is the program.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a `--set` that is not `path=value`, or not UTF-8.
    pub fn from_args<A: Into<OsString>>(args: impl IntoIterator<Item = A>) -> Result<Self> {
        let mut sets = Vec::new();
        let mut args = args.into_iter().map(Into::into).skip(1);
        while let Some(arg) = args.next() {
            // What is not UTF-8 and not behind `--set` is somebody else's.
            match arg.to_str() {
                Some("--") => break,
                Some("--set") => sets.push(utf8(args.next().ok_or_else(|| {
                    Error::invalid_argument("'--set' is followed by 'path=value'")
                })?)?),
                Some(arg) => sets.extend(arg.strip_prefix("--set=").map(str::to_owned)),
                None if arg.to_string_lossy().starts_with("--set=") => {
                    utf8(arg)?;
                }
                None => {}
            }
        }
        Self::from_sets(sets)
    }

    /// Settings as `path=value`: what clap collects of a repeated `--set`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for one that is not `path=value`.
    pub fn from_sets<S: AsRef<str>>(sets: impl IntoIterator<Item = S>) -> Result<Self> {
        let mut source = Self::new();
        for set in sets {
            let Some((at, value)) = set.as_ref().split_once('=') else {
                // Without a `=` it may be a value that lost its path: it is not shown.
                return Err(Error::invalid_argument(
                    "a setting is 'path=value', as in '--set http.port=8080'",
                )
                .with_operation("config.args"));
            };
            source.set(at, value.to_owned(), format!("--set {at}"))?;
        }
        Ok(source)
    }

    /// Adds what a flag of the program's own was given; `None` says nothing.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if the path is none.
    pub fn with_flag<T: Display>(mut self, at: &str, value: Option<T>) -> Result<Self> {
        if let Some(value) = value {
            self.set(at, value.to_string(), "a flag".to_owned())?;
        }
        Ok(self)
    }

    fn set(&mut self, at: &str, value: String, place: String) -> Result<()> {
        let keys = path::split(at);
        self.layer
            .set_keys(&keys, Value::Word(value))
            .map_err(|err| err.with_operation("config.args"))?;
        self.layer.add_place(path::join(&keys), place);
        Ok(())
    }
}

fn utf8(arg: OsString) -> Result<String> {
    arg.into_string().map_err(|arg| {
        let text = arg.to_string_lossy();
        let path = text.trim_start_matches("--set=").split('=').next();
        Error::invalid_argument("a setting of the command line is not UTF-8")
            .with_operation("config.args")
            .with_context("path", path.unwrap_or_default().escape_debug())
    })
}

#[async_trait]
impl Source for ArgsSource {
    fn backend(&self) -> &'static str {
        crate::SCHEME
    }

    fn describe(&self) -> String {
        "command line".to_owned()
    }

    fn rank(&self) -> Rank {
        Rank::Flags
    }

    async fn load(&self) -> Result<Layer> {
        Ok(self.layer.clone())
    }

    async fn watch(&self) -> Result<LayerStream> {
        Ok(constant(self.layer.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Value {
        Value::Word(text.to_owned())
    }

    #[test]
    fn settings_are_found_in_a_command_line() {
        let source = ArgsSource::from_args([
            "--set",
            "run",
            "--set",
            "a.b=1",
            "-v",
            "--set=a.c=x=y",
            "--set",
            "a.b=2",
            "--",
            "--set",
            "a.d=3",
        ])
        .unwrap();
        assert_eq!(source.layer.get("a.b"), Some(&word("2")));
        assert_eq!(source.layer.get("a.c"), Some(&word("x=y")));
        assert_eq!(source.layer.get("a.d"), None);
        assert_eq!(source.layer.place("a.c"), Some("--set a.c"));
    }

    #[test]
    fn bad_settings_are_refused_without_their_value() {
        for args in [
            &["p", "--set"][..],
            &["p", "--set", "hunter2"],
            &["p", "--set", "=hunter2"],
            &["p", "--set", "a..b=hunter2"],
            &["p", "--set", "a=hunter2", "--set", "a.b=hunter2"],
        ] {
            let err = ArgsSource::from_args(args.iter().copied()).unwrap_err();
            assert!(!format!("{err:?}").contains("hunter2"), "{err:?}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn what_is_not_utf8_is_refused_if_it_is_ours() {
        use std::os::unix::ffi::OsStringExt as _;
        let bad = |head: &str| {
            let mut bytes = head.as_bytes().to_vec();
            bytes.push(0xff);
            OsString::from_vec(bytes)
        };
        let err = ArgsSource::from_args(["p".into(), "--set".into(), bad("a.b=")]).unwrap_err();
        assert!(err.to_string().contains("path: a.b"), "{err}");
        assert!(ArgsSource::from_args(["p".into(), bad("--set=a=")]).is_err());
        assert!(ArgsSource::from_args(["p".into(), bad("x")]).is_ok());
    }

    #[test]
    fn a_flag_that_was_not_given_says_nothing() {
        let source = ArgsSource::new()
            .with_flag("a", None::<u16>)
            .unwrap()
            .with_flag("b", Some(true))
            .unwrap();
        assert_eq!(source.layer.root().len(), 1);
        assert_eq!(source.layer.get("b"), Some(&word("true")));
    }
}
