//! Grants that outlive the node's process: one file an image, in the state directory.
//!
//! Credentials for a registry may have ended since a grant was given, and a node that started anew without it would be
//! left with a registry that refuses, though the grant lasts. What is on disk proves nothing by itself: a grant is believed
//! when its signature, its peer and its time are right, and by others only then as well.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tranship_format::Digest;
use tranship_format::wire::{Grant, PeerId};

use super::certificate::{Authority, unix_seconds};

/// Most grants that are kept.
const MAX_KEPT: usize = 4096;
/// Longest file that is read: a grant of 256 blobs has some nine thousand bytes.
const MAX_LEN: u64 = 16 << 10;

/// What is kept, by manifest.
#[derive(Debug, Default)]
pub(crate) struct KeptGrants {
    dir: PathBuf,
    grants: BTreeMap<Digest, Grant>,
}

impl KeptGrants {
    /// Reads the grants of `me` that still hold; the others go. A folder that cannot be read keeps nothing.
    pub(crate) fn open(dir: PathBuf, authority: &Authority, me: &PeerId) -> Self {
        let mut kept = Self {
            dir,
            grants: BTreeMap::new(),
        };
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&kept.dir);
        let files = match made.and_then(|()| fs::read_dir(&kept.dir)) {
            Ok(files) => files,
            Err(error) => {
                tracing::warn!(dir = %kept.dir.display(), %error, "grants cannot be kept: after a restart each image is granted anew");
                return Self::default();
            }
        };
        let now = unix_seconds();
        for path in files.flatten().map(|file| file.path()) {
            let grant = read(&path).filter(|grant| authority.check_grant(grant, me, now).is_ok());
            match grant {
                Some(grant) if kept.grants.len() < MAX_KEPT => {
                    kept.grants.insert(grant.manifest, grant);
                }
                // It is over, or was never whole; what cannot be removed is passed over the next time, too.
                _ => drop(fs::remove_file(&path)),
            }
        }
        kept
    }

    /// The grant for an image, if there is one that holds now.
    pub(crate) fn of(&self, registry: &str, manifest: &Digest) -> Option<&Grant> {
        let grant = self.grants.get(manifest)?;
        (grant.registry == registry && grant.covers(unix_seconds())).then_some(grant)
    }

    /// Keeps a grant; gives what writes it, if it is another one than before.
    pub(crate) fn keep(&mut self, grant: &Grant) -> Option<impl FnOnce() + Send + use<>> {
        if self.dir.as_os_str().is_empty() || self.grants.get(&grant.manifest) == Some(grant) {
            return None;
        }
        if self.grants.len() >= MAX_KEPT && !self.grants.contains_key(&grant.manifest) {
            let now = unix_seconds();
            self.grants.retain(|_, kept| kept.covers(now));
            if self.grants.len() >= MAX_KEPT {
                return None;
            }
        }
        self.grants.insert(grant.manifest, grant.clone());
        let path = self.dir.join(grant.manifest.hex());
        let mut bytes = Vec::new();
        grant.encode(&mut bytes);
        // Two trackers may give one at the same time.
        let beside = path.with_extension(format!("{}.new", grant.issued_at));
        Some(move || {
            let written = write(&beside, &bytes).and_then(|()| fs::rename(&beside, &path));
            if let Err(error) = written {
                tracing::warn!(path = %path.display(), %error, "a grant is not kept");
            }
        })
    }
}

fn read(path: &Path) -> Option<Grant> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(MAX_LEN).read_to_end(&mut bytes).ok()?;
    Grant::decode(&bytes).ok()
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::net::certificate::{issue_grant, wire_peer};
    use crate::net::identity::Identity;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn a_grant_is_there_after_a_restart_and_one_that_is_over_or_of_others_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (tracker, stranger) = (Identity::generate(), Identity::generate());
        let authority = Authority::of(tracker.libp2p_peer()).unwrap();
        let me = wire_peer(Identity::generate().libp2p_peer()).unwrap();
        let give = |name: &str, by: &Identity, now| {
            let image = ("registry".to_owned(), Digest::of(name.as_bytes()));
            let blobs = vec![Digest::of(b"blob"); 256];
            issue_grant(by, me, image, blobs, now, HOUR).unwrap()
        };
        let now = unix_seconds();
        let good = give("good", &tracker, now);
        let mut kept = KeptGrants::open(dir.path().join("grants"), &authority, &me);
        for grant in [
            &good,
            &give("over", &tracker, now - 7200),
            &give("other", &stranger, now),
        ] {
            kept.keep(grant).unwrap()();
        }
        assert!(kept.keep(&good).is_none(), "it is written already");
        fs::write(dir.path().join("grants/torn"), b"not a grant").unwrap();

        let again = KeptGrants::open(dir.path().join("grants"), &authority, &me);
        assert_eq!(again.of("registry", &good.manifest), Some(&good));
        assert_eq!(again.of("another registry", &good.manifest), None);
        assert_eq!(again.grants.len(), 1);
        let left = fs::read_dir(dir.path().join("grants")).unwrap();
        assert_eq!(left.count(), 1, "the others went");
    }
}
