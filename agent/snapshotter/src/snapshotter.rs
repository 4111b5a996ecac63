//! Snapshots of one node: the calls of containerd, as rules.
//!
//! What may be slow (an image behind a registry) is waited for outside of any transaction and any lock, so that calls
//! about other images go on. What must not be left half done (folders and their row) is one piece of blocking work, which
//! ends even when the caller is gone.

mod clean;
mod labels;
mod lower;
mod prepare;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use tranship_containerd::types::Mount;

use crate::error::SnapshotError;
use crate::filter::Filter;
use crate::folders::Folders;
use crate::lazy::Images;
use crate::metadata::{self, Commit, Metadata};
use crate::mounts;
use crate::recover;
use crate::snapshot::{Kind, Snapshot, Usage};

pub use labels::LabelChange;
pub use prepare::Request;

/// The snapshotter of a node.
#[derive(Clone, Debug)]
pub struct Snapshotter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    metadata: Metadata,
    folders: Folders,
    images: Arc<dyn Images>,
    overlay_options: Vec<String>,
    next_id: AtomicU64,
    /// Folders that are being made, and have no row yet.
    making: Mutex<BTreeSet<u64>>,
    /// Snapshots that were found broken at the start, with what is wrong with each.
    quarantine: Mutex<BTreeMap<String, String>>,
    /// Held by the one cleanup that goes on.
    cleaning: tokio::sync::Mutex<()>,
}

impl Snapshotter {
    /// Opens the snapshots in `root`. A lost database is put together again from the folders, and a broken snapshot
    /// keeps nobody from starting. Blocks on the disk.
    pub fn open(root: &Path, images: Arc<dyn Images>) -> Result<Self, SnapshotError> {
        std::fs::create_dir_all(root).map_err(|source| SnapshotError::Folder {
            deed: "make",
            path: root.to_path_buf(),
            source,
        })?;
        // The kernel shows paths without symbolic links, and ours are compared with what it shows.
        let root = root
            .canonicalize()
            .map_err(|source| SnapshotError::Folder {
                deed: "find",
                path: root.to_path_buf(),
                source,
            })?;
        let folders = Folders::open(&root)?;
        let metadata = recover::open(&root, &folders)?;
        let found = recover::look_over(&metadata, &folders)?;
        for (name, why) in &found.broken {
            tracing::error!(name, why, "a snapshot is put in quarantine");
        }
        Ok(Self {
            inner: Arc::new(Inner {
                metadata,
                folders,
                images,
                overlay_options: mounts::overlay_options(),
                next_id: AtomicU64::new(found.next_id),
                making: Mutex::default(),
                quarantine: Mutex::new(found.broken),
                cleaning: tokio::sync::Mutex::default(),
            }),
        })
    }

    /// Snapshots that were found broken, with what is wrong with each.
    pub fn quarantined(&self) -> Vec<(String, String)> {
        let quarantine = self.inner.quarantine.lock();
        let quarantine = quarantine.unwrap_or_else(PoisonError::into_inner);
        quarantine
            .iter()
            .map(|(name, why)| (name.clone(), why.clone()))
            .collect()
    }

    /// The mounts of an active snapshot or a view. What they stand on is mounted again if it is not.
    pub async fn mounts(&self, key: &str) -> Result<Vec<Mount>, SnapshotError> {
        let mut chain = self.chain(key).await?.into_iter();
        let snapshot = chain.next().ok_or_else(|| SnapshotError::not_found(key))?;
        if snapshot.kind == Kind::Committed {
            return Err(SnapshotError::WrongKind {
                name: key.to_owned(),
                found: metadata::said(snapshot.kind),
                wanted: "active or a view",
            });
        }
        let lower = self.lower(chain.as_slice()).await?;
        let (folders, options) = (&self.inner.folders, &self.inner.overlay_options);
        Ok(mounts::of(folders, &snapshot, &lower, options))
    }

    /// Finishes an active snapshot under `name`.
    pub async fn commit(
        &self,
        key: &str,
        name: &str,
        parent: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<(), SnapshotError> {
        named(name)?;
        let (key, name, parent) = (key.to_owned(), name.to_owned(), parent.to_owned());
        self.blocking(move |inner| {
            let active = inner
                .metadata
                .get(&key)?
                .ok_or_else(|| SnapshotError::not_found(&key))?;
            let commit = Commit {
                key: &key,
                name: &name,
                parent: &parent,
                labels,
                // Counted before the transaction: folders may be large.
                usage: inner.folders.usage(active.id)?,
            };
            let committed = inner.metadata.commit(&commit)?;
            inner.note(&committed);
            Ok(())
        })
        .await
    }

    /// Forgets a snapshot on which none stands. Its folders and mounts go with the next [cleanup](Self::clean_up):
    /// containerd holds up every start of a container while it waits for this call.
    pub async fn remove(&self, key: &str) -> Result<(), SnapshotError> {
        let key = key.to_owned();
        self.blocking(move |inner| {
            inner.metadata.remove(&key)?;
            let mut quarantine = inner
                .quarantine
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            quarantine.remove(&key);
            Ok(())
        })
        .await
    }

    /// One snapshot.
    pub async fn stat(&self, key: &str) -> Result<Snapshot, SnapshotError> {
        let key = key.to_owned();
        self.blocking(move |inner| {
            inner
                .metadata
                .get(&key)?
                .ok_or_else(|| SnapshotError::not_found(&key))
        })
        .await
    }

    /// All snapshots that one of the filters admits; all of them for no filters.
    pub async fn list(&self, filters: &[String]) -> Result<Vec<Snapshot>, SnapshotError> {
        let filters: Option<Vec<Filter>> = filters.iter().map(|text| Filter::parse(text)).collect();
        // One that is not understood admits everything.
        let filters = filters.unwrap_or_default();
        self.blocking(move |inner| {
            let all = inner.metadata.all()?.into_iter();
            let readable = all.filter_map(|(_, snapshot)| snapshot.ok());
            Ok(readable
                .filter(|snapshot| {
                    filters.is_empty() || filters.iter().any(|filter| filter.admits(snapshot))
                })
                .collect())
        })
        .await
    }

    /// What a snapshot takes on disk, without what it stands on: of a lazy one, the store's files of its layer.
    pub async fn usage(&self, key: &str) -> Result<Usage, SnapshotError> {
        let key = key.to_owned();
        self.blocking(move |inner| {
            let snapshot = inner
                .metadata
                .get(&key)?
                .ok_or_else(|| SnapshotError::not_found(&key))?;
            inner.usage(&snapshot)
        })
        .await
    }

    /// What all snapshots of a namespace of containerd take, and all lazy ones, which namespaces share. Those that cannot be read take
    /// nothing.
    pub async fn usage_of(&self, namespace: &str) -> Result<Usage, SnapshotError> {
        let prefix = format!("{namespace}/");
        self.blocking(move |inner| {
            let mut all = Usage::default();
            for (name, snapshot) in inner.metadata.all()? {
                let is_of =
                    |snapshot: &Snapshot| snapshot.lazy.is_some() || name.starts_with(&prefix);
                let snapshot = snapshot.ok().filter(is_of);
                // It may be removed meanwhile.
                let usage = snapshot.and_then(|snapshot| inner.usage(&snapshot).ok());
                let usage = usage.unwrap_or_default();
                all.len = all.len.saturating_add(usage.len);
                all.inode_count = all.inode_count.saturating_add(usage.inode_count);
            }
            Ok(all)
        })
        .await
    }

    async fn chain(&self, name: &str) -> Result<Vec<Snapshot>, SnapshotError> {
        let name = name.to_owned();
        self.blocking(move |inner| inner.metadata.chain(&name))
            .await
    }

    /// Blocking work; it is finished even when nobody waits for it any more.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, SnapshotError> + Send + 'static,
    ) -> Result<T, SnapshotError> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .map_err(|_| SnapshotError::Stopping)?
    }
}

impl Inner {
    fn usage(&self, snapshot: &Snapshot) -> Result<Usage, SnapshotError> {
        Ok(match (&snapshot.lazy, snapshot.kind) {
            (Some(layers), _) => self.images.usage(layers),
            (None, Kind::Committed) => snapshot.usage,
            (None, _) => self.folders.usage(snapshot.id)?,
        })
    }

    /// Notes what a snapshot has become; the row counts, so a note that cannot be written is no failure.
    fn note(&self, snapshot: &Snapshot) {
        if let Err(error) = self.folders.note(snapshot) {
            tracing::warn!(
                name = snapshot.name,
                error = &error as &dyn std::error::Error,
                "what a snapshot is could not be noted beside it"
            );
        }
    }
}

fn named(name: &str) -> Result<(), SnapshotError> {
    if name.is_empty() {
        return Err(SnapshotError::Invalid {
            what: "a snapshot must have a name".to_owned(),
        });
    }
    Ok(())
}
