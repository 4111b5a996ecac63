//! What a snapshot stands on, as folders.

use std::path::PathBuf;
use std::sync::PoisonError;

use super::Snapshotter;
use crate::error::SnapshotError;
use crate::snapshot::Snapshot;

impl Snapshotter {
    /// The folders of a chain of committed snapshots, the uppermost first. The first lazy one ends it: its image is
    /// mounted with all that is below it.
    pub(super) async fn lower(&self, chain: &[Snapshot]) -> Result<Vec<PathBuf>, SnapshotError> {
        self.refuse_broken(chain)?;
        let mut lower = Vec::with_capacity(chain.len());
        for snapshot in chain {
            let files = self.inner.folders.files(snapshot.id);
            lower.push(files.clone());
            let Some(layers) = &snapshot.lazy else {
                continue;
            };
            let attached = self.inner.images.attach(layers, &files).await;
            attached.map_err(|source| SnapshotError::Image {
                name: snapshot.name.clone(),
                source,
            })?;
            break;
        }
        Ok(lower)
    }

    fn refuse_broken(&self, chain: &[Snapshot]) -> Result<(), SnapshotError> {
        let quarantine = self.inner.quarantine.lock();
        let quarantine = quarantine.unwrap_or_else(PoisonError::into_inner);
        for snapshot in chain {
            if let Some(why) = quarantine.get(&snapshot.name) {
                return Err(SnapshotError::Quarantined {
                    name: snapshot.name.clone(),
                    why: why.clone(),
                });
            }
            if snapshot.lazy.is_some() {
                break;
            }
        }
        Ok(())
    }
}
