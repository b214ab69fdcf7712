//! `${VARIABLE}` in values.

use micro_core::{Error, Result};

/// No text grows beyond this by what is put into it.
const LONGEST: usize = 64 * 1024;

/// What stands for the variables: `None` for one that is not set.
pub(crate) type Variables = dyn Fn(&str) -> Result<Option<String>> + Send + Sync;

/// The text with its variables put in, or nothing if it has none.
///
/// Done once: what a variable holds is not looked at again, so there is no recursion.
pub(crate) fn expand(text: &str, variables: &Variables) -> Result<Option<String>> {
    if !text.contains("${") {
        return Ok(None);
    }
    let invalid = |message: &'static str| Error::invalid_argument(message);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        out.push_str(&rest[..at]);
        let after = &rest[at + 2..];
        // `$${` is a `${` that means itself.
        if rest[..at].ends_with('$') {
            out.push('{');
            rest = after;
            continue;
        }
        let Some(end) = after.find('}') else {
            return Err(invalid(
                "'${' has no '}'; write '$${' for a '${' that means itself",
            ));
        };
        let (name, default) = match after[..end].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&after[..end], None),
        };
        if !is_name(name) {
            return Err(invalid(
                "'${…}' holds no variable's name; write '${NAME}', '${NAME:-default}', or '$${' for a '${' that means itself",
            ));
        }
        match (variables(name)?, default) {
            // As in a shell, `:-` counts an empty variable as one that is not set.
            (Some(value), Some(default)) if value.is_empty() => out.push_str(default),
            (Some(value), _) => out.push_str(&value),
            (None, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err(
                    invalid("a variable is not set; set it, or write '${NAME:-default}'")
                        .with_context("variable", name),
                );
            }
        }
        if out.len() > LONGEST {
            return Err(Error::resource_exhausted(
                "the value is too long with its variables put in",
            )
            .with_context("limit", LONGEST));
        }
        rest = &after[end + 1..];
    }
    out.push_str(rest);
    Ok(Some(out))
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(name: &str) -> Result<Option<String>> {
        Ok(match name {
            "A" => Some("1".to_owned()),
            "QUOTED" => Some("a\"b\n".to_owned()),
            "EMPTY" => Some(String::new()),
            "DOLLAR" => Some("$".to_owned()),
            "LOOP" => Some("${LOOP}".to_owned()),
            "BIG" => Some("x".repeat(LONGEST + 1)),
            _ => None,
        })
    }

    #[test]
    fn variables_are_put_into_values() {
        let table = [
            ("plain $A {A}", None),
            ("${A}", Some("1")),
            ("x${A}y${A}z", Some("x1y1z")),
            ("${QUOTED}", Some("a\"b\n")),
            ("${NO:-d}", Some("d")),
            ("${NO:-}", Some("")),
            ("${NO:-a:-b}", Some("a:-b")),
            ("${EMPTY}", Some("")),
            ("${EMPTY:-d}", Some("d")),
            ("$${A}", Some("${A}")),
            ("$$${A}", Some("$${A}")),
            ("${DOLLAR}${A}", Some("$1")),
        ];
        for (text, expected) in table {
            let found = expand(text, &variables).unwrap();
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_variable_is_refused_with_advice() {
        let table = [
            ("${NO}", "variable: NO"),
            ("${", "no '}'"),
            ("${}", "no variable's name"),
            ("${1A}", "no variable's name"),
            ("${A-B}", "no variable's name"),
            ("${A ${A}}", "no variable's name"),
        ];
        for (text, advice) in table {
            let err = expand(text, &variables).unwrap_err().to_string();
            assert!(err.contains(advice), "{text}: {err}");
        }
    }

    #[test]
    fn s70_expansion_is_not_repeated_and_bounded() {
        assert_eq!(
            expand("${LOOP}", &variables).unwrap().as_deref(),
            Some("${LOOP}")
        );
        assert!(expand("${BIG}", &variables).is_err());
    }
}
