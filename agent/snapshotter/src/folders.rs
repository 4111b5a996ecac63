//! The folders of snapshots: what is written, what is mounted, and a note of what each is.
//!
//! `snapshots/<id>/fs` holds a layer's own files, or is where an image is mounted; `work` is the kernel's, for overlays;
//! `snapshot.json` repeats the database's row, so that a node that lost its database is put together again. Folders are
//! numbered, since the digests in names hold colons, which overlayfs takes for the end of a path.

use std::collections::BTreeSet;
use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::error::SnapshotError;
use crate::snapshot::{Kind, Snapshot, Usage};

/// Bytes in a block of stat(2)'s count, whatever the filesystem's own are.
const STAT_BLOCK_LEN: u64 = 512;
/// Longest note that is read: labels are at most 4 KiB each, and there are a dozen.
const MAX_NOTE_LEN: u64 = 1 << 20;

/// The folder of all snapshots.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    dir: PathBuf,
}

impl Folders {
    /// Makes the folder when it is not there.
    pub(crate) fn open(root: &Path) -> Result<Self, SnapshotError> {
        let dir = root.join("snapshots");
        fs::create_dir_all(&dir).map_err(|source| failed("make", &dir, source))?;
        // Nobody but root looks at other people's files.
        fs::set_permissions(root, Permissions::from_mode(0o700))
            .map_err(|source| failed("close", root, source))?;
        Ok(Self { dir })
    }

    fn of(&self, id: u64) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// Where a snapshot's files are.
    pub(crate) fn files(&self, id: u64) -> PathBuf {
        self.of(id).join("fs")
    }

    /// The kernel's own folder of an overlay.
    pub(crate) fn work(&self, id: u64) -> PathBuf {
        self.of(id).join("work")
    }

    /// The snapshot whose files are, or are mounted, at `path`.
    pub(crate) fn id_at(&self, path: &Path) -> Option<u64> {
        let inside = path.strip_prefix(&self.dir).ok()?;
        let (id, rest) = inside.to_str()?.split_once('/')?;
        (rest == "fs").then(|| id.parse().ok()).flatten()
    }

    /// Makes the folders of a snapshot. Its root is like that of what it stands on.
    pub(crate) fn make(
        &self,
        snapshot: &Snapshot,
        below: Option<&Path>,
    ) -> Result<(), SnapshotError> {
        let outcome = self.try_make(snapshot, below);
        if outcome.is_err() {
            // Half of it is of no use; what cannot be taken away now is at the next cleanup.
            let _ = fs::remove_dir_all(self.of(snapshot.id));
        }
        outcome
    }

    fn try_make(&self, snapshot: &Snapshot, below: Option<&Path>) -> Result<(), SnapshotError> {
        let (dir, files) = (self.of(snapshot.id), self.files(snapshot.id));
        fs::create_dir(&dir).map_err(|source| failed("make", &dir, source))?;
        fs::set_permissions(&dir, Permissions::from_mode(0o700))
            .map_err(|source| failed("close", &dir, source))?;
        fs::create_dir(&files).map_err(|source| failed("make", &files, source))?;
        let mut mode = 0o755;
        if let Some(below) = below {
            let like = fs::metadata(below).map_err(|source| failed("look at", below, source))?;
            mode = like.mode() & 0o7777;
            chown(&files, Some(like.uid()), Some(like.gid()))
                .map_err(|source| failed("give away", &files, source))?;
        }
        fs::set_permissions(&files, Permissions::from_mode(mode))
            .map_err(|source| failed("open", &files, source))?;
        if snapshot.kind == Kind::Active {
            let work = self.work(snapshot.id);
            fs::create_dir(&work).map_err(|source| failed("make", &work, source))?;
            fs::set_permissions(&work, Permissions::from_mode(0o711))
                .map_err(|source| failed("open", &work, source))?;
        }
        self.note(snapshot)?;
        // The row that follows must not outlive the folder.
        fs::File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|source| failed("sync", &self.dir, source))
    }

    /// Writes down what a snapshot is.
    pub(crate) fn note(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        let path = self.of(snapshot.id).join("snapshot.json");
        let new = path.with_extension("new");
        serde_json::to_vec_pretty(snapshot)
            .map_err(io::Error::from)
            .and_then(|text| fs::write(&new, text))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|source| failed("write", &path, source))
    }

    /// What is written down of a snapshot, if that can be read.
    pub(crate) fn noted(&self, id: u64) -> Option<Snapshot> {
        let path = self.of(id).join("snapshot.json");
        if fs::metadata(&path).ok()?.len() > MAX_NOTE_LEN {
            return None;
        }
        let snapshot: Snapshot = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (snapshot.id == id).then_some(snapshot)
    }

    /// All snapshots that have a folder.
    pub(crate) fn ids(&self) -> Result<BTreeSet<u64>, SnapshotError> {
        let entries =
            fs::read_dir(&self.dir).map_err(|source| failed("read", &self.dir, source))?;
        let mut ids = BTreeSet::new();
        for entry in entries {
            let entry = entry.map_err(|source| failed("read", &self.dir, source))?;
            if let Some(id) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            {
                ids.insert(id);
            }
        }
        Ok(ids)
    }

    /// Takes away the folders of a snapshot that is no more. Refused while something is mounted in them.
    pub(crate) fn remove(&self, id: u64) -> Result<(), SnapshotError> {
        let (dir, files) = (self.of(id), self.files(id));
        let device = |path: &Path| fs::symlink_metadata(path).map(|found| found.dev());
        if let (Ok(outer), Ok(inner)) = (device(&dir), device(&files))
            && outer != inner
        {
            return Err(failed("remove", &dir, io::ErrorKind::ResourceBusy.into()));
        }
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &dir, error))
            }
            _ => Ok(()),
        }
    }

    /// What the files of a snapshot take on disk, counted anew: each file once, however many names it has.
    pub(crate) fn usage(&self, id: u64) -> Result<Usage, SnapshotError> {
        let files = self.files(id);
        let top =
            fs::symlink_metadata(&files).map_err(|source| failed("look at", &files, source))?;
        let mut usage = Usage::default();
        let mut seen = BTreeSet::new();
        count(&mut usage, &mut seen, &top);
        let mut pending = vec![files];
        while let Some(dir) = pending.pop() {
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                // A container removes files while we count.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(failed("read", &dir, source)),
            };
            for entry in entries {
                let path = entry.map_err(|source| failed("read", &dir, source))?.path();
                let found = match fs::symlink_metadata(&path) {
                    Ok(found) => found,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(source) => return Err(failed("look at", &path, source)),
                };
                count(&mut usage, &mut seen, &found);
                if found.is_dir() {
                    pending.push(path);
                }
            }
        }
        Ok(usage)
    }
}

fn count(usage: &mut Usage, seen: &mut BTreeSet<(u64, u64)>, found: &Metadata) {
    if found.nlink() > 1 && !found.is_dir() && !seen.insert((found.dev(), found.ino())) {
        return;
    }
    usage.inode_count = usage.inode_count.saturating_add(1);
    let len = found.blocks().saturating_mul(STAT_BLOCK_LEN);
    usage.len = usage.len.saturating_add(len);
}

fn failed(deed: &'static str, path: &Path, source: io::Error) -> SnapshotError {
    SnapshotError::Folder {
        deed,
        path: path.to_path_buf(),
        source,
    }
}
