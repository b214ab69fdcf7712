//! Typed views that follow the configuration.

use std::any::{Any, TypeId};
use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use micro_core::{Live, LiveWriter, Result};
use serde::de::DeserializeOwned;

use crate::read::{self, Notes};
use crate::{Value, path};

type Check<T> = Arc<dyn Fn(&T) -> Result<()> + Send + Sync>;

/// How a view takes over values.
pub struct ViewOptions<T> {
    pub(crate) check: Option<Check<T>>,
    pub(crate) strict: bool,
}

impl<T> ViewOptions<T> {
    /// Any value of the type, and keys that it does not know are left alone.
    #[must_use]
    pub fn new() -> Self {
        Self {
            check: None,
            strict: false,
        }
    }

    /// Takes over only what this function accepts. It is called whenever the value has changed,
    /// and must be quick; if it panics, the value is refused.
    #[must_use]
    pub fn with_check(mut self, check: impl Fn(&T) -> Result<()> + Send + Sync + 'static) -> Self {
        self.check = Some(Arc::new(check));
        self
    }

    /// Refuses keys that the type does not know: a misspelt one is then no silent default.
    ///
    /// Types with `#[serde(flatten)]` know every key; there it finds nothing.
    #[must_use]
    pub fn with_strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }
}

impl<T> Default for ViewOptions<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for ViewOptions<T> {
    fn clone(&self) -> Self {
        Self {
            check: self.check.clone(),
            strict: self.strict,
        }
    }
}

impl<T> fmt::Debug for ViewOptions<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewOptions")
            .field("check", &self.check.is_some())
            .field("strict", &self.strict)
            .finish()
    }
}

/// Why a value is not taken over.
#[derive(Debug)]
pub(crate) struct Rejection {
    pub(crate) path: String,
    pub(crate) reason: String,
    pub(crate) missing: bool,
}

/// Sets the new value.
pub(crate) type Commit<'a> = Box<dyn FnOnce() + Send + 'a>;

/// What follows the configuration.
pub(crate) trait View: Send + Sync {
    /// Reads what would be new of it, without setting it; nothing if it stays as it is.
    fn prepare(
        &self,
        old: &Value,
        new: &Value,
        secrets: &mut BTreeSet<String>,
    ) -> Result<Option<Commit<'_>>, Rejection>;

    /// Type, path, strictness: what makes two views without a check the same.
    fn is(&self, kind: TypeId, keys: &[String], strict: bool) -> bool;

    /// Its `Live<T>`.
    fn live(&self) -> Box<dyn Any>;
}

pub(crate) struct TypedView<T> {
    pub(crate) keys: Vec<String>,
    pub(crate) options: ViewOptions<T>,
    pub(crate) writer: LiveWriter<T>,
}

impl<T: DeserializeOwned + Send + Sync + 'static> View for TypedView<T> {
    fn prepare(
        &self,
        old: &Value,
        new: &Value,
        secrets: &mut BTreeSet<String>,
    ) -> Result<Option<Commit<'_>>, Rejection> {
        let new = new.at_keys(&self.keys);
        if old.at_keys(&self.keys) == new {
            return Ok(None);
        }
        let value = read_checked(new, &self.keys, &self.options, secrets)?;
        Ok(Some(Box::new(move || self.writer.set(value))))
    }

    fn is(&self, kind: TypeId, keys: &[String], strict: bool) -> bool {
        self.options.check.is_none()
            && self.options.strict == strict
            && kind == TypeId::of::<T>()
            && self.keys == keys
    }

    fn live(&self) -> Box<dyn Any> {
        Box::new(self.writer.live()) as Box<dyn Any>
    }
}

/// The live value of a view that is known to be of this type.
pub(crate) fn live_of<T: 'static>(view: &dyn View) -> Option<Live<T>> {
    view.live().downcast::<Live<T>>().ok().map(|live| *live)
}

/// Reads a `T` and lets its check look at it. What panics is refused.
pub(crate) fn read_checked<T: DeserializeOwned>(
    value: Option<&Value>,
    keys: &[String],
    options: &ViewOptions<T>,
    secrets: &mut BTreeSet<String>,
) -> Result<T, Rejection> {
    let whole = || path::join(keys);
    let mut notes = Notes::default();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let value: T = read::read(value, keys, &mut notes).map_err(|err| Rejection {
            path: err.path.unwrap_or_else(whole),
            reason: err.message,
            missing: err.missing,
        })?;
        if let Some(unknown) = notes.unknown.first().filter(|_| options.strict) {
            return Err(Rejection {
                path: unknown.clone(),
                reason: "there is no such key".to_owned(),
                missing: false,
            });
        }
        if let Some(check) = &options.check {
            check(&value).map_err(|err| Rejection {
                path: whole(),
                // The kind and the facts of a check's error are its own business; what it says counts.
                reason: describe(&err, |_, _| false),
                missing: false,
            })?;
        }
        Ok(value)
    }));
    secrets.append(&mut notes.secrets);
    outcome.unwrap_or_else(|_| {
        Err(Rejection {
            path: whole(),
            reason: "reading or checking it panicked".to_owned(),
            missing: false,
        })
    })
}

/// The message of an error with its facts, but for those that are said elsewhere.
pub(crate) fn describe(err: &micro_core::Error, is_said: impl Fn(&str, &str) -> bool) -> String {
    let facts: Vec<String> = err
        .context()
        .filter(|(key, value)| !is_said(key, value))
        .map(|(key, value)| format!("{key}: {value}"))
        .collect();
    match facts.is_empty() {
        true => err.message().to_owned(),
        false => format!("{} ({})", err.message(), facts.join(", ")),
    }
}
