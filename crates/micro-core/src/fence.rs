//! Tokens that order the holders of a lock.

/// A number that only grows from one holder of a lock to the next.
///
/// `epoch` orders incarnations of the backend, `seq` holders within one; a later holder's token is
/// greater. A store that has seen a token refuses writes with a smaller one of the same name, so
/// a holder that lost its lock without noticing can do no harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken {
    /// The incarnation of the backend.
    pub epoch: u64,
    /// The holder within the incarnation.
    pub seq: u64,
}

impl FencingToken {
    /// A token.
    #[must_use]
    pub const fn new(epoch: u64, seq: u64) -> Self {
        Self { epoch, seq }
    }
}

/// What a write is fenced with: the lock's name and the holder's token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Fence {
    /// The lock's name.
    pub name: String,
    /// The holder's token.
    pub token: FencingToken,
}

impl Fence {
    /// A fence for the lock `name`.
    #[must_use]
    pub fn new(name: impl Into<String>, token: FencingToken) -> Self {
        Self {
            name: name.into(),
            token,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_outweighs_any_seq() {
        assert!(FencingToken::new(2, 0) > FencingToken::new(1, u64::MAX));
        assert!(FencingToken::new(1, 2) > FencingToken::new(1, 1));
    }
}
