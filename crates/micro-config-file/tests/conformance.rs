//! The suite of config sources over this backend.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use micro_config_core::{Map, Result, async_trait};
use micro_config_file::{FileConfig, FileSource};
use micro_conformance::config::{Capabilities, Place, Subject, Writer, json};

struct File(PathBuf);

#[async_trait]
impl Writer for File {
    fn capabilities(&self) -> Capabilities {
        Capabilities::all()
    }

    async fn write(&self, content: &Map) -> Result<()> {
        // As a careful program does: nobody sees half of it.
        let next = self.0.with_extension("next");
        std::fs::write(&next, json(content))?;
        std::fs::rename(&next, &self.0)?;
        Ok(())
    }

    async fn remove(&self) -> Result<()> {
        std::fs::remove_file(&self.0)?;
        Ok(())
    }

    async fn spoil(&self) -> Result<()> {
        std::fs::write(&self.0, "{ \"a\": ")?;
        Ok(())
    }
}

fn main() -> ExitCode {
    let folder = tempfile::tempdir().expect("a folder for the files");
    let path = folder.path().to_owned();
    let code = micro_conformance::config::run(move |place: Place| {
        let path = path.clone();
        async move {
            let folder = path.join(place.id());
            std::fs::create_dir(&folder)?;
            let file = File(folder.join("app.json"));
            file.write(place.content()).await?;
            let config = FileConfig::new(&file.0)
                .with_debounce(Duration::from_millis(20))
                .with_settle(Duration::from_millis(150));
            Ok(Subject::changing(FileSource::with_config(config), file))
        }
    });
    // `ExitCode` ends the program without running what is left on the stack.
    drop(folder);
    code
}
