//! Turns a table of cases into a test binary.

use std::process::ExitCode;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};

/// One behavior of the interface `I`, and what it needs of a backend.
pub(crate) struct Case<I: ?Sized, C> {
    pub(crate) name: &'static str,
    pub(crate) applies: fn(&C) -> bool,
    pub(crate) run: fn(Arc<I>) -> BoxFuture<'static, ()>,
}

/// No case may hang a CI job.
const CASE_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes one trial per case; a case that does not apply is ignored.
pub(crate) fn trials<I, C, F>(cases: Vec<Case<I, C>>, capabilities: &C, open: &F) -> Vec<Trial>
where
    I: ?Sized + Send + Sync + 'static,
    C: 'static,
    F: Fn() -> micro_core::Result<Arc<I>> + Clone + Send + 'static,
{
    cases
        .into_iter()
        .map(|case| {
            let open = open.clone();
            let ignored = !(case.applies)(capabilities);
            Trial::test(case.name, move || {
                let backend = open().map_err(Failed::from)?;
                // A task of its own: a case that panics fails alone, with its message.
                // Within it, for the timer belongs to the runtime.
                let run = runtime().spawn(async move {
                    tokio::time::timeout(CASE_TIMEOUT, (case.run)(backend)).await
                });
                match runtime().block_on(run) {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) => Err(Failed::from(format!(
                        "the case did not finish within {CASE_TIMEOUT:?}"
                    ))),
                    Err(err) => Err(Failed::from(panic_text(err))),
                }
            })
            .with_ignored_flag(ignored)
        })
        .collect()
}

fn panic_text(err: tokio::task::JoinError) -> String {
    let Ok(panic) = err.try_into_panic() else {
        return "the case was cancelled".to_owned();
    };
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "the case panicked".to_owned())
}

/// Runs trials as a test binary does, with its arguments.
pub(crate) fn run_trials(trials: Vec<Trial>) -> ExitCode {
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Makes the trials and runs them.
pub(crate) fn run_cases<I, C, F>(cases: Vec<Case<I, C>>, capabilities: &C, open: &F) -> ExitCode
where
    I: ?Sized + Send + Sync + 'static,
    C: 'static,
    F: Fn() -> micro_core::Result<Arc<I>> + Clone + Send + 'static,
{
    run_trials(trials(cases, capabilities, open))
}

/// The runtime that every case runs on.
///
/// # Panics
///
/// If the machine cannot start one.
#[must_use]
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> =
        LazyLock::new(|| tokio::runtime::Runtime::new().expect("a runtime starts"));
    &RUNTIME
}

/// Lists cases: `name`, or `name if capability`.
macro_rules! cases {
    ($capabilities:ty; $($name:ident $(if $needs:ident)?),* $(,)?) => {
        vec![$(crate::harness::Case {
            name: stringify!($name),
            applies: |_capabilities: &$capabilities| true $(&& _capabilities.$needs)?,
            run: |backend| Box::pin($name(backend)),
        }),*]
    };
}
pub(crate) use cases;
