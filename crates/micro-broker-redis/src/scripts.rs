//! The scripts.

use std::sync::LazyLock;

use micro_redis::Script;
use micro_redis::redis::Cmd;

macro_rules! scripts {
    ($($name:ident = $($part:literal),+;)*) => {
        $(pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!($(include_str!(concat!("lua/", $part, ".lua"))),+))
        });)*
    };
}

scripts! {
    PROBE = "probe";
    PUBLISH = "prelude", "publish";
    BEAT = "prelude", "beat";
    NUDGE = "prelude", "nudge";
    REMOVE = "prelude", "remove";
    SUBSCRIBE = "prelude", "group", "subscribe";
    TAKE = "prelude", "group", "take";
    SETTLE = "prelude", "group", "settle";
}

/// An invocation for a topic, by its name with its namespace.
pub(crate) fn of_topic(script: &Script, root: &str, name: &str) -> Cmd {
    let mut invocation = script.invocation();
    invocation
        .arg(1)
        .arg(format!("{root}:s:{name}"))
        .arg(root)
        .arg(name);
    invocation
}
