//! What services and nodes are called in Kubernetes.

use std::fmt::Write as _;

/// The longest value of a label, and the longest name of a Service.
const LABEL: usize = 63;

/// The name of the Kubernetes Service that runs a micro service: capitals become small, and what
/// is no letter or digit becomes `-`; what is too long, or does not begin with a letter, gets a
/// hash. In a namespace of ours that is not the default one, that namespace and `-` stand before.
pub(crate) fn service(namespace: &str, name: &str) -> String {
    let full = if namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}-{name}")
    };
    let plain = plain(&full);
    if plain.len() <= LABEL && plain.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return plain;
    }
    let hash = hash(&[&full]);
    let kept = plain.get(..40).unwrap_or(&plain).trim_matches('-');
    format!("micro-{kept}-{:08x}", hash as u32)
}

/// The name of the EndpointSlice of one node.
pub(crate) fn slice(namespace: &str, name: &str, version: &str, id: &str) -> String {
    let plain = plain(name);
    let kept = plain.get(..40).unwrap_or(&plain).trim_matches('-');
    format!(
        "micro-{kept}-{:032x}",
        hash(&[namespace, name, version, id])
    )
}

fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let byte = byte.to_ascii_lowercase();
        let good = byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let _ = out.write_char(if good { char::from(byte) } else { '-' });
    }
    out
}

/// FNV-1a with 128 bits, over the parts and their lengths.
///
/// It need not resist an attacker: who can write slices needs no collision, and what is in a slice
/// says whose it is.
fn hash(parts: &[&str]) -> u128 {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013B;
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for part in parts {
        let length = (part.len() as u64).to_be_bytes();
        for byte in part.bytes().chain(length) {
            hash = (hash ^ u128::from(byte)).wrapping_mul(PRIME);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_labels() {
        assert_eq!(service("", "greeter"), "greeter");
        assert_eq!(service("", "go.micro.srv.Greeter"), "go-micro-srv-greeter");
        assert_eq!(service("staging", "greeter"), "staging-greeter");
        let long = "a".repeat(128);
        let other = format!("{}b", &long[..127]);
        for name in [&*long, &other, "9lives"] {
            let name = service("", name);
            assert!(name.len() <= LABEL && name.starts_with("micro-"), "{name}");
        }
        assert_ne!(service("", &long), service("", &other));
    }

    #[test]
    fn slices_are_apart() {
        let mut names = vec![
            slice("", "a", "b", "c"),
            slice("a", "", "b", "c"),
            slice("", "ab", "", "c"),
            slice("", "a", "bc", ""),
            slice("", "A", "b", "c"),
            slice("", "a", "b", "C"),
            slice("", &"a".repeat(128), "b", "größe"),
        ];
        for name in &names {
            let good =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            assert!(name.len() <= 253 && name.bytes().all(good), "{name}");
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 7);
    }
}
