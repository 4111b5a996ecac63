//! Bans outlive the tracker: one peer id a line, in hexadecimal, the oldest first.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tranship_format::wire::PeerId;

/// Longest file that is read: more than the machine remembers.
const MAX_FILE_LEN: u64 = 16 << 20;

/// The list of bans on disk.
#[derive(Debug)]
pub(crate) struct Bans {
    path: PathBuf,
    file: File,
}

impl Bans {
    /// Opens the list, or begins one, and reads it. Lines that make no sense are left out.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Vec<PeerId>)> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        if file.metadata()?.len() > MAX_FILE_LEN {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let text = fs::read_to_string(path)?;
        let peers = text.lines().filter_map(parse).collect();
        let path = path.to_owned();
        Ok((Self { path, file }, peers))
    }

    /// Adds a peer. A ban that cannot be written holds until the tracker stops.
    pub(crate) fn add(&mut self, peer: &PeerId) {
        let written = writeln!(self.file, "{peer}").and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            tracing::error!(path = %self.path.display(), %error, "a ban cannot be kept");
        }
    }
}

fn parse(line: &str) -> Option<PeerId> {
    let digits = line.trim().as_bytes();
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    PeerId::from_bytes(&bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bans_are_read_back_in_order_and_nonsense_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bans");
        let peers = [[1, 2, 3], [255, 0, 9]].map(|id| PeerId::from_bytes(&id).unwrap());
        let (mut bans, before) = Bans::open(&path).unwrap();
        assert_eq!(before, []);
        for peer in &peers {
            bans.add(peer);
        }
        writeln!(bans.file, "nonsense\n").unwrap();
        let (_, after) = Bans::open(&path).unwrap();
        assert_eq!(after, peers);
    }
}
