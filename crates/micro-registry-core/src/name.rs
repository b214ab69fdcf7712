//! What a service may be called.

use crate::{Error, Result};

/// Checks the name of a service: 1 to 128 ASCII letters, digits, `.`, `-` and `_`, beginning and
/// ending with a letter or digit.
///
/// # Errors
///
/// `InvalidArgument`, saying what is allowed.
///
/// ```
/// use micro_registry_core::check_name;
///
/// assert!(check_name("go.micro.srv.greeter").is_ok());
/// assert!(check_name("greeter/../admin").is_err());
/// ```
pub fn check_name(name: &str) -> Result<()> {
    let bytes = name.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let valid = bytes.len() <= 128
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(byte));
    if valid {
        return Ok(());
    }
    let shown: String = name.chars().take(40).flat_map(char::escape_debug).collect();
    Err(Error::invalid_argument(
        "a service name has 1 to 128 letters, digits, '.', '-' and '_', and begins and ends with a letter or digit",
    )
    .with_context("name", shown))
}
