//! From bytes to a layer. Messages name file, line and key, and nothing of the content.

use std::path::Path;
use std::str::FromStr;

use micro_config_core::{Error, Layer, Map, Result, Value, path};
use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::FileConfig;
use crate::content::{Content, Kind};

/// What a file is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// `.json`
    Json,
    /// `.toml`
    Toml,
    /// `.yaml`, `.yml`
    Yaml,
}

impl Format {
    /// The format of a file by its extension.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        path.extension()?.to_str()?.parse().ok()
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "json" => Ok(Self::Json),
            "toml" => Ok(Self::Toml),
            "yaml" | "yml" => Ok(Self::Yaml),
            _ => Err(Error::invalid_argument(
                "a configuration is written in json, toml or yaml",
            )),
        }
    }
}

/// What a text gave: its values, and the lines of the keys of which they are known.
struct Parsed {
    root: Map,
    lines: Vec<(String, usize)>,
}

/// Why a text gave nothing.
struct Wrong {
    message: String,
    line: Option<usize>,
    key: Option<String>,
}

impl Wrong {
    fn new(message: impl Into<String>, line: Option<usize>) -> Self {
        Self {
            message: message.into(),
            line,
            key: None,
        }
    }

    fn in_file(self, name: &str) -> Error {
        let mut err = Error::invalid_argument(self.message)
            .with_operation("config.file")
            .with_context("file", name.escape_debug());
        if let Some(line) = self.line {
            err = err.with_context("place", format_args!("line {line}"));
        }
        if let Some(key) = self.key {
            err = err.with_context("key", key);
        }
        err
    }
}

/// Makes a layer of what was read.
pub(crate) fn parse(content: &Content, config: &FileConfig) -> Result<Layer> {
    let mut whole = Layer::new();
    for (name, bytes) in &content.files {
        let format = match (content.kind, config.secrets) {
            (_, true) => None,
            (Kind::File, _) => Some(
                config
                    .format
                    .or_else(|| Format::of(&config.path))
                    .ok_or_else(|| {
                        Error::invalid_argument(
                            "the file's name ends neither in .json nor .toml nor .yaml: say its format",
                        )
                        .with_operation("config.file")
                        .with_context("file", name.escape_debug())
                    })?,
            ),
            _ => Format::of(Path::new(name)),
        };
        let at = |place: String| match content.kind {
            Kind::File => place,
            _ => format!("{name} {place}").trim_end().to_owned(),
        };
        match format {
            None => {
                let keys = path::split(name);
                let text = key_text(bytes).map_err(|wrong| wrong.in_file(name))?;
                let value = match config.secrets {
                    true => Value::Secret(text.into()),
                    false => Value::Word(text),
                };
                whole
                    .set_keys(&keys, value)
                    .map_err(|err| err.with_context("file", name.escape_debug()))?;
                whole.add_place(path::join(&keys), at(String::new()));
            }
            Some(format) => {
                let parsed =
                    document(bytes, format, config).map_err(|wrong| wrong.in_file(name))?;
                let mut places: Vec<(String, String)> = parsed
                    .lines
                    .into_iter()
                    .map(|(key, line)| (key, at(format!("line {line}"))))
                    .collect();
                if content.kind != Kind::File {
                    let known = parsed.root.keys();
                    places.extend(known.map(|key| (path::join([key]), name.clone())));
                }
                whole = over(whole, parsed.root)?;
                // From the top down: a line says more than a file.
                places.sort_by_key(|(_, place)| place.contains(" line "));
                for (key, place) in places {
                    whole.add_place(key, place);
                }
            }
        }
    }
    Ok(whole)
}

/// Puts a document over those before it, keeping the places.
fn over(mut below: Layer, above: Map) -> Result<Layer> {
    fn put(layer: &mut Layer, keys: &mut Vec<String>, value: Value) -> Result<()> {
        match value {
            // Two maps are one; a map over a value replaces it.
            Value::Map(map) if matches!(layer.get(&path::join(&*keys)), Some(Value::Map(_))) => {
                for (key, value) in map {
                    keys.push(key);
                    put(layer, keys, value)?;
                    keys.pop();
                }
                Ok(())
            }
            value => layer.replace_keys(keys, value),
        }
    }
    for (key, value) in above {
        put(&mut below, &mut vec![key], value)?;
    }
    Ok(below)
}

/// The text of a file that is a key: as it is, but for the line end that editors add.
fn key_text(bytes: &[u8]) -> Result<String, Wrong> {
    let text = utf8(bytes)?;
    if let Some(at) = text.find('\0') {
        return Err(Wrong::new(
            "there is a NUL in the file",
            Some(line_of(text, at)),
        ));
    }
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

fn utf8(bytes: &[u8]) -> Result<&str, Wrong> {
    const BOMS: [&[u8]; 3] = [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"];
    if BOMS.iter().any(|bom| bytes.starts_with(bom)) {
        return Err(Wrong::new(
            "the file begins with a byte order mark; save it as UTF-8 without one",
            Some(1),
        ));
    }
    std::str::from_utf8(bytes).map_err(|err| {
        let line = 1 + bytes[..err.valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        Wrong::new("the file is not UTF-8", Some(line))
    })
}

fn line_of(text: &str, at: usize) -> usize {
    let before = text.get(..at).unwrap_or(text);
    1 + before.bytes().filter(|byte| *byte == b'\n').count()
}

fn document(bytes: &[u8], format: Format, config: &FileConfig) -> Result<Parsed, Wrong> {
    let text = utf8(bytes)?;
    if let Some(at) = text.find('\0') {
        return Err(Wrong::new(
            "there is a NUL in the file",
            Some(line_of(text, at)),
        ));
    }
    // Within texts of several lines a CR would become part of values without anybody seeing it.
    if let Some(at) = text.find('\r') {
        return Err(Wrong::new(
            "there is a CR in the file; save it with LF line ends",
            Some(line_of(text, at)),
        ));
    }
    let text = match &config.end {
        None => text,
        Some(end) => text
            .trim_end()
            .strip_suffix(end.as_str())
            .filter(|rest| rest.is_empty() || rest.ends_with('\n'))
            .ok_or_else(|| {
                Wrong::new(
                    "the file does not end with its last line; it is not complete",
                    None,
                )
            })?,
    };
    let parsed = match format {
        Format::Json => json(text)?,
        Format::Toml => toml(text)?,
        Format::Yaml => yaml(text)?,
    };
    Ok(parsed)
}

fn map_of(value: Value) -> Result<Map, Wrong> {
    match value {
        Value::Map(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        other => Err(Wrong::new(
            format!(
                "a configuration is a map of keys to values, not {}",
                other.kind()
            ),
            Some(1),
        )),
    }
}

fn json(text: &str) -> Result<Parsed, Wrong> {
    // An empty file is what a writer leaves that has just begun.
    let value: Value = serde_json::from_str(text).map_err(|err| {
        // serde_json says what it wanted and where, and quotes nothing.
        let message = err.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        key_in(Wrong::new(format!("no JSON: {message}"), Some(err.line())))
    })?;
    let root = map_of(value)?;
    let lines = json_lines(text, &root);
    Ok(Parsed { root, lines })
}

/// Takes the key out of the message of a key that stands twice.
fn key_in(mut wrong: Wrong) -> Wrong {
    let key = wrong
        .message
        .split_once("the key \"")
        .and_then(|(_, rest)| rest.split_once("\" stands"))
        .map(|(key, _)| key.to_owned());
    wrong.key = key;
    wrong
}

/// The lines of the keys of a JSON text that is known to be well-formed.
fn json_lines(text: &str, root: &Map) -> Vec<(String, usize)> {
    /// Where a scan stands within maps and lists.
    enum Level {
        Map(Option<String>),
        List(usize),
    }
    let mut lines = Vec::new();
    let mut levels: Vec<Level> = Vec::new();
    let mut line = 1;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\n' => line += 1,
            '{' => levels.push(Level::Map(None)),
            '[' => levels.push(Level::List(0)),
            '}' | ']' => {
                levels.pop();
            }
            ',' => match levels.last_mut() {
                Some(Level::Map(key)) => *key = None,
                Some(Level::List(index)) => *index += 1,
                None => {}
            },
            '"' => {
                let mut end = at + 1;
                let mut escaped = false;
                for (at, c) in chars.by_ref() {
                    end = at + 1;
                    match c {
                        _ if escaped => escaped = false,
                        '\\' => escaped = true,
                        '"' => break,
                        _ => {}
                    }
                }
                let Some(Level::Map(key @ None)) = levels.last_mut() else {
                    continue;
                };
                *key = serde_json::from_str(&text[at..end]).ok();
                let keys: Vec<String> = levels
                    .iter()
                    .map(|level| match level {
                        Level::Map(key) => key.clone().unwrap_or_default(),
                        Level::List(index) => index.to_string(),
                    })
                    .collect();
                lines.push((path::join(keys), line));
            }
            _ => {}
        }
    }
    // What does not fit was not understood: no line is better than a wrong one.
    let whole = Value::Map(root.clone());
    lines.retain(|(key, _)| whole.at(key).is_some());
    lines
}

fn toml(text: &str) -> Result<Parsed, Wrong> {
    let table = DeTable::parse(text).map_err(|err| {
        let line = err.span().map(|span| line_of(text, span.start));
        // Its `Display` quotes the line; its message does not.
        let message = err.message().lines().next().unwrap_or_default();
        let mut wrong = Wrong::new(format!("no TOML: {message}"), line);
        if message.contains("duplicate key") {
            let key = err.span().and_then(|span| text.get(span));
            wrong.key = key.map(|key| key.chars().take(100).collect());
        }
        wrong
    })?;
    let mut lines = Vec::new();
    let root = toml_map(table.get_ref(), text, "", &mut lines)?;
    Ok(Parsed { root, lines })
}

fn toml_map(
    table: &DeTable<'_>,
    text: &str,
    above: &str,
    lines: &mut Vec<(String, usize)>,
) -> Result<Map, Wrong> {
    let mut map = Map::new();
    for (key, value) in table {
        let at = path::child(above, key.get_ref());
        let line = line_of(text, key.span().start);
        lines.push((at.clone(), line));
        map.insert(
            key.get_ref().to_string(),
            toml_value(value, text, &at, lines)?,
        );
    }
    Ok(map)
}

fn toml_value(
    value: &Spanned<DeValue<'_>>,
    text: &str,
    at: &str,
    lines: &mut Vec<(String, usize)>,
) -> Result<Value, Wrong> {
    let out_of_range = || Wrong {
        message: "the number does not fit into 64 bits".to_owned(),
        line: Some(line_of(text, value.span().start)),
        key: Some(at.to_owned()),
    };
    Ok(match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Integer(number) => {
            let (digits, radix) = (number.as_str(), number.radix());
            match i64::from_str_radix(digits, radix) {
                Ok(number) => Value::Int(number),
                Err(_) => u64::from_str_radix(digits, radix)
                    .map(Value::Uint)
                    .map_err(|_| out_of_range())?,
            }
        }
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map(Value::Float)
            .map_err(|_| out_of_range())?,
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(items) => {
            let mut list = Vec::new();
            for (index, item) in items.iter().enumerate() {
                let at = path::child(at, &index.to_string());
                list.push(toml_value(item, text, &at, lines)?);
            }
            Value::List(list)
        }
        DeValue::Table(table) => Value::Map(toml_map(table, text, at, lines)?),
    })
}

fn yaml(text: &str) -> Result<Parsed, Wrong> {
    let wrong = |err: &yaml_serde::Error| {
        let line = err.location().map(|location| location.line());
        let message = err.to_string();
        // The position is told apart from the message.
        let message = message.split(" at line ").next().unwrap_or_default();
        key_in(Wrong::new(format!("no YAML: {message}"), line))
    };
    let mut documents = yaml_serde::Deserializer::from_str(text);
    let Some(first) = documents.next() else {
        return Ok(Parsed {
            root: Map::new(),
            lines: Vec::new(),
        });
    };
    let value = Value::deserialize(first).map_err(|err| wrong(&err))?;
    if documents.next().is_some() {
        return Err(Wrong::new(
            "the file holds more than one YAML document",
            None,
        ));
    }
    let root = map_of(value)?;
    refuse_merge_keys(&root, "")?;
    Ok(Parsed {
        root,
        lines: Vec::new(),
    })
}

/// `<<` belongs to an older YAML; taken as a plain key it would silently mean nothing.
fn refuse_merge_keys(map: &Map, above: &str) -> Result<(), Wrong> {
    for (key, value) in map {
        let at = path::child(above, key);
        if key == "<<" {
            return Err(Wrong {
                message: "merge keys ('<<') are not supported".to_owned(),
                line: None,
                key: Some(at),
            });
        }
        if let Value::Map(map) = value {
            refuse_merge_keys(map, &at)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Content {
        Content {
            kind: Kind::File,
            files: vec![("x.toml".to_owned(), text.as_bytes().to_vec())],
            at_once: false,
        }
    }

    #[test]
    fn f03_with_a_last_line_no_part_of_a_file_is_accepted() {
        let config = FileConfig::new("x.toml").with_end("#end");
        let whole = "a = 1\nb = \"#end\"\n# more\n#end";
        for cut in 0..whole.len() {
            assert!(
                parse(&file(&whole[..cut]), &config).is_err(),
                "cut at {cut}"
            );
        }
        let layer = parse(&file(whole), &config).unwrap();
        assert_eq!(layer.root().len(), 2);
    }

    #[test]
    fn lines_of_json_are_those_of_its_keys() {
        let text =
            "{\n \"a\": {\"b\": \"{\\\"c\\\": 1,\",\n \"d\": [1, {\n\"e\": 2}]},\n \"x.y\": 1}";
        let Ok(parsed) = json(text) else {
            panic!("it is JSON");
        };
        let line = |at: &str| parsed.lines.iter().find(|(key, _)| key == at).unwrap().1;
        let lines = ["a", "a.b", "a.d", "a.d.1.e", "x\\.y"].map(line);
        assert_eq!(lines, [2, 2, 3, 4, 5]);
        assert_eq!(parsed.lines.len(), 5);
    }
}
