//! Scripts: several commands that Redis runs as one.

/// A script in Lua. Redis is asked for it by its hash, and gets its text if it does not know it.
#[derive(Debug)]
pub struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    /// A script of this text.
    #[must_use]
    pub fn new(text: &'static str) -> Self {
        let hash = redis::Script::new(text).get_hash().to_owned();
        Self { text, hash }
    }

    /// An invocation, to which its arguments are added: the number of keys, the keys, the rest.
    #[must_use]
    pub fn invocation(&self) -> redis::Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&self.hash);
        cmd
    }

    /// The same invocation, with the text in place of the hash.
    pub(crate) fn by_text(&self, invocation: &redis::Cmd) -> redis::Cmd {
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(self.text);
        for arg in invocation.args_iter().skip(2) {
            if let redis::Arg::Simple(bytes) = arg {
                cmd.arg(bytes);
            }
        }
        cmd
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invocation_by_text_has_the_same_arguments() {
        let script = Script::new("return ARGV[1]");
        let mut invocation = script.invocation();
        invocation.arg(1).arg("key").arg(&[0_u8, 255, 10]);
        let by_text = script.by_text(&invocation).get_packed_command();
        assert_eq!(
            by_text,
            b"*5\r\n$4\r\nEVAL\r\n$14\r\nreturn ARGV[1]\r\n$1\r\n1\r\n$3\r\nkey\r\n$3\r\n\0\xff\n\r\n"
        );
    }
}
