//! A file that only this node can read: its bytes are sealed with a key that lies beside it, for its owner's eyes alone.
//!
//! A copy of the file, in a backup or on a disk that was given away, says nothing without the key; the key may lie elsewhere, in
//! memory or where a machine unseals it. Against whoever is root here nothing helps.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

/// Begins the file, and is sealed with it: what was made for something else does not open.
const MAGIC: &[u8] = b"tranship sealed credentials 1\n";

/// The key's length in bytes.
const KEY_LEN: usize = 32;

/// The longest file that is read, in bytes.
const FILE_LEN_MAX: u64 = 16 << 20;

/// Why a sealed file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The file or its key cannot be read or written.
    #[error("could not use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The key is not one, or not a secret.
    #[error("the key {} cannot be used: {why}; take it away, and what it sealed is forgotten", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// The file does not open with the key.
    #[error("{} does not open with its key: one of them was changed or comes from elsewhere", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
    },
    /// The system has no randomness, or the text is too long.
    #[error("could not seal {}", path.display())]
    Seal {
        /// The file.
        path: PathBuf,
    },
}

/// A sealed file and its key.
#[derive(Debug)]
pub(super) struct Sealed {
    path: PathBuf,
    key: LessSafeKey,
    random: SystemRandom,
}

impl Sealed {
    /// The file at `path`, which need not be there yet, with the key at `key_path`, which is made if it is not there.
    pub(super) fn open(path: PathBuf, key_path: &Path) -> Result<Self, SealError> {
        let random = SystemRandom::new();
        let bytes = match read_key(key_path)? {
            Some(bytes) => bytes,
            None => make_key(key_path, &random)?,
        };
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| SealError::Key {
            path: key_path.to_owned(),
            why: "it is no key",
        })?;
        Ok(Self {
            path,
            key: LessSafeKey::new(key),
            random,
        })
    }

    /// What was sealed last, if anything was.
    pub(super) fn read(&self) -> Result<Option<Vec<u8>>, SealError> {
        let bytes = match read_bounded(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io_error(&self.path, source)),
        };
        let broken = || SealError::Broken {
            path: self.path.clone(),
        };
        let sealed = bytes.strip_prefix(MAGIC).ok_or_else(broken)?;
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(broken)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut sealed = sealed.to_vec();
        let opened = self
            .key
            .open_in_place(nonce, Aad::from(MAGIC), &mut sealed)
            .map_err(|_| broken())?;
        Ok(Some(opened.to_vec()))
    }

    /// Seals `text` in place of what was sealed before; after a crash it is the one or the other.
    pub(super) fn write(&self, text: &[u8]) -> Result<(), SealError> {
        let unsealed = || SealError::Seal {
            path: self.path.clone(),
        };
        // Ninety-six random bits for each of a node's few writes never meet.
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| unsealed())?;
        let mut sealed = text.to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(MAGIC),
                &mut sealed,
            )
            .map_err(|_| unsealed())?;
        let new = self.path.with_extension("new");
        let written = write_private(&new, &[MAGIC, &nonce, &sealed], false);
        let written = written.and_then(|()| fs::rename(&new, &self.path));
        written
            .and_then(|()| sync_folder(&self.path))
            .map_err(|source| io_error(&self.path, source))
    }
}

fn read_key(path: &Path) -> Result<Option<Vec<u8>>, SealError> {
    let bad = |why| SealError::Key {
        path: path.to_owned(),
        why,
    };
    match fs::metadata(path) {
        Ok(found) if found.mode() & 0o077 != 0 => {
            return Err(bad("others than its owner may read or write it"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error(path, source)),
    }
    let bytes = read_bounded(path).map_err(|source| io_error(path, source))?;
    if bytes.len() != KEY_LEN {
        return Err(bad("it has not the length of a key"));
    }
    Ok(Some(bytes))
}

fn make_key(path: &Path, random: &SystemRandom) -> Result<Vec<u8>, SealError> {
    let mut bytes = vec![0; KEY_LEN];
    random.fill(&mut bytes).map_err(|_| SealError::Key {
        path: path.to_owned(),
        why: "the system has no randomness for a new one",
    })?;
    write_private(path, &[&bytes], true)
        .and_then(|()| sync_folder(path))
        .map_err(|source| io_error(path, source))?;
    Ok(bytes)
}

fn write_private(path: &Path, parts: &[&[u8]], is_new: bool) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    if is_new {
        options.create_new(true);
    } else {
        options.create(true).truncate(true);
    }
    let mut file = options.open(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_LEN_MAX)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn io_error(path: &Path, source: io::Error) -> SealError {
    SealError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn open(dir: &Path) -> Result<Sealed, SealError> {
        Sealed::open(dir.join("file"), &dir.join("key"))
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_sealed_is_read_by_the_next_one_and_by_nobody_without_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = open(dir.path()).unwrap();
        assert_eq!(sealed.read().unwrap(), None);
        sealed.write(b"hunter1").unwrap();
        sealed.write(b"hunter2").unwrap();
        drop(sealed);
        assert_eq!(
            open(dir.path()).unwrap().read().unwrap().unwrap(),
            b"hunter2"
        );
        for name in ["file", "key"] {
            let path = dir.path().join(name);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
            let bytes = fs::read(&path).unwrap();
            assert!(!bytes.windows(6).any(|part| part == b"hunter"));
        }
        fs::remove_file(dir.path().join("key")).unwrap();
        let other = open(dir.path()).unwrap();
        assert!(matches!(other.read(), Err(SealError::Broken { .. })));
        other.write(b"hunter3").unwrap();
        assert_eq!(other.read().unwrap().unwrap(), b"hunter3");
    }

    #[test]
    fn any_changed_byte_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let sealed = open(dir.path()).unwrap();
        sealed.write(b"hunter2").unwrap();
        let path = dir.path().join("file");
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            assert!(
                matches!(sealed.read(), Err(SealError::Broken { .. })),
                "{at}"
            );
        }
        for len in 0..good.len() {
            fs::write(&path, &good[..len]).unwrap();
            assert!(sealed.read().is_err(), "{len}");
        }
    }

    #[test]
    fn a_key_that_is_no_secret_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).unwrap();
        let key = dir.path().join("key");
        chmod(&key, 0o640);
        let told = open(dir.path()).unwrap_err().to_string();
        assert!(told.contains("others than its owner"), "{told}");
        chmod(&key, 0o600);
        fs::write(&key, "short").unwrap();
        let told = open(dir.path()).unwrap_err().to_string();
        assert!(told.contains("length of a key"), "{told}");
    }
}
