//! Values that are encrypted where they stand.
//!
//! `enc:v1:` and, in base64, a nonce of 24 bytes that was drawn for this value, then what
//! XChaCha20-Poly1305 (RFC 8439 with the nonce of draft-irtf-cfrg-xchacha) makes of the text.

use std::fmt;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead as _, Generate as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
use micro_config_core::{Error, Result, Secret, Unseal};

const PREFIX: &str = "enc:v1:";
const NONCE: usize = 24;
/// What is authenticated besides: this purpose and this version, so that nothing else that was
/// encrypted with the same key is taken for a sealed value.
const PURPOSE: &[u8] = b"micro-config enc:v1";

/// The key that seals and opens values: 32 bytes, written in base64.
///
/// ```
/// use micro_config_core::Unseal as _;
/// use micro_config_file::SealKey;
///
/// let key = SealKey::generate()?;
/// let sealed = key.seal("hunter2")?; // stands in a file, as a value
/// assert!(sealed.starts_with("enc:v1:"));
/// assert_eq!(key.unseal(&sealed)?.expose(), "hunter2");
/// # Ok::<(), micro_config_core::Error>(())
/// ```
///
/// Give it to [`ConfigBuilder::unseal`](micro_config_core::ConfigBuilder::unseal). A sealed value
/// is not bound to its key in the configuration: who may write the file can move it elsewhere.
#[derive(Clone)]
pub struct SealKey(XChaCha20Poly1305);

impl SealKey {
    /// A new key, drawn from the system's randomness. [`generate_text`](Self::generate_text) gives
    /// one to be kept.
    ///
    /// # Errors
    ///
    /// `Internal` if the system has no randomness.
    pub fn generate() -> Result<Self> {
        Self::from_text(&Self::generate_text()?)
    }

    /// A new key as the text that [`from_text`](Self::from_text) reads.
    ///
    /// # Errors
    ///
    /// `Internal` if the system has no randomness.
    pub fn generate_text() -> Result<Secret> {
        let bytes = <[u8; 32]>::try_generate().map_err(|_| no_randomness())?;
        Ok(Secret::new(STANDARD.encode(bytes)))
    }

    /// The key that a text holds: 32 bytes in base64.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` if it does not.
    pub fn from_text(text: &Secret) -> Result<Self> {
        let invalid = || {
            Error::invalid_argument("a key for sealed values is 32 bytes in base64")
                .with_operation("config.seal")
        };
        let bytes = STANDARD
            .decode(text.expose().trim())
            .map_err(|_| invalid())?;
        XChaCha20Poly1305::new_from_slice(&bytes)
            .map(Self)
            .map_err(|_| invalid())
    }

    /// The key in a variable of the process.
    ///
    /// # Errors
    ///
    /// `NotFound` if it is not set, `InvalidArgument` if it holds no key.
    pub fn from_env(variable: &str) -> Result<Self> {
        let text = std::env::var(variable).map_err(|_| {
            Error::not_found("the variable with the key for sealed values is not set")
                .with_operation("config.seal")
                .with_context("variable", variable)
        })?;
        Self::from_text(&text.into()).map_err(|err| err.with_context("variable", variable))
    }

    /// The key in a file.
    ///
    /// # Errors
    ///
    /// `NotFound` and `PermissionDenied` if it cannot be read, `InvalidArgument` if it holds no key.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let named = |err: Error| err.with_context("file", path.display());
        let text = fs::read_to_string(path).map_err(|err| named(err.into()))?;
        Self::from_text(&text.into()).map_err(named)
    }

    /// Seals a text: what it gives can stand as a value in a file.
    ///
    /// # Errors
    ///
    /// `Internal` if the system has no randomness.
    pub fn seal(&self, text: &str) -> Result<String> {
        let nonce = XNonce::try_generate().map_err(|_| no_randomness())?;
        let payload = Payload {
            msg: text.as_bytes(),
            aad: PURPOSE,
        };
        let sealed = self
            .0
            .encrypt(&nonce, payload)
            .map_err(|_| Error::internal("the text is too long to be sealed"))?;
        let mut bytes = nonce.to_vec();
        bytes.extend(sealed);
        Ok(format!("{PREFIX}{}", STANDARD.encode(bytes)))
    }
}

fn no_randomness() -> Error {
    Error::internal("the system gives no randomness").with_operation("config.seal")
}

impl Unseal for SealKey {
    fn unseal(&self, sealed: &str) -> Result<Secret> {
        let invalid = |message| Error::invalid_argument(message).with_operation("config.unseal");
        let text = sealed.strip_prefix(PREFIX).ok_or_else(|| {
            invalid("the value is sealed in a way that this program does not know")
        })?;
        let bytes = STANDARD
            .decode(text)
            .map_err(|_| invalid("the sealed value is damaged: it is no base64"))?;
        let (nonce, sealed) = bytes
            .split_first_chunk::<NONCE>()
            .ok_or_else(|| invalid("the sealed value is damaged: it is too short"))?;
        let payload = Payload {
            msg: sealed,
            aad: PURPOSE,
        };
        let opened = self
            .0
            .decrypt(&XNonce::from(*nonce), payload)
            .map_err(|_| {
                Error::unauthenticated("the value was sealed with another key, or changed since")
                    .with_operation("config.unseal")
            })?;
        String::from_utf8(opened)
            .map(Secret::from)
            .map_err(|_| invalid("what was sealed is no text"))
    }
}

/// Nothing of the key.
impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use micro_config_core::{ErrorKind, is_sealed};

    use super::*;

    #[test]
    fn what_is_sealed_comes_back_with_the_same_key_only() {
        let text = SealKey::generate_text().unwrap();
        let (key, same) = (
            SealKey::from_text(&text).unwrap(),
            SealKey::from_text(&text).unwrap(),
        );
        for text in ["", "hunter2", "äöü\n", &"x".repeat(100_000)] {
            let sealed = key.seal(text).unwrap();
            assert!(is_sealed(&sealed) && !sealed.contains("hunter2"));
            assert_eq!(same.unseal(&sealed).unwrap().expose(), text);
            assert_ne!(sealed, key.seal(text).unwrap(), "a nonce was used twice");
            let other = SealKey::generate().unwrap();
            let err = other.unseal(&sealed).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Unauthenticated);
        }
    }

    #[test]
    fn what_was_changed_is_refused() {
        let key = SealKey::generate().unwrap();
        let sealed = key.seal("hunter2").unwrap();
        let bytes = STANDARD.decode(&sealed[PREFIX.len()..]).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let text = format!("{PREFIX}{}", STANDARD.encode(&changed));
            assert!(key.unseal(&text).is_err(), "byte {at}");
            assert!(
                key.unseal(&format!("{PREFIX}{}", STANDARD.encode(&bytes[..at])))
                    .is_err()
            );
        }
        for text in ["", "enc:v1:", "enc:v1:!", "enc:v2:AAAA", "hunter2"] {
            let err = key.unseal(text).unwrap_err();
            assert!(!format!("{err:?}").contains("hunter2"));
        }
    }

    #[test]
    fn keys_are_read_from_files_and_not_printed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let text = SealKey::generate_text().unwrap();
        fs::write(&path, format!("{}\n", text.expose())).unwrap();
        let key = SealKey::from_file(&path).unwrap();
        assert!(!format!("{key:?}").contains(text.expose()));
        fs::write(&path, "c2hvcnQ=").unwrap();
        let err = SealKey::from_file(&path).unwrap_err();
        assert!(err.to_string().contains("32 bytes") && !err.to_string().contains("c2hv"));
        assert!(SealKey::from_env("MICRO_TEST_NO_SUCH_VARIABLE").is_err());
    }
}
