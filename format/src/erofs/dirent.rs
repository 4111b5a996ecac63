//! Directory blocks: an array of entries, then their names.
//!
//! The kernel finds a name by two binary searches, first over blocks by their first name, then within a block. So
//! all names of a directory, `.` and `..` among them, stand in the order of their bytes, and no name crosses a block.

use super::fields::Fields;
use super::kind::FileKind;
use super::{MAX_NAME_LEN, Nid};

/// Bytes of an entry in front of the names.
pub(crate) const DIRENT_LEN: usize = 12;

/// One entry of a directory as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Name: 1 to 255 bytes, any but `/` and NUL.
    pub name: Vec<u8>,
    /// The inode it names.
    pub nid: Nid,
    /// What the entry says the inode is; [`crate::erofs::Inode::kind`] decides.
    pub kind: FileKind,
}

/// One entry as it lies in a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dirent<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) nid: Nid,
    pub(crate) kind: FileKind,
}

/// Appends one block's entries; the caller has seen to it that they fit and are in order.
pub(crate) fn encode_block(entries: &[Dirent<'_>], out: &mut Vec<u8>) {
    let mut name_offset = entries.len() * DIRENT_LEN;
    for entry in entries {
        out.extend(entry.nid.0.to_le_bytes());
        out.extend(u16::try_from(name_offset).unwrap_or(u16::MAX).to_le_bytes());
        out.push(entry.kind.dirent_code());
        out.push(0);
        name_offset += entry.name.len();
    }
    for entry in entries {
        out.extend(entry.name);
    }
}

/// The entries of one block as they lie in it. `None` if they contradict each other.
pub(crate) fn decode_block(block: &[u8]) -> Option<Vec<Dirent<'_>>> {
    let names_start = usize::from(Fields(block.get(8..)?).u16()?);
    let count = names_start / DIRENT_LEN;
    if !names_start.is_multiple_of(DIRENT_LEN) || count == 0 {
        return None;
    }
    let mut heads = Fields(block.get(..names_start)?);
    let mut entries = Vec::with_capacity(count);
    let mut head = Head::take(&mut heads)?;
    for _ in 1..count {
        let next = Head::take(&mut heads)?;
        entries.push(head.named(block.get(head.name_offset..next.name_offset)?)?);
        head = next;
    }
    // The last name of a block ends where the block does, or at the first NUL.
    let rest = block.get(head.name_offset..)?;
    entries.push(head.named(rest.split(|byte| *byte == 0).next()?)?);
    Some(entries)
}

/// What an entry's fixed part says.
struct Head {
    nid: Nid,
    name_offset: usize,
    kind: FileKind,
}

impl Head {
    fn take(heads: &mut Fields<'_>) -> Option<Self> {
        let head = Self {
            nid: Nid(heads.u64()?),
            name_offset: usize::from(heads.u16()?),
            kind: FileKind::of_dirent_code(heads.u8()?)?,
        };
        heads.u8()?;
        Some(head)
    }

    fn named<'b>(&self, name: &'b [u8]) -> Option<Dirent<'b>> {
        is_name(name).then_some(Dirent {
            name,
            nid: self.nid,
            kind: self.kind,
        })
    }
}

/// A name that can stand between two slashes.
fn is_name(name: &[u8]) -> bool {
    (1..=MAX_NAME_LEN).contains(&name.len()) && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Vec<u8> {
        let entry = |name, nid, kind| Dirent {
            name,
            nid: Nid(nid),
            kind,
        };
        let mut block = Vec::new();
        let entries = [
            entry(b".".as_slice(), 36, FileKind::Directory),
            entry(b"..", 36, FileKind::Directory),
            entry(b"file", 1 << 40, FileKind::Regular),
            entry(b"link", 77, FileKind::Symlink),
        ];
        encode_block(&entries, &mut block);
        block
    }

    fn said(block: &[u8]) -> Option<Vec<(Vec<u8>, Nid, FileKind)>> {
        let entries = decode_block(block)?.into_iter();
        Some(
            entries
                .map(|entry| (entry.name.to_vec(), entry.nid, entry.kind))
                .collect(),
        )
    }

    #[test]
    fn entries_come_back_as_they_were() {
        let entries = said(&block()).unwrap();
        let names: Vec<&[u8]> = entries.iter().map(|(name, ..)| name.as_slice()).collect();
        assert_eq!(names, [b".".as_slice(), b"..", b"file", b"link"]);
        assert_eq!(entries[2].1, Nid(1 << 40));
        assert_eq!(entries[3].2, FileKind::Symlink);
        // Blocks are as long as blocks are; what follows the last name is zeros.
        let padded = [block(), vec![0; 100]].concat();
        assert_eq!(said(&padded), Some(entries));
    }

    #[test]
    fn a_flipped_bit_is_refused_or_says_something_else() {
        let right = said(&block());
        for bit in 0..block().len() * 8 {
            let is_reserved = bit / 8 < 4 * DIRENT_LEN && bit / 8 % DIRENT_LEN == 11;
            let mut flipped = block();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(said(&flipped) == right, is_reserved, "bit {bit}");
        }
    }
}
