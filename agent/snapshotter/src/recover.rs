//! Opening what an earlier run left, whole or not.
//!
//! containerd keeps its own record of which snapshots there are, and an image whose snapshots are gone from ours cannot be
//! pulled again until it is removed. So the database is never thrown away: one that is lost or does not open is put together again
//! from the notes beside the snapshots' folders.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::error::SnapshotError;
use crate::folders::Folders;
use crate::metadata::Metadata;
use crate::snapshot::{Snapshot, now};

/// What was found when all snapshots were looked at.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Above every number that was ever given and is still to be seen.
    pub(crate) next_id: u64,
    /// Snapshots that cannot be used, with what is wrong with each.
    pub(crate) broken: BTreeMap<String, String>,
}

/// Opens the database in `root`, or puts it together again.
pub(crate) fn open(root: &Path, folders: &Folders) -> Result<Metadata, SnapshotError> {
    let path = root.join("metadata.redb");
    let was_there = path.exists();
    let metadata = match Metadata::open(&path) {
        // Folders without a row are what was removed and not yet taken away.
        Ok(metadata) if was_there => return Ok(metadata),
        Ok(metadata) => metadata,
        // Another agent has it: nothing is wrong with it.
        Err(SnapshotError::Database { source, .. })
            if matches!(*source, redb::Error::DatabaseAlreadyOpen) =>
        {
            return Err(SnapshotError::Database {
                deed: "open",
                source,
            });
        }
        Err(error) if was_there => {
            let aside = root.join(format!("metadata.redb.broken-{}", now().as_secs()));
            tracing::error!(
                error = &error as &dyn std::error::Error,
                aside = %aside.display(),
                "the database of snapshots does not open; it is put aside, and put together again from the folders"
            );
            fs::rename(&path, &aside).map_err(|source| SnapshotError::Folder {
                deed: "put aside",
                path: path.clone(),
                source,
            })?;
            Metadata::open(&path)?
        }
        Err(error) => return Err(error),
    };
    let noted = noted(folders)?;
    if !noted.is_empty() {
        tracing::warn!(
            snapshots = noted.len(),
            "there was no database of snapshots; it is put together again from the folders"
        );
        metadata.restore(&noted)?;
    }
    Ok(metadata)
}

/// What the notes say; of two of one name the later one.
fn noted(folders: &Folders) -> Result<Vec<Snapshot>, SnapshotError> {
    let ids = folders.ids()?.into_iter();
    let by_name: BTreeMap<String, Snapshot> = ids
        .filter_map(|id| folders.noted(id))
        .map(|snapshot| (snapshot.name.clone(), snapshot))
        .collect();
    Ok(by_name.into_values().collect())
}

/// Looks at every snapshot once, without opening any: rows that cannot be read, parents and folders that are gone, notes that are old.
pub(crate) fn look_over(metadata: &Metadata, folders: &Folders) -> Result<Found, SnapshotError> {
    let mut found = Found::default();
    let rows = metadata.all()?;
    let highest = folders.ids()?.last().copied().unwrap_or_default();
    found.next_id = highest.saturating_add(1);
    let names: std::collections::BTreeSet<&str> =
        rows.iter().map(|(name, _)| name.as_str()).collect();
    for (name, row) in &rows {
        let snapshot = match row {
            Ok(snapshot) => snapshot,
            Err(error) => {
                found.broken.insert(name.clone(), error.to_string());
                continue;
            }
        };
        found.next_id = found.next_id.max(snapshot.id.saturating_add(1));
        if !snapshot.parent.is_empty() && !names.contains(snapshot.parent.as_str()) {
            let why = format!("{:?}, on which it stands, is gone", snapshot.parent);
            found.broken.insert(name.clone(), why);
        } else if let Err(why) = standing(folders, snapshot) {
            found.broken.insert(name.clone(), why);
        } else if folders.noted(snapshot.id).as_ref() != Some(snapshot) {
            // Without a note it is only worse off should the database be lost.
            let _ = folders.note(snapshot);
        }
    }
    Ok(found)
}

/// Whether the folder of a snapshot is there. That of a lazy one is only a place to mount at, and made again.
fn standing(folders: &Folders, snapshot: &Snapshot) -> Result<(), String> {
    let files = folders.files(snapshot.id);
    if snapshot.lazy.is_some() {
        return match fs::create_dir_all(&files) {
            // A mount whose server is gone stands there, which is put right when it is attached.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(format!(
                "its folder {} cannot be made: {error}",
                files.display()
            )),
            _ => Ok(()),
        };
    }
    match fs::symlink_metadata(&files) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(format!("{} is no folder", files.display())),
        Err(error) => Err(format!(
            "its files at {} are gone: {error}",
            files.display()
        )),
    }
}
