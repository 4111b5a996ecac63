//! Access control lists: text in a tar, `system.posix_acl_*` on a filesystem.
//!
//! GNU tar, star and libarchive write the text of POSIX.1e's draft, each with its own separators and each with another
//! idea of where a number stands. Names of users mean nothing without the image's own account files, which may not be
//! there yet, so an entry needs a number; a list that names somebody without one is refused, since leaving a
//! right out silently gives a file to others than its owner said.

use super::number;

/// Version of the binary form.
const VERSION: u32 = 2;
/// The id of an entry that names nobody.
const NOBODY: u32 = u32::MAX;
/// Most entries of one list: what fits into the largest xattr.
const MAX_ENTRIES: usize = 8_000;

/// Whom an entry is about; the numbers are those of the binary form, and its order is theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    Owner = 0x01,
    User = 0x02,
    OwningGroup = 0x04,
    Group = 0x08,
    Mask = 0x10,
    Other = 0x20,
}

/// One entry; the derived order is that of the binary form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    tag: Tag,
    id: u32,
    rights: u16,
}

/// The binary form of a list in text; `None` for one that says no more than a file's mode does, which no filesystem stores.
pub(super) fn to_xattr(text: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    let mut entries = Vec::new();
    for line in text.split(|byte| matches!(byte, b'\n' | b',')) {
        // A comment goes to the end of the line: `#effective:r--`.
        let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        let line = line.trim_ascii();
        if !line.is_empty() {
            entries.push(entry(line)?);
        }
        if entries.len() > MAX_ENTRIES {
            return Err("it has more entries than fit");
        }
    }
    if entries.is_empty() {
        return Ok(None);
    }
    add_mask(&mut entries);
    entries.sort_unstable();
    let same = |pair: &[Entry]| matches!(pair, [a, b] if a.tag == b.tag && a.id == b.id);
    if entries.windows(2).any(same) {
        return Err("it names somebody twice");
    }
    let has = |tag| entries.iter().any(|entry| entry.tag == tag);
    if ![Tag::Owner, Tag::OwningGroup, Tag::Other]
        .into_iter()
        .all(has)
    {
        return Err("it lacks the owner, the group or the others");
    }
    if entries.len() == 3 {
        return Ok(None);
    }
    let mut out = VERSION.to_le_bytes().to_vec();
    for entry in entries {
        out.extend((entry.tag as u16).to_le_bytes());
        out.extend(entry.rights.to_le_bytes());
        out.extend(entry.id.to_le_bytes());
    }
    Ok(Some(out))
}

/// Lists with named entries must have a mask; where a writer left it out it is what all of them together may do.
fn add_mask(entries: &mut Vec<Entry>) {
    let is_named = |entry: &&Entry| matches!(entry.tag, Tag::User | Tag::Group);
    let is_masked = |entry: &&Entry| is_named(entry) || entry.tag == Tag::OwningGroup;
    let has_mask = entries.iter().any(|entry| entry.tag == Tag::Mask);
    if has_mask || !entries.iter().any(|entry| is_named(&entry)) {
        return;
    }
    let all = entries.iter().filter(is_masked);
    let rights = all.fold(0, |rights, entry| rights | entry.rights);
    entries.push(Entry {
        tag: Tag::Mask,
        id: NOBODY,
        rights,
    });
}

/// `user:NAME-OR-NUMBER:rwx`, with the number possibly behind it in a fourth field.
fn entry(line: &[u8]) -> Result<Entry, &'static str> {
    let mut fields = line.split(|byte| *byte == b':').map(<[u8]>::trim_ascii);
    let (kind, mut name) = (
        fields.next().unwrap_or_default(),
        fields.next().unwrap_or_default(),
    );
    let mut rights_text = fields.next();
    // Solaris writes `mask:rwx` and `other:rwx`.
    if rights_text.is_none() {
        rights_text = Some(std::mem::take(&mut name));
    }
    let number = fields.next();
    if fields.next().is_some() {
        return Err("an entry has more than four fields");
    }
    let is_named = !name.is_empty();
    let tag = match (kind, is_named) {
        (b"user" | b"u", false) => Tag::Owner,
        (b"user" | b"u", true) => Tag::User,
        (b"group" | b"g", false) => Tag::OwningGroup,
        (b"group" | b"g", true) => Tag::Group,
        (b"mask" | b"m", false) => Tag::Mask,
        (b"other" | b"o", false) => Tag::Other,
        _ => return Err("an entry is about nobody that is known"),
    };
    let id = if is_named {
        let parsed = |digits| number::decimal(digits).and_then(|id| u32::try_from(id).ok());
        let id = match number.filter(|digits| !digits.is_empty()) {
            Some(digits) => parsed(digits),
            None if name == b"root" => Some(0),
            None => parsed(name),
        };
        id.filter(|id| *id != NOBODY)
            .ok_or("it names somebody without a number")?
    } else {
        NOBODY
    };
    Ok(Entry {
        tag,
        id,
        rights: rights(rights_text.unwrap_or_default())?,
    })
}

fn rights(text: &[u8]) -> Result<u16, &'static str> {
    text.iter().try_fold(0, |rights, letter| {
        let right = match letter {
            b'r' => 4,
            b'w' => 2,
            b'x' => 1,
            b'-' => 0,
            _ => return Err("an entry's rights are not made of r, w and x"),
        };
        Ok(rights | right)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `user::rw-`, `user:1000:r--`, `group::r--`, `mask::r--`, `other::---`, as the kernel stores it.
    const BINARY: &[u8] = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";

    #[test]
    fn every_writers_text_is_one_list() {
        for text in [
            // GNU tar, with and without --numeric-owner's names; order does not matter.
            &b"user::rw-\nuser:1000:r--\ngroup::r--\nmask::r--\nother::---\n"[..],
            b"other::---,mask::r--,group::r--,user:1000:r--,user::rw-",
            // libarchive and star.
            b"user::rw-,user:lisa:r--:1000,group::r--,mask::r--,other::---",
            // A mask that was left out, Solaris' short forms, comments and blanks.
            b"u::rw\nuser:1000:r--\t#effective:r--\n\n group::r--, other:---",
        ] {
            assert_eq!(
                to_xattr(text),
                Ok(Some(BINARY.to_vec())),
                "{}",
                text.escape_ascii()
            );
        }
    }

    #[test]
    fn named_entries_are_sorted_by_number() {
        let text =
            b"user::rwx,group:900:r-x,group:7:rwx,user:root:r-x,group::---,mask::rwx,other::---";
        let binary = to_xattr(text).unwrap().unwrap();
        let entries: Vec<(u8, u8, u32)> = binary[4..]
            .as_chunks::<8>()
            .0
            .iter()
            .map(|entry| {
                let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
                (entry[0], entry[2], id)
            })
            .collect();
        let nobody = u32::MAX;
        assert_eq!(
            entries,
            [
                (1, 7, nobody),
                (2, 5, 0),
                (4, 0, nobody),
                (8, 7, 7),
                (8, 5, 900),
                (16, 7, nobody),
                (32, 0, nobody),
            ]
        );
    }

    #[test]
    fn a_list_that_says_what_the_mode_says_is_none() {
        assert_eq!(to_xattr(b"user::rw-,group::r--,other::r--"), Ok(None));
        assert_eq!(to_xattr(b""), Ok(None));
    }

    #[test]
    fn lists_that_cannot_be_kept_are_refused() {
        for (text, why) in [
            (
                &b"user::rw-,user:lisa:r--,group::r--,other::---"[..],
                "it names somebody without a number",
            ),
            (
                b"user::rw-,user:4294967295:r--,group::r--,other::---",
                "it names somebody without a number",
            ),
            (
                b"user::rw-,user:5:r--,user:5:rw-,group::r--,other::---",
                "it names somebody twice",
            ),
            (
                b"user::rw-,user:5:r--",
                "it lacks the owner, the group or the others",
            ),
            (b"user::rwz", "an entry's rights are not made of r, w and x"),
            (b"owner@:rwx", "an entry is about nobody that is known"),
            (b"user:a:rwx:1:2", "an entry has more than four fields"),
        ] {
            assert_eq!(to_xattr(text), Err(why), "{}", text.escape_ascii());
        }
    }
}
