//! The part of TOML that manifests use, read strictly: what it does not know is an error.
//!
//! A full parser would be the only dependency of this crate and most of its build time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::failure::{Failure, OrFail as _, Result};

/// A table; dotted keys and headers have become tables inside tables.
pub(crate) type Table = BTreeMap<String, Value>;

/// A value of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Flag(bool),
    /// A number or a date: nothing here asks for one.
    Other(String),
    List(Vec<Self>),
    Table(Table),
}

impl Value {
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn flag(&self) -> Option<bool> {
        match self {
            Self::Flag(flag) => Some(*flag),
            _ => None,
        }
    }

    pub(crate) fn table(&self) -> Option<&Table> {
        match self {
            Self::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The texts of a list; other values in it are left out.
    pub(crate) fn texts(&self) -> Vec<&str> {
        match self {
            Self::List(values) => values.iter().filter_map(Self::text).collect(),
            _ => Vec::new(),
        }
    }
}

/// Follows a path of keys, such as `["package", "license", "workspace"]`.
pub(crate) fn find<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = table.get(*first)?;
    if rest.is_empty() {
        Some(value)
    } else {
        find(value.table()?, rest)
    }
}

/// Reads a manifest.
pub(crate) fn read(path: &Path) -> Result<Table> {
    let text = fs::read_to_string(path).or_fail(path.display())?;
    parse(&text).map_err(|err| Failure::new(format!("{}: {err}", path.display())))
}

/// Parses a manifest; the error names the line.
pub(crate) fn parse(text: &str) -> std::result::Result<Table, String> {
    let mut reader = Reader {
        rest: text,
        whole: text,
    };
    reader
        .document()
        .map_err(|err| format!("line {}: {err}", reader.line()))
}

struct Reader<'a> {
    rest: &'a str,
    whole: &'a str,
}

type Parsed<T> = std::result::Result<T, String>;

impl Reader<'_> {
    fn line(&self) -> usize {
        let done = self.whole.len() - self.rest.len();
        self.whole[..done].matches('\n').count() + 1
    }

    fn document(&mut self) -> Parsed<Table> {
        let mut root = Table::new();
        let mut header: Vec<String> = Vec::new();
        loop {
            self.skip_blank();
            if self.rest.is_empty() {
                return Ok(root);
            }
            if self.eat("[[") {
                header = self.path()?;
                self.expect("]]")?;
                open_list(&mut root, &header)?;
            } else if self.eat("[") {
                header = self.path()?;
                self.expect("]")?;
                open(&mut root, &header)?;
            } else {
                let path = self.path()?;
                self.expect("=")?;
                let value = self.value()?;
                put(open(&mut root, &header)?, &path, value)?;
            }
            self.end_of_line()?;
        }
    }

    fn value(&mut self) -> Parsed<Value> {
        self.skip_spaces();
        if self.rest.starts_with(['"', '\'']) {
            return self.string().map(Value::Text);
        }
        if self.eat("[") {
            let mut values = Vec::new();
            loop {
                self.skip_blank();
                if self.eat("]") {
                    return Ok(Value::List(values));
                }
                values.push(self.value()?);
                self.skip_blank();
                if !self.eat(",") && !self.rest.starts_with(']') {
                    return Err("expected `,` or `]` in a list".to_owned());
                }
            }
        }
        if self.eat("{") {
            let mut table = Table::new();
            loop {
                self.skip_blank();
                if self.eat("}") {
                    return Ok(Value::Table(table));
                }
                let path = self.path()?;
                self.expect("=")?;
                let value = self.value()?;
                put(&mut table, &path, value)?;
                self.skip_blank();
                if !self.eat(",") && !self.rest.starts_with('}') {
                    return Err("expected `,` or `}` in a table".to_owned());
                }
            }
        }
        let word = self.take_while(|c| c.is_ascii_alphanumeric() || "+-._:".contains(c));
        match word.as_str() {
            "true" => Ok(Value::Flag(true)),
            "false" => Ok(Value::Flag(false)),
            "" => Err("expected a value".to_owned()),
            _ if word.starts_with(|c: char| c.is_ascii_digit() || "+-".contains(c)) => {
                Ok(Value::Other(word))
            }
            _ => Err(format!("`{word}` is not a value")),
        }
    }

    fn path(&mut self) -> Parsed<Vec<String>> {
        let mut path = Vec::new();
        loop {
            self.skip_spaces();
            let key = if self.rest.starts_with(['"', '\'']) {
                self.string()?
            } else {
                self.take_while(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            };
            if key.is_empty() {
                return Err("expected a key".to_owned());
            }
            path.push(key);
            self.skip_spaces();
            if !self.eat(".") {
                return Ok(path);
            }
        }
    }

    fn string(&mut self) -> Parsed<String> {
        if self.eat("'''") {
            return self.until("'''");
        }
        if self.eat("'") {
            return self.until("'");
        }
        let many_lines = self.eat("\"\"\"");
        if !many_lines {
            self.expect("\"")?;
        } else if !self.eat("\n") {
            self.eat("\r\n");
        }
        let end = if many_lines { "\"\"\"" } else { "\"" };
        let mut text = String::new();
        loop {
            if self.eat(end) {
                return Ok(text);
            }
            match self.next() {
                None => return Err("a string without an end".to_owned()),
                Some('\n') if !many_lines => return Err("a string without an end".to_owned()),
                Some('\\') => match self.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(c @ ('"' | '\\')) => text.push(c),
                    Some('\n') if many_lines => {
                        self.take_while(char::is_whitespace);
                    }
                    other => return Err(format!("unknown escape {other:?} in a string")),
                },
                Some(c) => text.push(c),
            }
        }
    }

    fn until(&mut self, end: &str) -> Parsed<String> {
        let (text, rest) = self
            .rest
            .split_once(end)
            .ok_or_else(|| "a string without an end".to_owned())?;
        self.rest = rest;
        Ok(text.to_owned())
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken.to_owned()
    }

    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        self.skip_spaces();
        if self.eat(token) {
            Ok(())
        } else {
            Err(format!("expected `{token}`"))
        }
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    /// Skips white space, line ends and comments.
    fn skip_blank(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.starts_with('#') {
                return;
            }
            self.take_while(|c| c != '\n');
        }
    }

    fn end_of_line(&mut self) -> Parsed<()> {
        self.skip_spaces();
        if self.rest.starts_with('#') {
            self.take_while(|c| c != '\n');
        }
        if self.rest.is_empty() || self.eat("\n") || self.eat("\r\n") {
            Ok(())
        } else {
            Err("expected the end of the line".to_owned())
        }
    }
}

/// The table at `path`, made if it is not there; the last element of a list of tables.
fn open<'a>(table: &'a mut Table, path: &[String]) -> Parsed<&'a mut Table> {
    let Some((first, rest)) = path.split_first() else {
        return Ok(table);
    };
    let value = table
        .entry(first.clone())
        .or_insert_with(|| Value::Table(Table::new()));
    let value = match value {
        Value::List(values) => values
            .last_mut()
            .ok_or_else(|| format!("`{first}` is an empty list"))?,
        value => value,
    };
    match value {
        Value::Table(inner) => open(inner, rest),
        _ => Err(format!("`{first}` is not a table")),
    }
}

fn open_list(table: &mut Table, path: &[String]) -> Parsed<()> {
    let (last, parents) = path.split_last().ok_or("an empty header")?;
    let list = open(table, parents)?
        .entry(last.clone())
        .or_insert_with(|| Value::List(Vec::new()));
    match list {
        Value::List(values) => {
            values.push(Value::Table(Table::new()));
            Ok(())
        }
        _ => Err(format!("`{last}` is not a list of tables")),
    }
}

fn put(table: &mut Table, path: &[String], value: Value) -> Parsed<()> {
    let (last, parents) = path.split_last().ok_or("an empty key")?;
    match open(table, parents)?.insert(last.clone(), value) {
        None => Ok(()),
        Some(_) => Err(format!("`{last}` is given twice")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read() {
        let table = parse(
            r#"
# comment
[package]
name = "micro-x" # trailing
license.workspace = true
authors = [
    "a", # one
    'b',
]
[dependencies]
tokio = { workspace = true, features = ["sync"] }
[target.'cfg(unix)'.dependencies]
x.workspace = true
[[test]]
name = "conformance"
harness = false
[[test]]
name = "other"
"#,
        )
        .expect("it parses");
        let text = |path: &[&str]| find(&table, path).and_then(Value::text);
        let flag = |path: &[&str]| find(&table, path).and_then(Value::flag);
        assert_eq!(text(&["package", "name"]), Some("micro-x"));
        assert_eq!(flag(&["package", "license", "workspace"]), Some(true));
        assert_eq!(
            table["package"].table().expect("a table")["authors"].texts(),
            ["a", "b"]
        );
        assert_eq!(flag(&["dependencies", "tokio", "workspace"]), Some(true));
        assert_eq!(
            flag(&["target", "cfg(unix)", "dependencies", "x", "workspace"]),
            Some(true)
        );
        let Value::List(tests) = &table["test"] else {
            panic!("a list of tables");
        };
        assert_eq!(tests.len(), 2);
    }

    #[test]
    fn strings_and_their_escapes() {
        let table = parse("a = \"x\\\"y\\n\"\nb = '''\\raw'''\nc = \"\"\"\nline\n\"\"\"\n")
            .expect("it parses");
        assert_eq!(table["a"].text(), Some("x\"y\n"));
        assert_eq!(table["b"].text(), Some("\\raw"));
        assert_eq!(table["c"].text(), Some("line\n"));
    }

    #[test]
    fn errors_name_the_line() {
        for (text, line) in [
            ("a = 1\nb = nonsense\n", "line 2"),
            ("a = \"open\n", "line"),
            ("a = 1\na = 2\n", "line"),
            ("[t\n", "line 1"),
            ("a = [1 2]\n", "line 1"),
            ("a = 1 b = 2\n", "line 1"),
        ] {
            let err = parse(text).expect_err(text);
            assert!(err.contains(line), "{text:?}: {err}");
        }
    }
}
