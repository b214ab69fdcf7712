//! The suite that every codec passes.

use std::process::ExitCode;
use std::sync::Arc;

use micro_codec_msgpack::MsgPack;

fn main() -> ExitCode {
    micro_conformance::codec::run(|| Arc::new(MsgPack))
}
