//! Rules about files and the text in them.

use crate::tidy::Violations;
use crate::tidy::house::{House, Kind, Package};
use crate::toml::Value;

/// A backend says which URL or content type is its own, and runs the suite of its interface.
pub(super) fn backends(house: &House, out: &mut Violations) {
    for package in &house.crates {
        if package.kind() != Kind::Backend {
            continue;
        }
        let is_codec = package.name().starts_with("micro-codec-");
        let lib = package
            .file("src/lib.rs")
            .map_or("", |file| file.text.as_str());
        let scheme = lib.contains("pub const SCHEME")
            || (is_codec && lib.contains("pub const CONTENT_TYPE"));
        if !scheme {
            let wanted = if is_codec { "CONTENT_TYPE" } else { "SCHEME" };
            out.push(format!(
                "{}: `pub const {wanted}` is missing",
                package.at("src/lib.rs")
            ));
        }
        if package.file("tests/conformance.rs").is_none() {
            out.push(format!(
                "{}: the file is missing",
                package.at("tests/conformance.rs")
            ));
        }
        if !has_own_harness(package) {
            out.push(format!(
                "{}: `[[test]] name = \"conformance\", harness = false` is missing",
                package.at("Cargo.toml")
            ));
        }
    }
}

/// The suite is a program of its own: libtest would find no test in it and pass.
fn has_own_harness(package: &Package) -> bool {
    let Some(Value::List(tests)) = package.manifest.get("test") else {
        return false;
    };
    tests.iter().filter_map(Value::table).any(|test| {
        test.get("name").and_then(Value::text) == Some("conformance")
            && test.get("harness").and_then(Value::flag) == Some(false)
    })
}

/// A crate has a README, and an example in its docs that runs.
pub(super) fn crate_docs(house: &House, out: &mut Violations) {
    for package in &house.crates {
        if package.file("README.md").is_none() {
            out.push(format!("{}: the file is missing", package.at("README.md")));
        }
        let at = package.at("src/lib.rs");
        let Some(lib) = package.file("src/lib.rs") else {
            out.push(format!("{at}: the file is missing"));
            continue;
        };
        let docs = lib.text.lines();
        let readme = package
            .file("README.md")
            .map_or("", |file| file.text.as_str());
        let shown = has_example(docs.map_while(|line| line.strip_prefix("//!")))
            || (lib.text.starts_with(README_IS_DOCS) && has_example(readme.lines()));
        if !shown {
            out.push(format!(
                "{at}: its docs have no code example that is compiled (`ignore` is not: nobody sees it rot)"
            ));
        }
    }
}

/// The first line of a crate whose docs are its README.
const README_IS_DOCS: &str = "#![doc = include_str!(\"../README.md\")]";

/// Code blocks that rustdoc does not run.
const NOT_RUN: &[&str] = &[
    "text", "toml", "sh", "console", "json", "ignore", "proto", "mermaid",
];

/// Whether a text has a code block that rustdoc compiles.
fn has_example<'a>(lines: impl Iterator<Item = &'a str>) -> bool {
    let mut inside = false;
    for line in lines {
        let Some(info) = line.trim().strip_prefix("```") else {
            continue;
        };
        if !inside && !info.split(',').any(|word| NOT_RUN.contains(&word.trim())) {
            return true;
        }
        inside = !inside;
    }
    false
}

/// A file begins by saying what it is.
pub(super) fn module_docs(house: &House, out: &mut Violations) {
    for package in house.all() {
        for file in package.rust_files() {
            if !file.text.starts_with("//!") && !file.text.starts_with(README_IS_DOCS) {
                out.push(format!(
                    "{}: it does not begin with a module doc (`//!`)",
                    package.at(&file.path)
                ));
            }
        }
    }
}

/// No tab indentation and no white space at the end of a line.
pub(super) fn white_space(house: &House, out: &mut Violations) {
    for package in house.all() {
        for file in package.rust_files() {
            for (at, line) in file.text.split('\n').enumerate() {
                let place = format!("{}:{}", package.at(&file.path), at + 1);
                let indent = &line[..line.len() - line.trim_start().len()];
                if indent.contains('\t') {
                    out.push(format!("{place}: a tab"));
                }
                if line.ends_with([' ', '\t', '\r']) {
                    out.push(format!("{place}: white space at the end"));
                }
            }
        }
    }
}

/// Nothing is left to be done.
pub(super) fn unfinished(house: &House, out: &mut Violations) {
    words(house.all(), &["todo!", "unimplemented!"], |_| true, out);
}

/// The language's own guarantees hold in all of our crates.
pub(super) fn no_unsafe(house: &House, out: &mut Violations) {
    // A test may count allocations, which needs an allocator of its own; what is published may not.
    let published = |path: &str| !path.starts_with("tests/");
    words(house.crates.iter(), &["unsafe"], published, out);
}

/// Tells every place where one of the words stands in code.
fn words<'a>(
    packages: impl Iterator<Item = &'a Package>,
    words: &[&str],
    applies: impl Fn(&str) -> bool,
    out: &mut Violations,
) {
    for package in packages {
        for file in package.rust_files().filter(|file| applies(&file.path)) {
            for (at, line) in code_only(&file.text).lines().enumerate() {
                for word in words.iter().filter(|word| has_word(line, word)) {
                    out.push(format!("{}:{}: `{word}`", package.at(&file.path), at + 1));
                }
            }
        }
    }
}

fn has_word(line: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(part_of_name) && !after.is_some_and(part_of_name)
    })
}

/// The text without comments and without the contents of strings; line ends stay where they are.
fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if c == '"' {
            string(rest)
        } else if let Some(length) = raw_string(rest).filter(|_| !ends_in_name(&code)) {
            length
        } else if c == '\'' {
            character(rest)
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        // What is left out still ends a name, and still has its lines.
        code.push(' ');
        code.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
        rest = &rest[skipped..];
    }
    code
}

fn ends_in_name(code: &str) -> bool {
    code.ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of `r"…"`, `br#"…"#` and so on, if the text begins with one.
fn raw_string(text: &str) -> Option<usize> {
    let start = text
        .strip_prefix(['b', 'c'])
        .unwrap_or(text)
        .strip_prefix('r')?;
    let hashes = start.len() - start.trim_start_matches('#').len();
    let inner = start[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let head = text.len() - inner.len();
    Some(
        inner
            .find(&end)
            .map_or(text.len(), |at| head + at + end.len()),
    )
}

/// The length of a character literal, or of the quote alone if it begins a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text[3.min(text.len())..].find('\'').map_or(1, |at| at + 4),
        Some((_, _)) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::house::example;

    fn found(rule: fn(&House, &mut Violations), house: &House) -> String {
        let mut out = Violations::new();
        rule(house, &mut out);
        out.join("\n")
    }

    #[test]
    fn a_backend_has_a_scheme_and_runs_the_suite() {
        let mut house = example();
        let memory = house.package("micro-registry-memory");
        memory.put("src/lib.rs", "//! x\n");
        memory.drop_file("tests/conformance.rs");
        memory.manifest.remove("test");
        let found = found(backends, &house);
        assert_eq!(found.lines().count(), 3, "{found}");
    }

    #[test]
    fn docs_need_an_example_that_is_compiled() {
        for (text, right) in [
            ("//! x\n//! ```\n//! let x = 1;\n//! ```\n", true),
            ("//! ```no_run\n//! x();\n//! ```\n", true),
            ("//! ```toml\n//! x = 1\n//! ```\n", false),
            (
                "//! ```text\n//! x\n//! ```\n//! ```\n//! x();\n//! ```\n",
                true,
            ),
            ("//! x\n\n/// ```\n/// late\n/// ```\nfn f() {}\n", false),
        ] {
            let docs = text.lines().map_while(|line| line.strip_prefix("//!"));
            assert_eq!(has_example(docs), right, "{text}");
        }
        let mut house = example();
        let memory = house.package("micro-registry-memory");
        memory.put("src/lib.rs", README_IS_DOCS);
        memory.put("README.md", "# x\n```rust\nlet x = 1;\n```\n");
        house.package("micro-core").put("src/lib.rs", "//! x\n");
        house.package("micro").drop_file("README.md");
        house.package("micro-registry-core").drop_file("src/lib.rs");
        assert_eq!(found(crate_docs, &house).lines().count(), 3);
    }

    #[test]
    fn files_begin_with_docs_and_have_no_stray_space() {
        let mut house = example();
        let core = house.package("micro-core");
        core.put("src/x.rs", "use std;\n\tlet x; \n");
        core.put("src/generated/y.rs", "use std; \n");
        assert!(found(module_docs, &house).contains("src/x.rs"));
        let space = found(white_space, &house);
        assert_eq!(space.lines().count(), 2, "{space}");
        assert!(space.contains("src/x.rs:2: a tab"), "{space}");
    }

    #[test]
    fn words_count_in_code_only() {
        let mut house = example();
        let bad = ["unsa", "fe"].concat();
        let undone = ["to", "do!"].concat();
        let text = format!(
            "//! {bad}\n// {undone}()\nconst A: &str = \"{bad} \\\" {bad}\";\n/* {bad} /* */ {bad} */\n\
             const B: &str = r#\"{bad}\"#;\nfn f<'a>(c: char) -> bool {{ c == '\"' || c == '\\'' }}\n\
             {bad} {{ {undone}() }}\nlet {bad}_code = 1;\n"
        );
        house.package("micro-core").put("src/x.rs", &text);
        assert_eq!(
            found(no_unsafe, &house),
            format!("crates/micro-core/src/x.rs:7: `{bad}`")
        );
        assert_eq!(
            found(unfinished, &house),
            format!("crates/micro-core/src/x.rs:7: `{undone}`")
        );
    }
}
