//! Taking away what belonged to snapshots that are no more.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use super::{Inner, Snapshotter};
use crate::error::SnapshotError;

impl Snapshotter {
    /// Takes away mounts and folders that no snapshot has any more. What is still in use stays until the next time.
    pub async fn clean_up(&self) -> Result<(), SnapshotError> {
        let _turn = self.inner.cleaning.lock().await;
        let left = self.blocking(Inner::left_over).await?;
        for target in self.inner.images.attached() {
            let is_left = self
                .inner
                .folders
                .id_at(&target)
                .is_some_and(|id| left.contains(&id));
            if is_left && let Err(error) = self.inner.images.detach(&target).await {
                tracing::warn!(
                    target = %target.display(),
                    error = &*error as &dyn std::error::Error,
                    "the mount of a removed snapshot stays until the next cleanup"
                );
            }
        }
        self.blocking(move |inner| {
            for id in left {
                if let Err(error) = inner.folders.remove(id) {
                    tracing::warn!(
                        id,
                        error = &error as &dyn std::error::Error,
                        "the folders of a removed snapshot stay until the next cleanup"
                    );
                }
            }
            Ok(())
        })
        .await
    }
}

impl Inner {
    /// Folders without a row. They are listed first and looked up last: one that is made meanwhile is not listed, and
    /// one that was being made has its row by then.
    fn left_over(&self) -> Result<BTreeSet<u64>, SnapshotError> {
        let mut left = self.folders.ids()?;
        let making = {
            let making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            making.clone()
        };
        left.retain(|id| !making.contains(id));
        for (name, snapshot) in self.metadata.all()? {
            match snapshot {
                Ok(snapshot) => {
                    left.remove(&snapshot.id);
                }
                // Whose folder that is cannot be told but by the notes.
                Err(_) => left.retain(|id| {
                    self.folders
                        .noted(*id)
                        .is_some_and(|noted| noted.name != name)
                }),
            }
        }
        Ok(left)
    }
}
