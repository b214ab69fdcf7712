//! Lines between this program and its children: `key=value` words. An answer begins with `ok` or
//! `error`.

use std::str::FromStr;

use crate::Result;

/// The value of a key.
///
/// # Errors
///
/// If the line has no such key, or its value cannot be read.
pub(crate) fn field<T: FromStr>(line: &str, key: &str) -> Result<T> {
    line.split_whitespace()
        .filter_map(|word| word.split_once('='))
        .find(|(its, _)| *its == key)
        .and_then(|(_, value)| value.parse().ok())
        .ok_or_else(|| format!("no {key} in {line:?}").into())
}

/// What stands after `ok`.
///
/// # Errors
///
/// What stands after `error`.
pub(crate) fn answer(line: &str) -> Result<&str> {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("ok", rest) => Ok(rest),
        ("error", rest) => Err(rest.into()),
        _ => Err(format!("not an answer: {line:?}").into()),
    }
}

/// The line that carries an outcome; an error keeps to one line whatever it says.
pub(crate) fn outcome(outcome: Result<String>) -> String {
    match outcome {
        Ok(fields) => format!("ok {fields}"),
        Err(error) => format!("error {}", error.to_string().replace('\n', " ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_survives_the_way() {
        let line = outcome(Ok("calls=12 cpu_ns=5".into()));
        let fields = answer(&line).expect("it is ok");
        assert_eq!(field::<u64>(fields, "cpu_ns").expect("it is there"), 5);
        assert!(field::<u64>(fields, "cpu").is_err());
        let line = outcome(Err("two\nlines".into()));
        assert_eq!(
            answer(&line).expect_err("it is an error").to_string(),
            "two lines"
        );
        assert!(answer("panicked").is_err());
    }
}
