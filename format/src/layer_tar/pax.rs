//! PAX headers: records of `length key=value`, of which the few that a layer needs are kept.
//!
//! Values are bytes: a path may be in any encoding and an xattr may hold newlines and NULs, which is why records carry
//! their length.

use super::attributes::Attributes;
use super::error::{ReadTarError, shown};
use super::sparse::{self, Run};
use super::{Timestamp, number};

/// What a PAX header says of the entry that follows it.
#[derive(Debug, Default)]
pub(super) struct Extended {
    path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) attributes: Attributes,
    /// Device numbers that do not fit a header's digits.
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    /// star's name for what the entry is, where a header's type cannot say it.
    filetype: Option<Vec<u8>>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    sparse_map: Option<Vec<Run>>,
    /// Offset of a run in format 0.0 whose length is in the next record.
    sparse_offset: Option<u64>,
    sparse_major: u64,
}

/// A sparse file in one of the PAX formats.
#[derive(Debug)]
pub(super) struct PaxSparse {
    /// Length in bytes of the whole file, if the header gives it.
    pub(super) size: Option<u64>,
    /// The map, if it is in the header and not in front of the data.
    pub(super) runs: Option<Vec<Run>>,
}

impl Extended {
    /// Reads all records of a header.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, ReadTarError> {
        let mut out = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).ok_or(ReadTarError::Pax {
                why: "a record's length does not fit it",
            })?;
            out.apply(key, value)?;
            bytes = rest;
        }
        if out.sparse_offset.is_some() {
            return Err(ReadTarError::Pax {
                why: "a sparse run has no length",
            });
        }
        Ok(out)
    }

    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), ReadTarError> {
        let taken = self.attributes.take(key, value);
        if taken.map_err(|why| ReadTarError::Pax { why })? {
            return Ok(());
        }
        // An empty value takes an earlier one back.
        let text = (!value.is_empty()).then(|| value.to_vec());
        let wrong = |field| ReadTarError::Number {
            entry: shown(key),
            field,
        };
        let size = |field| optional(value, number::decimal).ok_or_else(|| wrong(field));
        let short = |field| {
            let parse = |digits: &[u8]| number::decimal(digits)?.try_into().ok();
            optional(value, parse).ok_or_else(|| wrong(field))
        };
        match key {
            b"path" => self.path = text,
            b"linkpath" => self.link_path = text,
            b"size" => self.size = size("PAX size")?,
            b"uid" => self.uid = short("PAX owner")?,
            b"gid" => self.gid = short("PAX group")?,
            b"mtime" => {
                self.mtime = optional(value, number::time).ok_or_else(|| wrong("PAX time"))?;
            }
            b"SCHILY.devmajor" => self.major = short("PAX major number")?,
            b"SCHILY.devminor" => self.minor = short("PAX minor number")?,
            b"SCHILY.filetype" => self.filetype = text,
            b"GNU.sparse.name" => self.sparse_name = text,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_size = size("sparse size")?,
            b"GNU.sparse.major" => self.sparse_major = size("sparse version")?.unwrap_or_default(),
            b"GNU.sparse.map" => self.sparse_map = Some(sparse::comma_map(value)?),
            b"GNU.sparse.offset" => self.sparse_offset = size("sparse offset")?,
            b"GNU.sparse.numbytes" => {
                let len = size("sparse length")?.unwrap_or_default();
                let offset = self.sparse_offset.take().ok_or(ReadTarError::Pax {
                    why: "a sparse run has no offset",
                })?;
                let runs = self.sparse_map.get_or_insert_default();
                runs.push(Run { offset, len });
            }
            _ => {}
        }
        Ok(())
    }

    /// The entry's path, if the header gives one. A sparse file's own name stands in its own record.
    pub(super) fn path(&self) -> Option<Vec<u8>> {
        self.sparse_name.clone().or_else(|| self.path.clone())
    }

    /// Whether the entry is a socket. Tar has no type for one; star writes an empty regular file and says here what it is.
    pub(super) fn is_socket(&self) -> bool {
        self.filetype.as_deref() == Some(b"socket")
    }

    /// How the entry is sparse, if it is.
    pub(super) fn sparse(&self) -> Option<PaxSparse> {
        let leading = self.sparse_major > 0;
        (leading || self.sparse_map.is_some()).then(|| PaxSparse {
            size: self.sparse_size,
            runs: self.sparse_map.clone().filter(|_| !leading),
        })
    }
}

/// `Some(None)` for an empty value, `None` for one that does not parse.
#[expect(
    clippy::option_option,
    reason = "absent and wrong are two answers, and both are looked at at once"
)]
fn optional<T>(value: &[u8], parse: impl Fn(&[u8]) -> Option<T>) -> Option<Option<T>> {
    if value.is_empty() {
        Some(None)
    } else {
        parse(value).map(Some)
    }
}

/// Splits the first record off: key, value, rest.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let len = usize::try_from(number::decimal(bytes.get(..space)?)?).ok()?;
    let body = bytes.get(space + 1..len)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    let (key, value) = body.split_at_checked(equals)?;
    Some((key, value.get(1..)?, bytes.get(len..)?))
}
