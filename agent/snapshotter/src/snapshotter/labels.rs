//! Changing the labels of a snapshot: the only thing about one that can be changed.

use std::collections::BTreeMap;

use super::Snapshotter;
use crate::error::SnapshotError;
use crate::snapshot::Snapshot;

/// Which labels are changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelChange {
    /// All of them: those that are not given go.
    All,
    /// Those of these names: given ones are set, others go.
    Only(Vec<String>),
}

impl LabelChange {
    /// Reads the paths of a mask, such as `labels` or `labels.some-name`; no path at all means everything that can be changed.
    pub fn parse(paths: &[String]) -> Result<Self, SnapshotError> {
        let mut names = Vec::new();
        for path in paths {
            if path == "labels" {
                return Ok(Self::All);
            }
            let name = path
                .strip_prefix("labels.")
                .ok_or_else(|| SnapshotError::Invalid {
                    what: format!("{path:?} of a snapshot cannot be changed; its labels can"),
                })?;
            names.push(name.to_owned());
        }
        Ok(if names.is_empty() {
            Self::All
        } else {
            Self::Only(names)
        })
    }
}

impl Snapshotter {
    /// Changes the labels of a snapshot.
    pub async fn update(
        &self,
        name: &str,
        labels: BTreeMap<String, String>,
        change: LabelChange,
    ) -> Result<Snapshot, SnapshotError> {
        let name = name.to_owned();
        self.blocking(move |inner| {
            let changed = inner.metadata.relabel(&name, |found| match change {
                LabelChange::All => *found = labels,
                LabelChange::Only(names) => {
                    for name in names {
                        match labels.get(&name) {
                            Some(value) => found.insert(name, value.clone()),
                            None => found.remove(&name),
                        };
                    }
                }
            })?;
            inner.note(&changed);
            Ok(changed)
        })
        .await
    }
}
