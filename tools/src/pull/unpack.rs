//! The layers of an image: each asked of the snapshotter, and unpacked where it is not lazy.

use std::collections::HashMap;

use tranship_containerd::diff::v1::ApplyRequest;
use tranship_containerd::snapshots::v1::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use tranship_containerd::tonic::{Code, Status};
use tranship_containerd::types::{Descriptor as WireDescriptor, Mount};
use tranship_format::Digest;
use tranship_source::ImageStore;
use tranship_source::manifest::Descriptor;

use super::chain_id;
use super::node::{Node, told};
use crate::failure::{Exit, Failure, Outcome};
use crate::place;
use crate::progress::Progress;

/// The label with which a snapshotter is asked whether a layer is lazy.
const REF_LABEL: &str = "containerd.io/snapshot.ref";
/// What is said of the layer and its image, in the words of the container runtime interface.
const IMAGE_LABEL: &str = "containerd.io/snapshot/cri.image-ref";
const MANIFEST_LABEL: &str = "containerd.io/snapshot/cri.manifest-digest";
const LAYER_LABEL: &str = "containerd.io/snapshot/cri.layer-digest";
/// Annotations of layers that snapshotters are told begin so.
const TOLD: &str = "containerd.io/snapshot/";

/// The layers of an image, bottom first.
#[derive(Debug)]
pub(super) struct Unpacking<'a> {
    pub(super) snapshotter: &'a str,
    pub(super) image: &'a str,
    pub(super) manifest: Digest,
    pub(super) layers: &'a [Descriptor],
    pub(super) diff_ids: &'a [Digest],
    pub(super) store: &'a ImageStore,
}

/// What became of them.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// The snapshot of the uppermost layer.
    pub(super) top: Option<String>,
    pub(super) lazy: usize,
    pub(super) present: usize,
    pub(super) unpacked: usize,
}

impl Unpacking<'_> {
    /// Sees to it that there is a snapshot of every layer.
    pub(super) async fn run(&self, node: &Node, progress: &Progress) -> Outcome<Done> {
        let mut done = Done::default();
        for (layer, diff_id) in self.layers.iter().zip(self.diff_ids) {
            let name = chain_id(done.top.as_deref(), diff_id);
            let parent = done.top.take().unwrap_or_default();
            if self.stands(node, &name).await? {
                done.present = done.present.saturating_add(1);
            } else if let Some((key, mounts)) = self.prepare(node, &name, &parent, layer).await? {
                let task = progress.task(&format!("layer {}", layer.digest), layer.size);
                let unpacked = self.unpack(node, layer, diff_id, mounts).await;
                if let Err(failure) = unpacked {
                    self.remove(node, key).await;
                    return Err(failure);
                }
                self.commit(node, key, &name, layer).await?;
                task.advance(layer.size);
                done.unpacked = done.unpacked.saturating_add(1);
            } else {
                done.lazy = done.lazy.saturating_add(1);
            }
            done.top = Some(name);
        }
        Ok(done)
    }

    fn labels(&self, name: &str, layer: &Descriptor) -> HashMap<String, String> {
        let annotations = layer
            .annotations
            .iter()
            .filter(|(key, _)| key.starts_with(TOLD))
            .map(|(key, value)| (key.clone(), value.clone()));
        let ours = [
            (REF_LABEL, name.to_owned()),
            (IMAGE_LABEL, self.image.to_owned()),
            (MANIFEST_LABEL, self.manifest.to_string()),
            (LAYER_LABEL, layer.digest.to_string()),
        ];
        let ours = ours.map(|(key, value)| (key.to_owned(), value));
        annotations.chain(ours).collect()
    }

    async fn stands(&self, node: &Node, name: &str) -> Outcome<bool> {
        let request = StatSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            key: name.to_owned(),
        };
        let outcome = match node.call(request) {
            Ok(request) => node.snapshots().stat(request).await,
            Err(status) => Err(status),
        };
        match outcome {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(self.told("look for a snapshot", &status)),
        }
    }

    /// Asks for a layer's snapshot: what to unpack it into, or nothing where it is lazy.
    async fn prepare(
        &self,
        node: &Node,
        name: &str,
        parent: &str,
        layer: &Descriptor,
    ) -> Outcome<Option<(String, Vec<Mount>)>> {
        let key = format!("extract-{}-{} {name}", std::process::id(), layer.size);
        let request = PrepareSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            key: key.clone(),
            parent: parent.to_owned(),
            labels: self.labels(name, layer),
        };
        let outcome = match node.call(request) {
            Ok(request) => node.snapshots().prepare(request).await,
            Err(status) => Err(status),
        };
        match outcome {
            Ok(answer) => Ok(Some((key, answer.into_inner().mounts))),
            Err(status)
                if status.code() == Code::AlreadyExists && self.stands(node, name).await? =>
            {
                Ok(None)
            }
            Err(status) => Err(self.told("prepare a snapshot", &status)),
        }
    }

    async fn unpack(
        &self,
        node: &Node,
        layer: &Descriptor,
        diff_id: &Digest,
        mounts: Vec<Mount>,
    ) -> Outcome {
        if !node.has(layer.digest).await? {
            let reader = self.store.blob(&layer.digest).await.map_err(|error| {
                place::failure(format!("cannot read layer {}", layer.digest), &error)
            })?;
            node.put_reader(layer.digest, layer.size, reader, HashMap::new())
                .await?;
        }
        let request = ApplyRequest {
            diff: Some(WireDescriptor {
                media_type: layer.media_type.clone(),
                digest: layer.digest.to_string(),
                size: i64::try_from(layer.size).unwrap_or(i64::MAX),
                annotations: HashMap::new(),
            }),
            mounts,
        };
        let outcome = match node.call(request) {
            Ok(request) => node.diff().apply(request).await,
            Err(status) => Err(status),
        };
        let applied = outcome
            .map_err(|status| told(&format!("unpack layer {}", layer.digest), &status))?
            .into_inner()
            .applied
            .unwrap_or_default();
        if applied.digest != diff_id.to_string() {
            return Err(Failure::new(
                Exit::Verification,
                format!(
                    "layer {} is not what the image's configuration says",
                    layer.digest
                ),
            )
            .why(format!(
                "it unpacks to {}, and {diff_id} is named there",
                applied.digest
            )));
        }
        Ok(())
    }

    async fn commit(&self, node: &Node, key: String, name: &str, layer: &Descriptor) -> Outcome {
        let request = CommitSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            name: name.to_owned(),
            key,
            labels: self.labels(name, layer),
            parent: String::new(),
        };
        let outcome = match node.call(request) {
            Ok(request) => node.snapshots().commit(request).await,
            Err(status) => Err(status),
        };
        match outcome {
            // Another pull was faster.
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            outcome => outcome
                .map(drop)
                .map_err(|status| self.told("commit a snapshot", &status)),
        }
    }

    async fn remove(&self, node: &Node, key: String) {
        let request = RemoveSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            key,
        };
        if let Ok(request) = node.call(request)
            && let Err(status) = node.snapshots().remove(request).await
        {
            tracing::warn!(%status, "a snapshot that was not finished stays until the lease ends");
        }
    }

    fn told(&self, what: &str, status: &Status) -> Failure {
        let failure = told(what, status);
        if status.message().contains("not loaded") || status.message().contains("snapshotter not") {
            return failure.next(format!(
                "containerd has no snapshotter {:?}: configure it as docs/operations.md says, and restart containerd",
                self.snapshotter
            ));
        }
        failure
    }
}
