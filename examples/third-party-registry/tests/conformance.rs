//! The suite that micro's own registries pass.

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use micro_registry_core::Env;
use third_party_registry::{FileDirConfig, FileDirRegistry};

fn main() -> ExitCode {
    let all = tempfile::tempdir().expect("a temporary folder can be made");
    // A folder of its own for each case; all of them go with the first one.
    let count = Arc::new(Mutex::new(0));
    let path = all.path().to_owned();
    let code = micro_conformance::registry::run(async move || {
        let case = {
            let mut count = count.lock().expect("nobody panics while counting");
            *count += 1;
            *count
        };
        let config = FileDirConfig::new(path.join(case.to_string()));
        Ok(Arc::new(FileDirRegistry::open(config, &Env::new())?) as _)
    });
    drop(all);
    code
}
