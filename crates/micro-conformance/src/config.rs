//! Behavior that every configuration [`Source`] shares.
//!
//! # Cases
//!
//! - `the_backend_s_name_is_a_url_scheme`
//! - `its_description_is_one_line`
//! - `what_was_put_in_comes_out`
//! - `values_become_what_is_asked_for`
//! - `odd_texts_survive`
//! - `long_texts_survive`
//! - `an_empty_source_is_an_empty_layer`
//! - `a_hundred_keys_are_found`
//! - `loading_again_gives_the_same`
//! - `the_watch_begins_with_the_present_state`
//! - `a_source_that_does_not_change_stays_silent`
//! - `every_watch_is_told`
//! - `a_dropped_watch_disturbs_no_other`
//! - `a_dropped_load_leaves_the_source_usable`
//! - `a_configuration_reads_it`
//! - `debug_shows_no_value`
//! - `a_change_is_seen`, if `changes`
//! - `a_removed_key_is_gone`, if `changes`
//! - `a_change_between_load_and_watch_is_seen`, if `changes`
//! - `the_last_of_many_changes_is_seen`, if `changes`
//! - `a_watch_that_is_not_read_gets_to_the_newest`, if `changes`
//! - `no_state_is_half_of_two`, if `changes`
//! - `a_configuration_follows_it`, if `changes`
//! - `what_is_removed_is_not_found_and_may_come_back`, if `removal`
//! - `what_cannot_be_read_is_refused_and_may_be_mended`, if `spoiling`

use std::fmt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::poll_immediate;
use micro_config_core::{
    Config, ErrorKind, Layer, LayerStream, Map, Result, Runtime, Source, Value, async_trait,
};
use micro_core::{Random as _, SystemRandom};
use tokio::time::{sleep, timeout};

use crate::harness::{Case, cases, run_cases, runtime};

/// How long a change may take to show.
const PATIENCE: Duration = Duration::from_secs(15);
/// So long a source is listened to that should be silent.
const SILENCE: Duration = Duration::from_millis(300);

/// What the backend can do beyond holding a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Its content can change.
    pub changes: bool,
    /// It can go away as a whole, and come back.
    pub removal: bool,
    /// It can hold what cannot be read.
    pub spoiling: bool,
}

impl Capabilities {
    /// Everything that a source can do.
    #[must_use]
    pub fn all() -> Self {
        Self {
            changes: true,
            removal: true,
            spoiling: true,
        }
    }

    /// Says whether it can go away as a whole.
    #[must_use]
    pub fn with_removal(mut self, removal: bool) -> Self {
        self.removal = removal;
        self
    }

    /// Says whether it can hold what cannot be read.
    #[must_use]
    pub fn with_spoiling(mut self, spoiling: bool) -> Self {
        self.spoiling = spoiling;
        self
    }
}

/// Changes what the source under test reads, from outside of it.
#[async_trait]
pub trait Writer: Send + Sync + 'static {
    /// What of the rest it can do.
    fn capabilities(&self) -> Capabilities;

    /// Replaces the whole content at once.
    async fn write(&self, content: &Map) -> Result<()>;

    /// Takes the content away as a whole.
    async fn remove(&self) -> Result<()>;

    /// Replaces the content by what cannot be read.
    async fn spoil(&self) -> Result<()>;
}

/// A source, and what changes it.
#[derive(Clone)]
pub struct Subject {
    source: Arc<dyn Source>,
    writer: Option<Arc<dyn Writer>>,
}

impl Subject {
    /// A source whose content does not change.
    #[must_use]
    pub fn constant(source: impl Source) -> Self {
        Self {
            source: Arc::new(source),
            writer: None,
        }
    }

    /// A source whose content the writer changes.
    #[must_use]
    pub fn changing(source: impl Source, writer: impl Writer) -> Self {
        Self {
            source: Arc::new(source),
            writer: Some(Arc::new(writer)),
        }
    }

    fn capabilities(&self) -> Capabilities {
        self.writer
            .as_ref()
            .map_or_else(Capabilities::default, |writer| writer.capabilities())
    }

    fn writer(&self) -> &dyn Writer {
        &**self.writer.as_ref().expect("the case needs a writer")
    }

    async fn write(&self, content: &Map) {
        self.writer()
            .write(content)
            .await
            .expect("the content is written");
    }

    async fn watch(&self) -> LayerStream {
        self.source.watch().await.expect("the watch opens")
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Subject").field(&self.source).finish()
    }
}

/// Where a case wants a source opened, and with what in it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Place {
    id: Arc<str>,
    content: Map,
}

impl Place {
    fn new(content: Map) -> Self {
        static RUN: LazyLock<u64> = LazyLock::new(|| SystemRandom.next_u64());
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self {
            id: Arc::from(format!("c{:08x}-{count}", *RUN >> 32)),
            content,
        }
    }

    /// A short name that nothing had before: lower-case letters, digits and `-`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the source holds at first.
    #[must_use]
    pub fn content(&self) -> &Map {
        &self.content
    }
}

/// A content as JSON, for backends that hold documents.
#[must_use]
pub fn json(content: &Map) -> String {
    fn value(of: &Value) -> serde_json::Value {
        match of {
            Value::Bool(flag) => (*flag).into(),
            Value::Int(number) => (*number).into(),
            Value::Uint(number) => (*number).into(),
            Value::Float(number) => (*number).into(),
            Value::Text(text) | Value::Word(text) => text.as_str().into(),
            Value::Secret(secret) => secret.expose().into(),
            Value::List(list) => list.iter().map(value).collect(),
            Value::Map(map) => object(map),
            _ => serde_json::Value::Null,
        }
    }
    fn object(map: &Map) -> serde_json::Value {
        map.iter()
            .map(|(key, inner)| (key.clone(), value(inner)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
    object(content).to_string()
}

/// A content as keys with texts, for backends without types; a list is joined by commas.
#[must_use]
pub fn words(content: &Map) -> Vec<(Vec<String>, String)> {
    fn text(value: &Value) -> String {
        match value {
            Value::Text(text) | Value::Word(text) => text.clone(),
            Value::Secret(secret) => secret.expose().to_owned(),
            Value::List(list) => list.iter().map(text).collect::<Vec<_>>().join(","),
            other => other.to_string(),
        }
    }
    fn walk(map: &Map, above: &[String], all: &mut Vec<(Vec<String>, String)>) {
        for (key, value) in map {
            let mut keys = above.to_vec();
            keys.push(key.clone());
            match value {
                Value::Map(map) => walk(map, &keys, all),
                leaf => all.push((keys, text(leaf))),
            }
        }
    }
    let mut all = Vec::new();
    walk(content, &[], &mut all);
    all
}

/// A way to open sources at places.
struct Site {
    open: Mutex<Box<dyn FnMut(Place) -> Result<Subject> + Send>>,
}

impl Site {
    async fn open(self: &Arc<Self>, content: Map) -> Subject {
        let site = Arc::clone(self);
        let place = Place::new(content);
        // On a thread of its own: the future of a stranger's closure need not be `Send`.
        let opened = tokio::task::spawn_blocking(move || {
            let mut open = site.open.lock().unwrap_or_else(PoisonError::into_inner);
            open(place)
        });
        match opened.await {
            Ok(Ok(subject)) => subject,
            Ok(Err(err)) => panic!("the source does not open: {err:?}"),
            Err(err) => panic!("opening the source panicked: {err}"),
        }
    }
}

/// Runs the suite; `open` returns a source that holds the content of a [`Place`].
///
/// Keys of contents are lower-case letters, digits and single `_`, so that any backend can have
/// them. Cases run side by side, each at places of its own.
///
/// # Panics
///
/// If `open` fails the first time.
pub fn run<F>(open: F) -> ExitCode
where
    F: AsyncFn(Place) -> Result<Subject> + Clone + Send + 'static,
{
    let open = move |place: Place| runtime().block_on(open(place));
    let capabilities = match open(Place::new(Map::new())) {
        Ok(subject) => subject.capabilities(),
        Err(err) => panic!("the source does not open: {err:?}"),
    };
    run_cases(all_cases(), &capabilities, &move || {
        Ok(Arc::new(Site {
            open: Mutex::new(Box::new(open.clone())),
        }))
    })
}

fn all_cases() -> Vec<Case<Site, Capabilities>> {
    cases![Capabilities;
        the_backend_s_name_is_a_url_scheme,
        its_description_is_one_line,
        what_was_put_in_comes_out,
        values_become_what_is_asked_for,
        odd_texts_survive,
        long_texts_survive,
        an_empty_source_is_an_empty_layer,
        a_hundred_keys_are_found,
        loading_again_gives_the_same,
        the_watch_begins_with_the_present_state,
        a_source_that_does_not_change_stays_silent,
        every_watch_is_told,
        a_dropped_watch_disturbs_no_other,
        a_dropped_load_leaves_the_source_usable,
        a_configuration_reads_it,
        debug_shows_no_value,
        a_change_is_seen if changes,
        a_removed_key_is_gone if changes,
        a_change_between_load_and_watch_is_seen if changes,
        the_last_of_many_changes_is_seen if changes,
        a_watch_that_is_not_read_gets_to_the_newest if changes,
        no_state_is_half_of_two if changes,
        a_configuration_follows_it if changes,
        what_is_removed_is_not_found_and_may_come_back if removal,
        what_cannot_be_read_is_refused_and_may_be_mended if spoiling,
    ]
}

/// A content of one level below maps, by path.
fn content(pairs: &[(&str, Value)]) -> Map {
    let mut layer = Layer::new();
    for (at, value) in pairs {
        layer.set(at, value.clone()).expect("the paths agree");
    }
    layer.root().clone()
}

fn text(layer: &Layer, at: &str) -> Option<String> {
    match layer.get(at)? {
        Value::Text(text) | Value::Word(text) => Some(text.clone()),
        Value::Secret(secret) => Some(secret.expose().to_owned()),
        other => Some(other.to_string()),
    }
}

async fn load(subject: &Subject) -> Layer {
    subject.source.load().await.expect("the source is read")
}

/// The next state that is good.
async fn next(stream: &mut LayerStream, wanted: &str) -> Layer {
    let item = timeout(PATIENCE, stream.next())
        .await
        .unwrap_or_else(|_| panic!("the watch is silent; wanted: {wanted}"));
    item.unwrap_or_else(|| panic!("the watch ended; wanted: {wanted}"))
        .unwrap_or_else(|err| panic!("wanted {wanted}, got {err:?}"))
}

/// Reads a watch until a state is as wanted. Errors on the way are the source's to explain.
async fn until(
    stream: &mut LayerStream,
    wanted: &str,
    accept: impl Fn(&Layer) -> bool + Send + Sync,
) -> Layer {
    let search = async {
        let mut last = String::from("nothing");
        loop {
            let item = match timeout(PATIENCE, stream.next()).await {
                Ok(Some(item)) => item,
                Ok(None) => panic!("the watch ended; wanted: {wanted}"),
                Err(_) => panic!("the watch is silent; wanted: {wanted}; last: {last}"),
            };
            match item {
                Ok(layer) if accept(&layer) => return layer,
                Ok(layer) => last = format!("{layer:?}"),
                Err(err) => last = err.to_string(),
            }
        }
    };
    timeout(PATIENCE, search)
        .await
        .unwrap_or_else(|_| panic!("it did not come: {wanted}"))
}

async fn config(subject: &Subject) -> Config {
    Config::builder()
        .source(Arc::clone(&subject.source))
        .without_variables()
        .start(Runtime::new(tokio::spawn, tokio::time::sleep))
        .await
        .expect("the configuration starts")
}

/// The name is what a URL begins with.
async fn the_backend_s_name_is_a_url_scheme(site: Arc<Site>) {
    let subject = site.open(Map::new()).await;
    let name = subject.source.backend();
    let is_scheme = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    assert!(is_scheme, "'{name}' is no URL scheme");
}

/// Messages are lines, and what they name must be something.
async fn its_description_is_one_line(site: Arc<Site>) {
    let subject = site.open(Map::new()).await;
    let text = subject.source.describe();
    assert!(
        !text.is_empty() && !text.contains(char::is_control),
        "{text:?}"
    );
}

/// Maps within maps, and nothing besides.
async fn what_was_put_in_comes_out(site: Arc<Site>) {
    let put = content(&[
        ("name", "greeter".into()),
        ("http.max_conns", "a".into()),
        ("http.tls.cert", "b".into()),
    ]);
    let subject = site.open(put).await;
    let layer = load(&subject).await;
    assert_eq!(text(&layer, "name").as_deref(), Some("greeter"));
    assert_eq!(text(&layer, "http.max_conns").as_deref(), Some("a"));
    assert_eq!(text(&layer, "http.tls.cert").as_deref(), Some("b"));
    assert_eq!(words(layer.root()).len(), 3, "{layer:?}");
}

/// A source without types and one with them are read alike.
async fn values_become_what_is_asked_for(site: Arc<Site>) {
    let subject = site
        .open(content(&[
            ("port", 8080.into()),
            ("below", Value::Int(-5)),
            ("ratio", 0.25.into()),
            ("on", true.into()),
            ("wait", "250ms".into()),
            ("peers", vec![Value::from("a"), Value::from("b")].into()),
            ("digits", "007".into()),
        ]))
        .await;
    let config = config(&subject).await;
    assert_eq!(config.get::<u16>("port").unwrap(), 8080);
    assert_eq!(config.get::<i8>("below").unwrap(), -5);
    assert_eq!(config.get::<f64>("ratio").unwrap(), 0.25);
    assert!(config.get::<bool>("on").unwrap());
    assert_eq!(
        config.get::<Duration>("wait").unwrap(),
        Duration::from_millis(250)
    );
    assert_eq!(config.get::<Vec<String>>("peers").unwrap(), ["a", "b"]);
    assert_eq!(config.get::<String>("digits").unwrap(), "007");
    let err = config.get::<u8>("port").unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidArgument);
}

/// What stands in a text is the reader's business.
async fn odd_texts_survive(site: Arc<Site>) {
    let texts = [
        "",
        " ",
        "a=b",
        "a\"b'c",
        "tabs\tand\nlines",
        "{}",
        "[1]",
        "# no comment",
        "äöü ✓ 🦀",
        "null",
        "${HOME}",
        "\\n",
        "1e3",
        "a: b",
        "- x",
    ];
    let keys: Vec<String> = (0..texts.len()).map(|index| format!("k{index}")).collect();
    let pairs: Vec<(&str, Value)> = keys
        .iter()
        .map(String::as_str)
        .zip(texts.iter().map(|text| Value::from(*text)))
        .collect();
    let subject = site.open(content(&pairs)).await;
    let layer = load(&subject).await;
    for (key, expected) in keys.iter().zip(texts) {
        assert_eq!(text(&layer, key).as_deref(), Some(expected), "{key}");
    }
}

/// A certificate, say.
async fn long_texts_survive(site: Arc<Site>) {
    let long = "0123456789abcdef".repeat(4096);
    let subject = site.open(content(&[("long", long.as_str().into())])).await;
    assert_eq!(text(&load(&subject).await, "long"), Some(long));
}

/// Nothing is not an error: it is a configuration that says nothing.
async fn an_empty_source_is_an_empty_layer(site: Arc<Site>) {
    let subject = site.open(Map::new()).await;
    assert!(load(&subject).await.root().is_empty());
}

/// Many keys on several levels.
async fn a_hundred_keys_are_found(site: Arc<Site>) {
    let mut layer = Layer::new();
    for index in 0..100 {
        let at = format!("level{}.key{index}", index % 7);
        layer.set(&at, format!("value {index}")).unwrap();
    }
    let subject = site.open(layer.root().clone()).await;
    let found = load(&subject).await;
    for index in 0..100 {
        let at = format!("level{}.key{index}", index % 7);
        assert_eq!(text(&found, &at), Some(format!("value {index}")), "{at}");
    }
}

/// Reading changes nothing.
async fn loading_again_gives_the_same(site: Arc<Site>) {
    let subject = site.open(content(&[("a.b", "1".into())])).await;
    let first = load(&subject).await;
    assert_eq!(first, load(&subject).await);
}

/// So that nothing is lost between a load and the watch.
async fn the_watch_begins_with_the_present_state(site: Arc<Site>) {
    let subject = site.open(content(&[("a.b", "1".into())])).await;
    let loaded = load(&subject).await;
    let mut watch = subject.watch().await;
    assert_eq!(next(&mut watch, "the present state").await, loaded);
}

/// No change is no news, and no reason to end.
async fn a_source_that_does_not_change_stays_silent(site: Arc<Site>) {
    let subject = site.open(content(&[("a", "1".into())])).await;
    let mut watch = subject.watch().await;
    let first = next(&mut watch, "the present state").await;
    match timeout(SILENCE, watch.next()).await {
        Err(_) => {}
        // The same again does no harm; an end or an error would.
        Ok(Some(Ok(again))) => assert_eq!(again, first),
        Ok(other) => panic!("nothing changed, and the watch says {other:?}"),
    }
}

/// Two watches are two readers, not a shared queue.
async fn every_watch_is_told(site: Arc<Site>) {
    let subject = site.open(content(&[("a", "1".into())])).await;
    let mut first = subject.watch().await;
    let mut second = subject.watch().await;
    for watch in [&mut first, &mut second] {
        let layer = next(watch, "the present state").await;
        assert_eq!(text(&layer, "a").as_deref(), Some("1"));
    }
    if subject.capabilities().changes {
        subject.write(&content(&[("a", "2".into())])).await;
        for watch in [&mut first, &mut second] {
            until(watch, "a is 2", |layer| {
                text(layer, "a").as_deref() == Some("2")
            })
            .await;
        }
    }
}

/// The one that stays is told.
async fn a_dropped_watch_disturbs_no_other(site: Arc<Site>) {
    let subject = site.open(content(&[("a", "1".into())])).await;
    let dropped = subject.watch().await;
    let mut stays = subject.watch().await;
    drop(dropped);
    next(&mut stays, "the present state").await;
    if subject.capabilities().changes {
        subject.write(&content(&[("a", "2".into())])).await;
        until(&mut stays, "a is 2", |layer| {
            text(layer, "a").as_deref() == Some("2")
        })
        .await;
    }
}

/// Futures may be dropped wherever they wait.
async fn a_dropped_load_leaves_the_source_usable(site: Arc<Site>) {
    let subject = site.open(content(&[("a", "1".into())])).await;
    for _ in 0..20 {
        let _ = poll_immediate(subject.source.load()).await;
        let _ = poll_immediate(subject.source.watch()).await;
    }
    assert_eq!(text(&load(&subject).await, "a").as_deref(), Some("1"));
}

/// The whole way, with the source named by `explain`.
async fn a_configuration_reads_it(site: Arc<Site>) {
    let subject = site.open(content(&[("a.b", "x".into())])).await;
    let config = config(&subject).await;
    assert_eq!(config.get::<String>("a.b").unwrap(), "x");
    let explained = config.explain("a.b");
    assert_eq!(explained.found.len(), 1, "{explained}");
    assert_eq!(explained.found[0].source, subject.source.describe());
    config.close().await;
}

/// Attack S-71: a configuration holds passwords.
async fn debug_shows_no_value(site: Arc<Site>) {
    let canary = "canary-5f1c";
    let subject = site.open(content(&[("password", canary.into())])).await;
    let layer = load(&subject).await;
    let config = config(&subject).await;
    let printed = format!(
        "{:?} {layer:?} {config:?} {} {:?}",
        subject.source,
        config.explain("password"),
        *config.status().get(),
    );
    assert!(!printed.contains(canary), "{printed}");
}

/// A watch tells of the new state as a whole.
async fn a_change_is_seen(site: Arc<Site>) {
    let subject = site
        .open(content(&[("a", "1".into()), ("b", "1".into())]))
        .await;
    let mut watch = subject.watch().await;
    next(&mut watch, "the present state").await;
    let new = content(&[("a", "2".into()), ("b", "1".into())]);
    subject.write(&new).await;
    let seen = until(&mut watch, "a is 2", |layer| {
        text(layer, "a").as_deref() == Some("2")
    })
    .await;
    assert_eq!(text(&seen, "b").as_deref(), Some("1"));
    assert_eq!(load(&subject).await, seen);
}

/// A state is everything: what it does not have is not there.
async fn a_removed_key_is_gone(site: Arc<Site>) {
    let subject = site
        .open(content(&[("a.b", "1".into()), ("c", "1".into())]))
        .await;
    let mut watch = subject.watch().await;
    next(&mut watch, "the present state").await;
    subject.write(&content(&[("c", "1".into())])).await;
    let seen = until(&mut watch, "a.b is gone", |layer| {
        layer.get("a.b").is_none()
    })
    .await;
    assert_eq!(text(&seen, "c").as_deref(), Some("1"));
}

/// The first item of a watch is what holds then.
async fn a_change_between_load_and_watch_is_seen(site: Arc<Site>) {
    let subject = site.open(content(&[("a", "1".into())])).await;
    load(&subject).await;
    subject.write(&content(&[("a", "2".into())])).await;
    let mut watch = subject.watch().await;
    until(&mut watch, "a is 2", |layer| {
        text(layer, "a").as_deref() == Some("2")
    })
    .await;
}

/// Steps may be left out, the end may not.
async fn the_last_of_many_changes_is_seen(site: Arc<Site>) {
    let subject = site.open(content(&[("n", "0".into())])).await;
    let mut watch = subject.watch().await;
    let writing = async {
        for n in 1..=50 {
            subject
                .write(&content(&[("n", n.to_string().into())]))
                .await;
        }
    };
    let reading = until(&mut watch, "n is 50", |layer| {
        text(layer, "n").as_deref() == Some("50")
    });
    tokio::join!(writing, reading);
}

/// A reader that is late gets the newest, not a history.
async fn a_watch_that_is_not_read_gets_to_the_newest(site: Arc<Site>) {
    let subject = site.open(content(&[("n", "0".into())])).await;
    let mut slow = subject.watch().await;
    let mut quick = subject.watch().await;
    next(&mut slow, "the present state").await;
    for n in 1..=30 {
        subject
            .write(&content(&[("n", n.to_string().into())]))
            .await;
    }
    let last = |layer: &Layer| text(layer, "n").as_deref() == Some("30");
    until(&mut quick, "n is 30", last).await;
    let mut steps = 0;
    while !last(&next(&mut slow, "n is 30").await) {
        steps += 1;
        assert!(steps < 30, "the watch keeps a history");
    }
}

/// Two keys that are always written together are never seen apart.
async fn no_state_is_half_of_two(site: Arc<Site>) {
    let both = |n: u32| {
        let padding = "x".repeat(n as usize * 100);
        content(&[
            ("first", n.to_string().into()),
            ("padding", padding.into()),
            ("second", n.to_string().into()),
        ])
    };
    let subject = site.open(both(0)).await;
    let mut watch = subject.watch().await;
    let writing = async {
        for n in 1..=40 {
            subject.write(&both(n)).await;
            sleep(Duration::from_millis(5)).await;
        }
    };
    let reading = until(&mut watch, "both are 40", |layer| {
        let (first, second) = (text(layer, "first"), text(layer, "second"));
        assert_eq!(first, second, "half of a state was seen");
        first.as_deref() == Some("40")
    });
    tokio::join!(writing, reading);
}

/// A live value follows the source, and keeps its last good value.
async fn a_configuration_follows_it(site: Arc<Site>) {
    let subject = site.open(content(&[("port", 1.into())])).await;
    let config = config(&subject).await;
    let port = config.live::<u16>("port").unwrap();
    assert_eq!(*port.get(), 1);
    let mut changes = port.changes();
    subject.write(&content(&[("port", 2.into())])).await;
    let seen = timeout(PATIENCE, changes.changed()).await;
    assert_eq!(*seen.expect("the change is seen"), 2);
    subject
        .write(&content(&[("port", "no number".into())]))
        .await;
    let status = config.status();
    let refused = async {
        let mut changes = status.changes();
        while config.refusals().is_empty() {
            changes.changed().await;
        }
    };
    timeout(PATIENCE, refused)
        .await
        .expect("the refusal is reported");
    assert_eq!(*port.get(), 2);
    let refusal = &config.refusals()[0];
    assert_eq!(refusal.path.as_deref(), Some("port"), "{refusal}");
    config.close().await;
}

/// Absence is an error item, and no end.
async fn what_is_removed_is_not_found_and_may_come_back(site: Arc<Site>) {
    let subject = site.open(content(&[("a", "1".into())])).await;
    let mut watch = subject.watch().await;
    next(&mut watch, "the present state").await;
    subject.writer().remove().await.expect("it is removed");
    let said = timeout(PATIENCE, watch.next())
        .await
        .expect("the watch tells of the removal")
        .expect("the watch goes on");
    let err = said.expect_err("what is not there has no state");
    assert_eq!(err.kind(), ErrorKind::NotFound, "{err}");
    let err = subject.source.load().await.expect_err("it is not there");
    assert_eq!(err.kind(), ErrorKind::NotFound, "{err}");
    subject.write(&content(&[("a", "2".into())])).await;
    until(&mut watch, "a is 2", |layer| {
        text(layer, "a").as_deref() == Some("2")
    })
    .await;
}

/// What cannot be read is an error item that shows nothing of it, and no end.
async fn what_cannot_be_read_is_refused_and_may_be_mended(site: Arc<Site>) {
    let subject = site.open(content(&[("a", "1".into())])).await;
    let mut watch = subject.watch().await;
    next(&mut watch, "the present state").await;
    subject.writer().spoil().await.expect("it is spoilt");
    let said = timeout(PATIENCE, watch.next())
        .await
        .expect("the watch tells of it")
        .expect("the watch goes on");
    let err = said.expect_err("what cannot be read is no state");
    assert!(
        !matches!(err.kind(), ErrorKind::NotFound | ErrorKind::Unavailable),
        "it is there: {err}"
    );
    subject.write(&content(&[("a", "2".into())])).await;
    until(&mut watch, "a is 2", |layer| {
        text(layer, "a").as_deref() == Some("2")
    })
    .await;
}
