//! What is wrong with bytes that came from outside.
//!
//! One shape for every decoder, because whoever reads the message needs the same three answers each time: which
//! structure, at which byte of its input, and which rule it breaks.

use core::fmt;

/// A structure that cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {offset}: {why}")]
pub struct DecodeError {
    /// The structure, in the words of the format document.
    pub what: &'static str,
    /// Where in the decoder's input the fault lies, in bytes from its beginning.
    pub offset: u64,
    /// The rule that does not hold.
    pub why: Fault,
}

impl DecodeError {
    /// A fault of `what` at `offset` bytes.
    pub const fn new(what: &'static str, offset: u64, why: Fault) -> Self {
        Self { what, offset, why }
    }
}

/// The rule of the format that an input breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The input ends before the structure does.
    Truncated {
        /// Bytes that the structure needs.
        need: u64,
        /// Bytes that are there.
        have: u64,
    },
    /// The input goes on after the structure has ended.
    Trailing {
        /// Bytes that are too many.
        excess: u64,
    },
    /// The magic bytes are not those of this structure.
    Magic,
    /// A checksum does not match the bytes it covers.
    Checksum {
        /// As the input states it.
        stored: u32,
        /// As the bytes give it.
        computed: u32,
    },
    /// A field holds a value that the format does not allow.
    Field {
        /// The field, in the words of the format document.
        name: &'static str,
        /// What it holds.
        value: u64,
        /// What it must hold, for people.
        must: &'static str,
    },
    /// The bytes break a rule that is not about one field.
    Rule(&'static str),
    /// The bytes are well formed, but of a kind that is not read here.
    Unsupported(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { need, have } => write!(f, "needs {need} bytes and has {have}"),
            Self::Trailing { excess } => {
                write!(f, "is followed by {excess} bytes that belong to nothing")
            }
            Self::Magic => f.write_str("the magic is wrong"),
            Self::Checksum { stored, computed } => {
                write!(
                    f,
                    "the checksum is {stored:#010x} and must be {computed:#010x}"
                )
            }
            Self::Field { name, value, must } => write!(f, "{name} is {value} and must be {must}"),
            Self::Rule(rule) => f.write_str(rule),
            Self::Unsupported(kind) => write!(f, "{kind} is not supported"),
        }
    }
}
