//! What the `.proto` files say, as descriptors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_types::{FileDescriptorProto, SourceCodeInfo};

use crate::Error;

/// The files, those that they import first.
pub(crate) struct Descriptors {
    pub(crate) files: Vec<File>,
    /// What they were read from, but for those that the compiler brings along.
    pub(crate) paths: Vec<PathBuf>,
}

pub(crate) struct File {
    pub(crate) descriptor: FileDescriptorProto,
    /// Whether it was asked for, and not only imported.
    pub(crate) asked_for: bool,
    /// The descriptor, encoded: with the comments but not the place of every token, and with the
    /// options that are extensions, which `descriptor` cannot hold.
    encoded: Vec<u8>,
}

impl Descriptors {
    pub(crate) fn read(
        protos: &[impl AsRef<Path>],
        includes: &[impl AsRef<Path>],
    ) -> Result<Self, Error> {
        let mut compiler = protox::Compiler::new(includes)?;
        compiler
            .include_imports(true)
            .include_source_info(true)
            .open_files(protos)?;
        let paths = compiler
            .files()
            .filter_map(|file| file.path().map(Path::to_owned))
            .collect();
        let pool = compiler.descriptor_pool();
        let files = compiler
            .files()
            .filter_map(|known| Some((known, pool.get_file_by_name(known.name())?)))
            .map(|(known, file)| {
                let descriptor = file.file_descriptor_proto().clone();
                let encoded = encode(&descriptor, &file.encode_to_vec());
                File {
                    descriptor,
                    asked_for: !known.is_import(),
                    encoded,
                }
            })
            .collect();
        Ok(Self { files, paths })
    }

    /// The encoded `FileDescriptorSet` of all files.
    pub(crate) fn encoded(&self) -> Vec<u8> {
        set(self.files.iter())
    }

    /// The encoded `FileDescriptorSet` of a package and of all that it imports.
    pub(crate) fn encoded_package(&self, package: &str) -> Vec<u8> {
        let by_name: BTreeMap<&str, &File> = self
            .files
            .iter()
            .map(|file| (file.descriptor.name(), file))
            .collect();
        let mut wanted = BTreeSet::new();
        let mut open: Vec<&str> = self
            .files
            .iter()
            .filter(|file| file.descriptor.package() == package)
            .map(|file| file.descriptor.name())
            .collect();
        while let Some(name) = open.pop() {
            if !wanted.insert(name) {
                continue;
            }
            if let Some(file) = by_name.get(name) {
                open.extend(file.descriptor.dependency.iter().map(String::as_str));
            }
        }
        set(self
            .files
            .iter()
            .filter(|file| wanted.contains(file.descriptor.name())))
    }
}

fn set<'a>(files: impl Iterator<Item = &'a File>) -> Vec<u8> {
    /// `FileDescriptorSet.file` is field 1, with a length.
    const FILE: u8 = 1 << 3 | 2;
    let mut out = Vec::new();
    for file in files {
        out.push(FILE);
        prost::encoding::encode_varint(file.encoded.len() as u64, &mut out);
        out.extend_from_slice(&file.encoded);
    }
    out
}

/// Encodes a file with no more source information than its comments.
fn encode(descriptor: &FileDescriptorProto, with_everything: &[u8]) -> Vec<u8> {
    /// `FileDescriptorProto.source_code_info` is field 9, with a length.
    const SOURCE_CODE_INFO: u32 = 9;
    let mut out = without_field(with_everything, SOURCE_CODE_INFO);
    // Everybody knows what a timestamp is.
    let known = descriptor.package().starts_with("google.protobuf");
    if let Some(info) = &descriptor.source_code_info
        && !known
    {
        let commented = SourceCodeInfo {
            location: info
                .location
                .iter()
                .filter(|at| at.leading_comments.is_some() || at.trailing_comments.is_some())
                .cloned()
                .collect(),
        };
        if !commented.location.is_empty() {
            prost::encoding::message::encode(SOURCE_CODE_INFO, &commented, &mut out);
        }
    }
    debug_assert!(FileDescriptorProto::decode(out.as_slice()).is_ok());
    out
}

/// Leaves out one field of an encoded message.
fn without_field(message: &[u8], field: u32) -> Vec<u8> {
    use prost::encoding::{DecodeContext, decode_key, skip_field};
    let mut out = Vec::with_capacity(message.len());
    let mut rest = message;
    while !rest.is_empty() {
        let start = rest;
        let Ok((number, wire_type)) = decode_key(&mut rest) else {
            return message.to_vec();
        };
        if skip_field(wire_type, number, &mut rest, DecodeContext::default()).is_err() {
            return message.to_vec();
        }
        if number != field {
            out.extend_from_slice(&start[..start.len() - rest.len()]);
        }
    }
    out
}

/// Bytes as a literal of Rust, over as many lines as it takes.
pub(crate) fn literal(bytes: &[u8]) -> String {
    const WIDTH: usize = 92;
    let mut out = String::from("b\"");
    let mut width = out.len();
    for &byte in bytes {
        let mut escaped = std::ascii::escape_default(byte).to_string();
        if width + escaped.len() > WIDTH {
            out.push_str("\\\n    ");
            width = 4;
            // White space at the start of such a line does not count.
            if byte == b' ' {
                "\\x20".clone_into(&mut escaped);
            }
        }
        width += escaped.len();
        out.push_str(&escaped);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_is_what_it_was_made_of() {
        let mut bytes: Vec<u8> = (0..=255).collect();
        bytes.extend([b' '; 300]);
        let literal: syn::LitByteStr = syn::parse_str(&literal(&bytes)).unwrap();
        assert_eq!(literal.value(), bytes);
    }

    #[test]
    fn one_field_is_left_out() {
        let file = FileDescriptorProto {
            name: Some("a.proto".into()),
            source_code_info: Some(SourceCodeInfo::default()),
            syntax: Some("proto3".into()),
            ..Default::default()
        };
        let out = without_field(&file.encode_to_vec(), 9);
        let file = FileDescriptorProto {
            source_code_info: None,
            ..file
        };
        assert_eq!(out, file.encode_to_vec());
    }
}
