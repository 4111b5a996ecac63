//! Making a snapshot, or answering that its layer need not be unpacked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use tranship_containerd::types::Mount;

use super::{Inner, Snapshotter, named};
use crate::error::SnapshotError;
use crate::lazy::{Verdict, Wanted};
use crate::mounts;
use crate::snapshot::{Kind, LazyLayers, REF_LABEL, Snapshot};

/// Which image a layer belongs to, as the container runtime interface says it.
const IMAGE_LABEL: &str = "containerd.io/snapshot/cri.image-ref";
const MANIFEST_LABEL: &str = "containerd.io/snapshot/cri.manifest-digest";
const LAYER_LABEL: &str = "containerd.io/snapshot/cri.layer-digest";

/// What a snapshot shall be.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Its name.
    pub key: String,
    /// What it stands on; empty for nothing.
    pub parent: String,
    /// Keys and values of others, and what containerd says of the layer.
    pub labels: BTreeMap<String, String>,
}

impl Snapshotter {
    /// Makes a snapshot to write to. [`SnapshotError::Exists`] where containerd asked whether the layer can be had without
    /// unpacking, and it can: then there is a committed snapshot with the label that it asked by.
    pub async fn prepare(&self, request: Request) -> Result<Vec<Mount>, SnapshotError> {
        named(&request.key)?;
        if let Some(target) = request.labels.get(REF_LABEL)
            && let Some(name) = self.prepare_lazy(target, &request).await?
        {
            return Err(SnapshotError::Exists { name });
        }
        self.make(request, Kind::Active).await
    }

    /// Makes a snapshot to look at.
    pub async fn view(&self, request: Request) -> Result<Vec<Mount>, SnapshotError> {
        named(&request.key)?;
        self.make(request, Kind::View).await
    }

    async fn make(&self, request: Request, kind: Kind) -> Result<Vec<Mount>, SnapshotError> {
        let chain = if request.parent.is_empty() {
            Vec::new()
        } else {
            self.chain(&request.parent).await?
        };
        if let Some(parent) = chain.first()
            && parent.kind != Kind::Committed
        {
            return Err(SnapshotError::ParentNotCommitted {
                name: request.parent,
            });
        }
        let key = request.key.clone();
        let taken = self.blocking(move |inner| inner.metadata.get(&key)).await?;
        if taken.is_some() {
            return Err(SnapshotError::Exists { name: request.key });
        }
        let lower = self.lower(&chain).await?;
        self.blocking(move |inner| {
            let mut snapshot = Snapshot::new(inner.new_id(), &request.key, &request.parent, kind);
            snapshot.labels = request.labels;
            inner.add(&snapshot, lower.first())?;
            Ok(mounts::of(
                &inner.folders,
                &snapshot,
                &lower,
                &inner.overlay_options,
            ))
        })
        .await
    }

    /// The name of a committed snapshot that shows the layer without anybody unpacking it, if there is one or can be.
    async fn prepare_lazy(
        &self,
        target: &str,
        request: &Request,
    ) -> Result<Option<String>, SnapshotError> {
        let (wanted_name, parent) = (target.to_owned(), request.parent.clone());
        let (known, position) = self
            .blocking(move |inner| {
                let below = if parent.is_empty() {
                    Vec::new()
                } else {
                    inner.metadata.chain(&parent)?
                };
                Ok((inner.standing(&wanted_name, &parent)?, below.len()))
            })
            .await?;
        if known.is_some() {
            return Ok(known);
        }
        let Some(reference) = request.labels.get(IMAGE_LABEL) else {
            return Ok(None);
        };
        // containerd names snapshots `namespace/number/name`.
        let (namespace, _) = request.key.split_once('/').unwrap_or_default();
        let wanted = Wanted {
            namespace: namespace.to_owned(),
            reference: reference.clone(),
            manifest: request.labels.get(MANIFEST_LABEL).cloned(),
            layer: request.labels.get(LAYER_LABEL).cloned(),
            position: u32::try_from(position).unwrap_or(u32::MAX),
        };
        let layers = match self.inner.images.find(&wanted).await {
            Verdict::Lazy(layers) => layers,
            Verdict::Unpack => return Ok(None),
            Verdict::Refused { why } => {
                return Err(SnapshotError::NotLazy {
                    reference: wanted.reference,
                    why,
                });
            }
        };
        let (target, request) = (target.to_owned(), request.clone());
        let added = self.blocking(move |inner| inner.add_lazy(&target, request, layers));
        added.await.map(Some)
    }
}

impl Inner {
    fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Folders, then the row.
    fn add(&self, snapshot: &Snapshot, below: Option<&PathBuf>) -> Result<(), SnapshotError> {
        let making = || self.making.lock().unwrap_or_else(PoisonError::into_inner);
        making().insert(snapshot.id);
        let outcome = self
            .folders
            .make(snapshot, below.map(PathBuf::as_path))
            .and_then(|()| self.metadata.insert(snapshot));
        if outcome.is_err()
            && let Err(error) = self.folders.remove(snapshot.id)
        {
            tracing::warn!(
                id = snapshot.id,
                error = &error as &dyn std::error::Error,
                "the folders of a snapshot that was not made stay until the next cleanup"
            );
        }
        making().remove(&snapshot.id);
        outcome
    }

    /// The committed snapshot that stands for `target` on `parent`.
    fn standing(&self, target: &str, parent: &str) -> Result<Option<String>, SnapshotError> {
        let named = self.metadata.named_after(target)?;
        let standing = named.into_iter().find(|snapshot| {
            snapshot.kind == Kind::Committed
                && snapshot.parent == parent
                && snapshot
                    .labels
                    .get(REF_LABEL)
                    .is_some_and(|found| found == target)
        });
        Ok(standing.map(|snapshot| snapshot.name))
    }

    /// Adds a committed snapshot of layers that are shown. Its name is what containerd calls the chain of layers, so that
    /// all namespaces share it; only where something else has that name already, which stands on something else, a number follows.
    fn add_lazy(
        &self,
        target: &str,
        request: Request,
        layers: LazyLayers,
    ) -> Result<String, SnapshotError> {
        let id = self.new_id();
        let mut snapshot = Snapshot::new(id, target, &request.parent, Kind::Committed);
        snapshot.labels = request.labels;
        snapshot.lazy = Some(layers);
        match self.add(&snapshot, None) {
            Err(SnapshotError::Exists { .. }) => {}
            outcome => return outcome.map(|()| snapshot.name),
        }
        // Another call was faster, or the name is taken.
        if let Some(name) = self.standing(target, &request.parent)? {
            return Ok(name);
        }
        snapshot.name = format!("{target}/{id}");
        self.add(&snapshot, None)?;
        Ok(snapshot.name)
    }
}
