//! The suite of config sources against a real etcd: `MICRO_TEST_ETCD_URL` says where.

mod common;

use std::process::ExitCode;

use micro_config_core::{Map, Result, Value, async_trait};
use micro_conformance::config::{Capabilities, Place, Subject, Writer, json};
use micro_etcd::{Client, Keys, Op, RangeOptions, Txn};

struct Etcd {
    client: Client,
    prefix: String,
}

#[async_trait]
impl Writer for Etcd {
    fn capabilities(&self) -> Capabilities {
        // Without any key there is an empty configuration, not none.
        Capabilities::all().with_removal(false)
    }

    async fn write(&self, content: &Map) -> Result<()> {
        let mut new = Vec::new();
        flatten(&self.prefix, content, &mut new);
        let keys = Keys::prefix(self.prefix.clone());
        let old = self.client.range(keys, &RangeOptions::default()).await?;
        let mut txn = Txn::new();
        for entry in old.entries {
            if !new.iter().any(|(key, _)| key.as_bytes() == entry.key) {
                txn = txn.then(Op::delete(Keys::one(entry.key)));
            }
        }
        for (key, value) in new {
            txn = txn.then(Op::put(key, value, 0));
        }
        self.client.txn(txn).await?;
        Ok(())
    }

    async fn remove(&self) -> Result<()> {
        self.client
            .delete(Keys::prefix(self.prefix.clone()))
            .await?;
        Ok(())
    }

    async fn spoil(&self) -> Result<()> {
        let key = format!("{}a", self.prefix);
        self.client.put(key, "{\"a\": ", 0).await?;
        Ok(())
    }
}

fn flatten(prefix: &str, content: &Map, all: &mut Vec<(String, String)>) {
    for (key, value) in content {
        match value {
            Value::Map(map) => flatten(&format!("{prefix}{key}/"), map, all),
            value => {
                // JSON of a value alone: that of a map without what is around it.
                let map = Map::from([(String::new(), value.clone())]);
                let text = json(&map);
                all.push((format!("{prefix}{key}"), text[4..text.len() - 1].to_owned()));
            }
        }
    }
}

fn main() -> ExitCode {
    let Some(url) = common::server("etcd config conformance", "MICRO_TEST_ETCD_URL", "etcd") else {
        return ExitCode::SUCCESS;
    };
    micro_conformance::config::run(async move |place: Place| {
        let prefix = format!("/micro/{}/config/", place.id());
        let etcd = Etcd {
            client: common::client(&url),
            prefix: prefix.clone(),
        };
        etcd.write(place.content()).await?;
        let source = common::source(&common::with_option(&url, "prefix", &prefix));
        Ok(Subject::changing(source, etcd))
    })
}
