//! The database: names, parents, kinds, labels.
//!
//! Each change is one transaction, which is on disk when the call returns, and in which nothing is waited for but the disk.
//! What a snapshot *is* (folders, mounts) is made before its row is written and taken away after the row is gone, so a
//! crash leaves folders without a row, never a row without a folder.

use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition};

use crate::error::SnapshotError;
use crate::snapshot::{Kind, Snapshot, Usage, now};

/// Snapshots, as JSON, by name.
const SNAPSHOTS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("snapshots");
/// How many snapshots stand on one, for those on which any does.
const CHILDREN: TableDefinition<'static, &str, u64> = TableDefinition::new("children");

type Rows<'txn> = Table<'txn, &'static str, &'static [u8]>;
type Counts<'txn> = Table<'txn, &'static str, u64>;

/// A name and its snapshot, or what is wrong with the row.
pub(crate) type Row = (String, Result<Snapshot, SnapshotError>);

/// How to commit an active snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Commit<'a> {
    pub(crate) key: &'a str,
    pub(crate) name: &'a str,
    /// For a snapshot that was prepared without a parent; empty for none.
    pub(crate) parent: &'a str,
    pub(crate) labels: std::collections::BTreeMap<String, String>,
    pub(crate) usage: Usage,
}

/// All snapshots of this node.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    database: Arc<Database>,
}

impl Metadata {
    /// Opens the database, or makes an empty one.
    pub(crate) fn open(path: &Path) -> Result<Self, SnapshotError> {
        let database = Database::create(path).map_err(|error| fault("open", error))?;
        let metadata = Self {
            database: Arc::new(database),
        };
        // So that readers never find a database without its tables.
        metadata.write(|_, _| Ok(()))?;
        Ok(metadata)
    }

    /// One snapshot.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Snapshot>, SnapshotError> {
        self.read(|rows| load(rows, name))
    }

    /// A snapshot and all those below it, the uppermost first.
    pub(crate) fn chain(&self, name: &str) -> Result<Vec<Snapshot>, SnapshotError> {
        self.read(|rows| {
            let mut chain: Vec<Snapshot> = Vec::new();
            let mut next = name.to_owned();
            while !next.is_empty() {
                // Rows never make a ring; a database that was tampered with must not hang us.
                if chain.iter().any(|above| above.name == next) {
                    return Err(SnapshotError::Invalid {
                        what: format!("the snapshots below {name:?} form a ring"),
                    });
                }
                let snapshot = load(rows, &next)?.ok_or_else(|| SnapshotError::not_found(&next))?;
                next.clone_from(&snapshot.parent);
                chain.push(snapshot);
            }
            Ok(chain)
        })
    }

    /// Snapshots called `name`, or `name/` and something.
    pub(crate) fn named_after(&self, name: &str) -> Result<Vec<Snapshot>, SnapshotError> {
        self.read(|rows| {
            let mut named: Vec<Snapshot> = load(rows, name)?.into_iter().collect();
            let prefix = format!("{name}/");
            let later = rows.range(prefix.as_str()..);
            for row in later.map_err(|error| fault("read", error))? {
                let (found, row) = row.map_err(|error| fault("read", error))?;
                if !found.value().starts_with(&prefix) {
                    break;
                }
                named.push(decode(found.value(), row.value())?);
            }
            Ok(named)
        })
    }

    /// All snapshots by name, each with its row or what is wrong with that.
    pub(crate) fn all(&self) -> Result<Vec<Row>, SnapshotError> {
        self.read(|rows| {
            let mut all = Vec::new();
            for row in rows.iter().map_err(|error| fault("read", error))? {
                let (name, row) = row.map_err(|error| fault("read", error))?;
                let name = name.value().to_owned();
                let snapshot = decode(&name, row.value());
                all.push((name, snapshot));
            }
            Ok(all)
        })
    }

    /// Adds a snapshot; its parent must be there, and committed.
    pub(crate) fn insert(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        self.write(|rows, counts| {
            if has(rows, &snapshot.name)? {
                return Err(SnapshotError::Exists {
                    name: snapshot.name.clone(),
                });
            }
            stand_on(rows, counts, &snapshot.parent)?;
            store(rows, snapshot)
        })
    }

    /// Finishes an active snapshot under another name.
    pub(crate) fn commit(&self, commit: &Commit<'_>) -> Result<Snapshot, SnapshotError> {
        self.write(|rows, counts| {
            let mut snapshot =
                load(rows, commit.key)?.ok_or_else(|| SnapshotError::not_found(commit.key))?;
            if snapshot.kind != Kind::Active {
                return Err(SnapshotError::WrongKind {
                    name: commit.key.to_owned(),
                    found: said(snapshot.kind),
                    wanted: said(Kind::Active),
                });
            }
            if has(rows, commit.name)? {
                return Err(SnapshotError::Exists {
                    name: commit.name.to_owned(),
                });
            }
            if !commit.parent.is_empty() && commit.parent != snapshot.parent {
                if !snapshot.parent.is_empty() {
                    return Err(SnapshotError::Invalid {
                        what: format!(
                            "snapshot {:?} stands on {:?} and cannot be committed onto {:?}",
                            commit.key, snapshot.parent, commit.parent
                        ),
                    });
                }
                stand_on(rows, counts, commit.parent)?;
                commit.parent.clone_into(&mut snapshot.parent);
            }
            forget(rows, commit.key)?;
            commit.name.clone_into(&mut snapshot.name);
            snapshot.kind = Kind::Committed;
            snapshot.labels.clone_from(&commit.labels);
            snapshot.usage = commit.usage;
            snapshot.updated_at = now();
            store(rows, &snapshot)?;
            Ok(snapshot)
        })
    }

    /// Removes a snapshot on which none stands. One whose row cannot be read can be removed as well.
    pub(crate) fn remove(&self, name: &str) -> Result<(), SnapshotError> {
        self.write(|rows, counts| {
            if !has(rows, name)? {
                return Err(SnapshotError::not_found(name));
            }
            let child_count = count(counts, name)?;
            if child_count > 0 {
                return Err(SnapshotError::HasChildren {
                    name: name.to_owned(),
                    child_count,
                });
            }
            if let Ok(Some(snapshot)) = load(rows, name)
                && !snapshot.parent.is_empty()
            {
                let left = count(counts, &snapshot.parent)?.saturating_sub(1);
                let parent = snapshot.parent.as_str();
                if left == 0 {
                    counts.remove(parent).map(drop)
                } else {
                    counts.insert(parent, left).map(drop)
                }
                .map_err(|error| fault("write", error))?;
            }
            forget(rows, name)
        })
    }

    /// Changes the labels of a snapshot.
    pub(crate) fn relabel(
        &self,
        name: &str,
        change: impl FnOnce(&mut std::collections::BTreeMap<String, String>),
    ) -> Result<Snapshot, SnapshotError> {
        self.write(|rows, _| {
            let mut snapshot = load(rows, name)?.ok_or_else(|| SnapshotError::not_found(name))?;
            change(&mut snapshot.labels);
            snapshot.updated_at = now();
            store(rows, &snapshot)?;
            Ok(snapshot)
        })
    }

    /// Takes over what was found in the folders of a node whose database is gone.
    pub(crate) fn restore(&self, snapshots: &[Snapshot]) -> Result<(), SnapshotError> {
        self.write(|rows, counts| {
            for snapshot in snapshots {
                store(rows, snapshot)?;
                if !snapshot.parent.is_empty() {
                    let parent = snapshot.parent.as_str();
                    let children = count(counts, parent)?.saturating_add(1);
                    counts
                        .insert(parent, children)
                        .map_err(|error| fault("write", error))?;
                }
            }
            Ok(())
        })
    }

    fn read<T>(
        &self,
        look: impl FnOnce(&redb::ReadOnlyTable<&'static str, &'static [u8]>) -> Result<T, SnapshotError>,
    ) -> Result<T, SnapshotError> {
        let transaction = self
            .database
            .begin_read()
            .map_err(|error| fault("read", error))?;
        let rows = transaction
            .open_table(SNAPSHOTS)
            .map_err(|error| fault("read", error))?;
        look(&rows)
    }

    /// One transaction; what it did is undone when it fails.
    fn write<T>(
        &self,
        change: impl FnOnce(&mut Rows<'_>, &mut Counts<'_>) -> Result<T, SnapshotError>,
    ) -> Result<T, SnapshotError> {
        let transaction = self
            .database
            .begin_write()
            .map_err(|error| fault("write", error))?;
        let outcome = {
            let mut rows = transaction
                .open_table(SNAPSHOTS)
                .map_err(|error| fault("write", error))?;
            let mut counts = transaction
                .open_table(CHILDREN)
                .map_err(|error| fault("write", error))?;
            change(&mut rows, &mut counts)
        };
        match outcome {
            Ok(value) => {
                transaction
                    .commit()
                    .map_err(|error| fault("write", error))?;
                Ok(value)
            }
            Err(error) => {
                // Dropping it does the same; what it says about that is of no use to anyone.
                let _ = transaction.abort();
                Err(error)
            }
        }
    }
}

fn fault(deed: &'static str, error: impl Into<redb::Error>) -> SnapshotError {
    SnapshotError::database(deed, error)
}

/// A kind as a word of a sentence.
pub(crate) fn said(kind: Kind) -> &'static str {
    match kind {
        Kind::View => "a view",
        Kind::Active => "active",
        Kind::Committed => "committed",
    }
}

fn decode(name: &str, row: &[u8]) -> Result<Snapshot, SnapshotError> {
    serde_json::from_slice(row).map_err(|source| SnapshotError::Corrupt {
        name: name.to_owned(),
        source,
    })
}

fn load(
    rows: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<Snapshot>, SnapshotError> {
    let row = rows.get(name).map_err(|error| fault("read", error))?;
    row.map(|row| decode(name, row.value())).transpose()
}

fn has(rows: &Rows<'_>, name: &str) -> Result<bool, SnapshotError> {
    let row = rows.get(name).map_err(|error| fault("read", error))?;
    Ok(row.is_some())
}

fn store(rows: &mut Rows<'_>, snapshot: &Snapshot) -> Result<(), SnapshotError> {
    let row = serde_json::to_vec(snapshot).map_err(|source| SnapshotError::Corrupt {
        name: snapshot.name.clone(),
        source,
    })?;
    rows.insert(snapshot.name.as_str(), row.as_slice())
        .map_err(|error| fault("write", error))?;
    Ok(())
}

fn forget(rows: &mut Rows<'_>, name: &str) -> Result<(), SnapshotError> {
    rows.remove(name).map_err(|error| fault("write", error))?;
    Ok(())
}

fn count(counts: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, SnapshotError> {
    let found = counts.get(name).map_err(|error| fault("read", error))?;
    Ok(found.map_or(0, |count| count.value()))
}

/// One more stands on `parent`, which must bear it.
fn stand_on(rows: &Rows<'_>, counts: &mut Counts<'_>, parent: &str) -> Result<(), SnapshotError> {
    if parent.is_empty() {
        return Ok(());
    }
    let below = load(rows, parent)?.ok_or_else(|| SnapshotError::not_found(parent))?;
    if below.kind != Kind::Committed {
        return Err(SnapshotError::ParentNotCommitted {
            name: parent.to_owned(),
        });
    }
    let children = count(counts, parent)?.saturating_add(1);
    counts
        .insert(parent, children)
        .map_err(|error| fault("write", error))?;
    Ok(())
}
