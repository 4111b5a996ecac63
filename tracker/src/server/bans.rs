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

    /// Takes a peer off the list: the file is written anew beside the old one and then takes its place.
    ///
    /// # Errors
    /// What the system says; the list on disk is then as it was.
    pub(crate) fn remove(&mut self, peer: &PeerId) -> io::Result<()> {
        let text = fs::read_to_string(&self.path)?;
        let kept = text
            .lines()
            .filter(|line| parse(line).as_ref() != Some(peer));
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        let mut file = File::create(&new)?;
        for line in kept {
            writeln!(file, "{line}")?;
        }
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        if let Some(dir) = self.path.parent() {
            File::open(dir)?.sync_all()?;
        }
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        Ok(())
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

    #[test]
    fn a_ban_that_was_taken_back_is_gone_and_later_ones_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bans");
        let [first, second, third] =
            [[1, 1], [2, 2], [3, 3]].map(|id| PeerId::from_bytes(&id).unwrap());
        let (mut bans, _) = Bans::open(&path).unwrap();
        bans.add(&first);
        bans.add(&second);
        bans.remove(&first).unwrap();
        bans.remove(&third).unwrap();
        bans.add(&third);
        let (_, after) = Bans::open(&path).unwrap();
        assert_eq!(after, [second, third]);
    }
}
