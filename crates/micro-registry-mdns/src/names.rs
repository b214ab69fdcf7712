//! The names under which things appear in DNS.
//!
//! All of them are lower-case letters, digits, `-` and `_`: nothing has to be escaped, and the
//! case, which DNS ignores, cannot matter.

/// The DNS-SD service type of everything that `micro` announces.
pub(crate) const TYPE: &str = "_micro._tcp.local.";

/// DNS allows 63 bytes in a label; so many are left for what people can read.
const READABLE: usize = 44;

/// The instance name of a node: the readable part of its id, and what makes it unique.
///
/// Because it is derived from an id that is unique already, nobody has to probe for it
/// (RFC 6762 section 8.1).
pub(crate) fn instance(namespace: &str, service: &str, version: &str, id: &str) -> String {
    let hash = hash(&[namespace, service, version, id]);
    format!("{}-{hash:016x}", readable(id))
}

/// The host name of a node: one of its own, so that the goodbye of one node takes no other's
/// address away.
pub(crate) fn host(instance: &str) -> String {
    format!("micro-{:016x}.local.", hash(&[instance]))
}

/// The subtype of a service, for tools that look for one service only. Each namespace has its own.
pub(crate) fn subtype(namespace: &str, service: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let label = if namespace.is_empty() && service.len() <= 60 && service.bytes().all(plain) {
        format!("_{service}")
    } else {
        let hash = hash(&[namespace, service]);
        format!("_{}-{hash:016x}", readable(service))
    };
    format!("{label}._sub.{TYPE}")
}

fn readable(text: &str) -> String {
    text.chars()
        .take(READABLE)
        .map(|c| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '_') => c,
            _ => '-',
        })
        .collect()
}

/// FNV-1a: all versions of all programs must agree on it, so it is written out here.
fn hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        // 0xff occurs in no text: ("ab", "c") is not ("a", "bc").
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_and_apart() {
        let ids = ["a", "A", "a/b", "a.b", "a b", "größe", &"x".repeat(500)];
        let mut seen = std::collections::BTreeSet::new();
        for id in ids {
            let name = instance("", "greeter", "v1", id);
            assert!(name.len() <= 63, "{name}");
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
            );
            assert!(seen.insert(name));
        }
        assert_ne!(instance("", "a", "b", "c"), instance("", "ab", "", "c"));
        assert_ne!(instance("", "a", "b", "c"), instance("ns", "a", "b", "c"));
    }

    #[test]
    fn subtypes_are_stable_and_apart() {
        assert_eq!(subtype("", "greeter"), "_greeter._sub._micro._tcp.local.");
        // Other programs rely on these exact names.
        assert_eq!(
            subtype("", "go.micro.srv.greeter"),
            "_go-micro-srv-greeter-0ce774b5383a69c6._sub._micro._tcp.local."
        );
        let others = [
            subtype("staging", "greeter"),
            subtype("", "Greeter"),
            subtype("", &"g".repeat(128)),
            subtype("", &format!("{}h", "g".repeat(127))),
            subtype("", "a.b"),
            subtype("", "a_b"),
        ];
        let mut seen = std::collections::BTreeSet::new();
        for name in others {
            assert!(name.split('.').all(|label| label.len() <= 63), "{name}");
            assert!(seen.insert(name));
        }
    }
}
