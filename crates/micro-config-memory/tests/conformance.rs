//! The suite of config sources over this backend.

use std::process::ExitCode;

use micro_config_core::{ErrorKind, Layer, Map, Result, Value, async_trait};
use micro_config_memory::MemorySource;
use micro_conformance::config::{Capabilities, Place, Subject, Writer};

struct Memory(MemorySource);

#[async_trait]
impl Writer for Memory {
    fn capabilities(&self) -> Capabilities {
        Capabilities::all()
    }

    async fn write(&self, content: &Map) -> Result<()> {
        let layer = Layer::from_value(Value::Map(content.clone()))?;
        self.0.replace_layer(layer);
        Ok(())
    }

    async fn remove(&self) -> Result<()> {
        self.0.fail(ErrorKind::NotFound, "it is not there");
        Ok(())
    }

    async fn spoil(&self) -> Result<()> {
        self.0.fail(ErrorKind::InvalidArgument, "it cannot be read");
        Ok(())
    }
}

fn main() -> ExitCode {
    micro_conformance::config::run(async |place: Place| {
        let memory = Memory(MemorySource::new());
        memory.write(place.content()).await?;
        Ok(Subject::changing(memory.0.clone(), memory))
    })
}
