//! The filesystem that a guest boots into, as the kernel takes it: a cpio archive in its "newc" form, uncompressed, because emulated
//! processors unpack slowly.

use std::collections::BTreeSet;
use std::fmt::Write as _;

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive that grows. Paths are relative to the root.
#[derive(Debug, Clone, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    /// What is in it: a folder or a library is wanted more than once.
    paths: BTreeSet<String>,
}

impl Archive {
    /// Adds a folder and those above it.
    pub(super) fn folder(&mut self, path: &str) {
        let ends = path.match_indices('/').map(|(end, _)| end);
        for end in ends.chain([path.len()]) {
            self.put(&path[..end], FOLDER | 0o755, b"");
        }
    }

    /// Adds a file, unless it is there.
    pub(super) fn file(&mut self, path: &str, content: &[u8], mode: u32) {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder);
        }
        self.put(path, FILE | mode, content);
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.put(path, LINK | 0o777, target.as_bytes());
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.put("TRAILER!!!", 0, b"");
        self.bytes
    }

    fn put(&mut self, path: &str, mode: u32, content: &[u8]) {
        if !self.paths.insert(path.to_owned()) {
            return;
        }
        let number = u32::try_from(self.paths.len()).expect("few files");
        let len = u32::try_from(content.len()).expect("a short file");
        let name_len = u32::try_from(path.len() + 1).expect("a short name");
        let mut header = String::from("070701");
        // Number, mode, owner, group, links, time, length, four halves of device numbers, the name's length, checksum.
        for field in [number, mode, 0, 0, 1, 0, len, 0, 0, 0, 0, name_len, 0] {
            write!(header, "{field:08X}").expect("memory");
        }
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        let len = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(len, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_others_take_for_one() {
        let mut archive = Archive::default();
        archive.file("a/b/file", b"content", 0o644);
        archive.file("a/b/file", b"another", 0o644);
        archive.link("a/link", "b/file");
        let bytes = archive.finish();
        assert!(bytes.starts_with(b"070701"));
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let at = |name: &str| text.find(name).expect(name);
        assert!(
            at("a\0") < at("a/b\0") && at("a/b\0") < at("a/b/file\0"),
            "folders come first"
        );
        assert!(text.contains("content") && !text.contains("another"));
        // A name of 11 bytes with its end behind a header of 110: padded to 124.
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"), "{text:?}");
    }
}
