//! Paths into the configuration: `server.http.port`, `servers.0.host`.
//!
//! Keys are separated by dots; a dot or a backslash within a key is written behind a backslash.
//! The empty path is the whole configuration.

use std::fmt::Write as _;

/// The keys of a path.
///
/// ```
/// use micro_config_core::path;
///
/// assert_eq!(path::split(r"hosts.example\.com.port"), ["hosts", "example.com", "port"]);
/// assert!(path::split("").is_empty());
/// ```
#[must_use]
pub fn split(path: &str) -> Vec<String> {
    let mut keys = Vec::new();
    if path.is_empty() {
        return keys;
    }
    let mut key = String::new();
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '.' => keys.push(std::mem::take(&mut key)),
            '\\' => key.extend(chars.next()),
            _ => key.push(c),
        }
    }
    keys.push(key);
    keys
}

/// The path of keys: the reverse of [`split`].
#[must_use]
pub fn join<K: AsRef<str>>(keys: impl IntoIterator<Item = K>) -> String {
    let mut path = String::new();
    for (i, key) in keys.into_iter().enumerate() {
        if i > 0 {
            path.push('.');
        }
        push_key(&mut path, key.as_ref());
    }
    path
}

fn push_key(path: &mut String, key: &str) {
    for c in key.chars() {
        if matches!(c, '.' | '\\') {
            path.push('\\');
        }
        if c.is_control() {
            // A path is printed; what it is made of may come from a stranger.
            let _ = write!(path, "{}", c.escape_default());
        } else {
            path.push(c);
        }
    }
}

/// `parent.key`, for one key more.
#[must_use]
pub fn child(parent: &str, key: &str) -> String {
    let mut path = String::with_capacity(parent.len() + key.len() + 1);
    path.push_str(parent);
    if !parent.is_empty() {
        path.push('.');
    }
    push_key(&mut path, key);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_dots_come_back() {
        for keys in [vec!["a"], vec!["a", "b"], vec!["a.b", "c\\d", "", "e"]] {
            assert_eq!(split(&join(&keys)), keys);
        }
        assert_eq!(join(["a\n", "b"]), "a\\n.b");
        assert_eq!(child("", "a"), "a");
        assert_eq!(child("a", "b.c"), "a.b\\.c");
    }
}
