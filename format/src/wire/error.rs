//! Why bytes are not a message.
//!
//! One type for the whole protocol, because every receiver does the same with it: it closes the
//! connection and counts the peer's fault.

/// A frame or message that does not follow `docs/protocol.md`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The header announces a body beyond the limit in force.
    #[error("frame of {len} bytes, at most {max} allowed")]
    FrameTooLong {
        /// Body length announced.
        len: u32,
        /// Longest body allowed here.
        max: u32,
    },
    /// Bits that version 1 keeps for later are set.
    #[error("reserved bits {bits:#08x} set in a frame header")]
    ReservedBits {
        /// The bits found.
        bits: u32,
    },
    /// The kind is none of this stream's.
    #[error("unknown frame kind {kind:#04x}")]
    UnknownKind {
        /// The kind found.
        kind: u8,
    },
    /// The request number is 0 where one is needed, or not 0 where none is allowed.
    #[error("request number {request} not allowed in frame kind {kind:#04x}")]
    BadRequest {
        /// The kind of the frame.
        kind: u8,
        /// The number found.
        request: u32,
    },
    /// The bytes end inside a field.
    #[error("bytes end inside {what}")]
    Truncated {
        /// The field.
        what: &'static str,
    },
    /// Bytes are left after the last field.
    #[error("{count} bytes left after {what}")]
    TrailingBytes {
        /// The message.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// A count, length or number is outside its bounds.
    #[error("{what} is {value}, outside {min}..={max}")]
    OutOfBounds {
        /// The field.
        what: &'static str,
        /// Value found.
        value: u64,
        /// Least allowed.
        min: u64,
        /// Most allowed.
        max: u64,
    },
    /// A tag that stands for nothing in this version.
    #[error("unknown {what} {value:#04x}")]
    UnknownTag {
        /// The field.
        what: &'static str,
        /// Tag found.
        value: u8,
    },
    /// A text is not UTF-8.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// The field.
        what: &'static str,
    },
}
