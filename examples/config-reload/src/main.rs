//! A configuration file that changes while the program runs: the new value is taken over without a
//! restart, a broken one is refused and the last good one stays.
//!
//! `cargo run -p config-reload`; with a path behind it, edit that file by hand in another terminal.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use micro::config::env::EnvSource;
use micro::config::file::FileSource;
use micro::config::{Config, Runtime, ViewOptions};
use micro::{Error, Result};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(default)]
struct Greeting {
    text: String,
    timeout: Duration,
}

impl Default for Greeting {
    fn default() -> Self {
        let (text, timeout) = ("Hello".to_owned(), Duration::from_secs(1));
        Self { text, timeout }
    }
}

fn check(greeting: &Greeting) -> Result<()> {
    if greeting.text.is_empty() {
        return Err(Error::invalid_argument("a greeting says something"));
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let by_hand = std::env::args_os().nth(1).map(PathBuf::from);
    let own = std::env::temp_dir().join(format!("config-reload-{}.toml", std::process::id()));
    let path = by_hand.as_deref().unwrap_or(&own);
    if by_hand.is_none() {
        write(
            path,
            "[greeting]\ntext = \"Good morning\"\ntimeout = \"250ms\"\n",
        );
    }
    let config = Config::builder()
        .source(FileSource::new(path))
        .optional(EnvSource::new("APP")) // APP_GREETING__TEXT outweighs the file
        .start(Runtime::new(tokio::spawn, tokio::time::sleep))
        .await?;
    let greeting =
        config.live_with("greeting", ViewOptions::<Greeting>::new().with_check(check))?;
    println!(
        "{}, within {:?}",
        greeting.get().text,
        greeting.get().timeout
    );
    println!("{}", config.explain("greeting.text"));

    if by_hand.is_some() {
        let mut changes = greeting.changes();
        while let Some(greeting) = changes.next().await {
            println!("{}, within {:?}", greeting.text, greeting.timeout);
        }
        return Ok(());
    }

    let mut changes = greeting.changes();
    write(path, "[greeting]\ntext = \"Good evening\"\n");
    changes.next().await;
    println!(
        "edited:  {}, within {:?}",
        greeting.get().text,
        greeting.get().timeout
    );

    let status = config.status();
    let mut told = status.changes();
    write(path, "[greeting\ntext = \n");
    while config.refusals().is_empty() {
        told.next().await;
    }
    println!("broken:  {}", config.refusals()[0]);
    println!("served:  {}", greeting.get().text);

    write(path, "[greeting]\ntext = \"\"\n");
    while !config
        .refusals()
        .iter()
        .any(|refusal| refusal.reason.contains("says something"))
    {
        told.next().await;
    }
    println!("refused: {}", config.refusals()[0]);
    println!("served:  {}", greeting.get().text);

    config.close().await;
    let _ = std::fs::remove_file(path);
    Ok(())
}

/// As editors do it: a new file takes the old one's place.
fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("the folder for temporary files can be written");
    std::fs::rename(&new, path).expect("the folder for temporary files can be written");
}
