//! The node's own key: an Ed25519 key pair in one file of the state directory.
//!
//! A peer's name is the hash of its public key, so the key must outlive the
//! process: a node that forgets it is a stranger to everyone who knew it. The
//! file is written beside its place and renamed, so that a crash leaves either
//! no key or a whole one, and only its owner may read it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use libp2p::PeerId;
use libp2p::identity::Keypair;
use thiserror::Error;

/// Name of the key file inside the state directory.
const KEY_FILE: &str = "identity.key";
/// Longest key file that is read: libp2p's encoding of an Ed25519 pair has 68 bytes.
const MAX_KEY_LEN: u64 = 1024;

/// Why a node has no key.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The key file or its directory cannot be read or written.
    #[error("use the key file {path}")]
    File {
        /// The file that was tried.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// Others may read the key file, so it proves nothing.
    #[error("the key file {path} has mode {mode:o}, only its owner may read it (chmod 600)")]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else than a key pair.
    #[error("the key file {path} does not hold a key pair")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        #[source]
        source: libp2p::identity::DecodingError,
    },
}

/// A node's key pair and the name that follows from it.
#[derive(Clone, Debug)]
pub struct Identity {
    keypair: Keypair,
}

impl Identity {
    /// Makes a key that lives as long as the process.
    pub fn generate() -> Self {
        Self {
            keypair: Keypair::generate_ed25519(),
        }
    }

    /// Whether there is a key in `state_dir`, so that this is not the node's first start.
    pub fn exists(state_dir: &Path) -> bool {
        state_dir.join(KEY_FILE).exists()
    }

    /// Reads the key in `state_dir`, or makes directory and key when there is none.
    pub fn open(state_dir: &Path) -> Result<Self, IdentityError> {
        let path = state_dir.join(KEY_FILE);
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::File { path, source }
        };
        match fs::metadata(&path) {
            Ok(metadata) => {
                let mode = metadata.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(IdentityError::Readable { path, mode });
                }
                if metadata.len() > MAX_KEY_LEN {
                    let source = io::Error::new(io::ErrorKind::FileTooLarge, "too long for a key");
                    return Err(IdentityError::File { path, source });
                }
                let bytes = fs::read(&path).map_err(at(&path))?;
                let keypair = Keypair::from_protobuf_encoding(&bytes)
                    .map_err(|source| IdentityError::Malformed { path, source })?;
                Ok(Self { keypair })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(state_dir).map_err(at(state_dir))?;
                let identity = Self::generate();
                identity.save(&path).map_err(at(&path))?;
                Ok(identity)
            }
            Err(error) => Err(at(&path)(error)),
        }
    }

    fn save(&self, path: &Path) -> io::Result<()> {
        let bytes = self
            .keypair
            .to_protobuf_encoding()
            .map_err(io::Error::other)?;
        let beside = path.with_extension("new");
        // What a crash left behind never became the key: it may go.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    }

    /// The libp2p name of this node.
    pub fn libp2p_peer(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }

    pub(crate) fn keypair(&self) -> &Keypair {
        &self.keypair
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = Identity::open(&state).unwrap();
        let second = Identity::open(&state).unwrap();
        assert_eq!(first.libp2p_peer(), second.libp2p_peer());
        let mode = fs::metadata(state.join(KEY_FILE)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Identity::open(dir.path()).unwrap();
        let path = dir.path().join(KEY_FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            Identity::open(dir.path()),
            Err(IdentityError::Readable { mode: 0o644, .. })
        ));
    }

    #[test]
    fn a_file_that_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Identity::open(dir.path()).unwrap();
        fs::write(dir.path().join(KEY_FILE), b"not a key").unwrap();
        assert!(matches!(
            Identity::open(dir.path()),
            Err(IdentityError::Malformed { .. })
        ));
    }
}
