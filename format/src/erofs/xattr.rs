//! Extended attributes: a small header behind the inode, then each name and value.
//!
//! Ours are always inline: sharing equal values saves little once blocks are compressed, and an upper layer could
//! not take a shared value away. Other writers share, so the reader knows both.

use std::collections::BTreeMap;

use thiserror::Error;

use super::fields::Fields;

/// Bytes of the header in front of the entries.
const HEADER_LEN: usize = 12;
/// Bytes of an entry in front of its name.
pub(super) const ENTRY_LEN: usize = 4;
/// Bytes in which an inode counts its xattrs.
const UNIT_LEN: usize = 4;
/// Set in the index of a name whose prefix stands in a table of the filesystem.
const LONG_PREFIX: u8 = 0x80;

/// Name prefixes that are stored as one byte. Order matters: the first that fits is taken.
const PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Whole name with its namespace: `user.mime_type`.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// Extended attributes that the filesystem cannot hold.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum XattrError {
    /// A name that Linux would not take either.
    #[error("xattr name of {len} bytes: at least one and at most 255 are possible")]
    Name {
        /// Length in bytes of the name.
        len: usize,
    },
    /// A value whose length does not fit the record.
    #[error("xattr value of {len} bytes: at most 65,535 are possible")]
    Value {
        /// Length in bytes of the value.
        len: usize,
    },
    /// More than the inode can count.
    #[error("xattrs of {len} bytes on one inode: at most {limit} are possible")]
    Total {
        /// Length in bytes of all entries.
        len: usize,
        /// Most that there may be.
        limit: usize,
    },
}

/// All xattrs of one inode in their stored form, so that a tree of many files keeps them as one allocation each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XattrSet(Box<[u8]>);

impl XattrSet {
    /// Encodes `xattrs`, whole names to values. Their order is the map's, so equal sets are equal bytes.
    pub fn new(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Self, XattrError> {
        if xattrs.is_empty() {
            return Ok(Self::default());
        }
        let mut out = vec![0; HEADER_LEN];
        for (name, value) in xattrs {
            let (index, rest) = split_name(name);
            let name_len = u8::try_from(rest.len())
                .ok()
                .filter(|_| !name.is_empty() && !name.contains(&0))
                .ok_or(XattrError::Name { len: name.len() })?;
            let value_len =
                u16::try_from(value.len()).map_err(|_| XattrError::Value { len: value.len() })?;
            out.push(name_len);
            out.push(index);
            out.extend(value_len.to_le_bytes());
            out.extend(rest);
            out.extend(value);
            out.resize(out.len().next_multiple_of(UNIT_LEN), 0);
        }
        let limit = len_of_units(u16::MAX);
        if out.len() > limit {
            return Err(XattrError::Total {
                len: out.len(),
                limit,
            });
        }
        Ok(Self(out.into_boxed_slice()))
    }

    /// The stored form: empty if there are no xattrs.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn split_name(name: &[u8]) -> (u8, &[u8]) {
    for (index, prefix) in PREFIXES {
        if let Some(rest) = name.strip_prefix(prefix) {
            // The two access control lists are whole names: nothing may follow.
            if rest.is_empty() || !prefix.starts_with(b"system.") {
                return (index, rest);
            }
        }
    }
    (0, name)
}

/// How an inode counts `len` bytes of xattrs.
pub(super) fn unit_count(len: usize) -> u16 {
    match len.checked_sub(HEADER_LEN) {
        None => 0,
        Some(entries) => u16::try_from(entries / UNIT_LEN + 1).unwrap_or(u16::MAX),
    }
}

/// How many bytes of xattrs an inode counts as `units`.
pub(super) fn len_of_units(units: u16) -> usize {
    match usize::from(units) {
        0 => 0,
        units => HEADER_LEN + UNIT_LEN * (units - 1),
    }
}

/// What stands behind an inode.
#[derive(Debug, Default)]
pub(super) struct InlineXattrs {
    /// Places of shared xattrs, in units of 4 bytes from the superblock's xattr block.
    pub(super) shared: Vec<u32>,
    pub(super) xattrs: Vec<Xattr>,
}

/// Reads the xattrs behind an inode. `None` if they overrun their space or use a prefix that we do not know.
pub(super) fn decode(bytes: &[u8]) -> Option<InlineXattrs> {
    let mut out = InlineXattrs::default();
    if bytes.is_empty() {
        return Some(out);
    }
    let mut record = Fields(bytes);
    record.u32()?;
    let shared = record.u8()?;
    record.bytes(7)?;
    for _ in 0..shared {
        out.shared.push(record.u32()?);
    }
    while record.0.len() >= ENTRY_LEN {
        let (name_len, index, value_len) = entry_head(&mut record)?;
        let name = whole_name(index, record.bytes(name_len)?)?;
        let value = record.bytes(value_len)?.to_vec();
        let padding = (ENTRY_LEN + name_len + value_len).next_multiple_of(UNIT_LEN)
            - (ENTRY_LEN + name_len + value_len);
        record.bytes(padding)?;
        // Some writers pad the space with an empty entry; it is no attribute.
        if !name.is_empty() {
            out.xattrs.push(Xattr { name, value });
        }
    }
    Some(out)
}

/// Name length, prefix index and value length of the entry that `record` begins with.
pub(super) fn entry_head(record: &mut Fields<'_>) -> Option<(usize, u8, usize)> {
    let name_len = usize::from(record.u8()?);
    let index = record.u8()?;
    let value_len = usize::from(record.u16()?);
    Some((name_len, index, value_len))
}

/// The name with the prefix that `index` stands for.
pub(super) fn whole_name(index: u8, rest: &[u8]) -> Option<Vec<u8>> {
    if index == 0 {
        return Some(rest.to_vec());
    }
    if index & LONG_PREFIX != 0 {
        return None;
    }
    let (_, prefix) = PREFIXES.iter().find(|(known, _)| *known == index)?;
    Some([*prefix, rest].concat())
}
