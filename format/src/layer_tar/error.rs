//! What can be wrong with a tar: each error names the entry, because that is what its maker can act on.

use std::io;

use thiserror::Error;

/// Why a layer's tar could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadTarError {
    /// The stream under it failed.
    #[error("cannot read the layer's tar")]
    Read(#[source] io::Error),
    /// The stream ended too early.
    #[error("the layer's tar ends within a {what}")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// A block that should be a header is none.
    #[error("no tar header at byte {offset}: {why}")]
    Header {
        /// Where the block stands in the tar.
        offset: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A number is not written as one, or out of its bounds.
    #[error("entry `{entry}`: its {field} is not a number in range")]
    Number {
        /// Path of the entry, unprintable bytes replaced.
        entry: String,
        /// Which number.
        field: &'static str,
    },
    /// A PAX header breaks its own rules.
    #[error("bad PAX header: {why}")]
    Pax {
        /// What is wrong with it.
        why: &'static str,
    },
    /// A sparse file's map contradicts itself or the file.
    #[error("entry `{entry}`: bad sparse map: {why}")]
    Sparse {
        /// Path of the entry, unprintable bytes replaced.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A socket that has content.
    #[error("entry `{entry}`: it is a socket, and has content")]
    SocketContent {
        /// Path of the entry, unprintable bytes replaced.
        entry: String,
    },
    /// An access control list that cannot be kept.
    #[error("entry `{entry}`: bad access control list: {why}")]
    Acl {
        /// Path of the entry, unprintable bytes replaced.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Something follows the end of the archive: a second archive, or what nobody was to see.
    #[error(
        "the tar ends at byte {end}, and something stands behind it at byte {offset}: only zeros may, since joined archives mean one thing to some readers and another to others"
    )]
    BehindTheEnd {
        /// Where the archive ends.
        end: u64,
        /// Where the first byte stands that is not zero.
        offset: u64,
    },
    /// A name that no filesystem holds.
    #[error("entry `{entry}`: bad name: {why}")]
    Name {
        /// Path of the entry, unprintable bytes replaced.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An entry of a type that no layer may have.
    #[error("entry `{entry}`: entries of type `{}` are not supported in layers", .code.escape_default())]
    Unsupported {
        /// Path of the entry, unprintable bytes replaced.
        entry: String,
        /// The type as the header gives it.
        code: char,
    },
    /// A header that describes the next one is longer than any that is read.
    #[error("a {what} of {len} bytes: at most {limit} are read")]
    TooLong {
        /// Which kind of header.
        what: &'static str,
        /// Its length in bytes.
        len: u64,
        /// Most bytes that it may have.
        limit: u64,
    },
}

/// Longest part of a path that a message repeats, in bytes.
const SHOWN_LEN: usize = 512;

/// A path for a message.
pub(crate) fn shown(path: &[u8]) -> String {
    let start = path.get(..SHOWN_LEN).unwrap_or(path);
    String::from_utf8_lossy(start).escape_debug().to_string()
}
