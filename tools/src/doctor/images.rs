//! Images that containerd has on record as unpacked, and whose snapshots the agent does not have.
//!
//! They can neither be started nor pulled again: containerd believes that they are there. Only their removal helps, so this says which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tranship_containerd::content::v1::content_client::ContentClient;
use tranship_containerd::content::v1::{Info, ListContentRequest};
use tranship_containerd::images::v1::ListImagesRequest;
use tranship_containerd::images::v1::images_client::ImagesClient;
use tranship_containerd::namespaces::v1::ListNamespacesRequest;
use tranship_containerd::namespaces::v1::namespaces_client::NamespacesClient;
use tranship_containerd::snapshots::v1::StatSnapshotRequest;
use tranship_containerd::snapshots::v1::snapshots_client::SnapshotsClient;
use tranship_containerd::tonic::transport::Channel;
use tranship_containerd::tonic::{Code, Status};
use tranship_containerd::{connect, in_namespace};

use super::finding::{Finding, Findings};

/// By what containerd's garbage collector knows which snapshot an image's configuration keeps.
const SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";
/// And which content a manifest or an index keeps.
const CONTENT: &str = "containerd.io/gc.ref.content";
/// Names in one command.
const MAX_NAMES: usize = 20;

pub(super) async fn look(socket: &Path, snapshotter: &str) -> Vec<Finding> {
    let mut found = Findings::of("images");
    // Whether it can be reached is told elsewhere.
    let Ok(channel) = connect(socket).await else {
        return found.all();
    };
    let namespaces = match namespaces(&channel).await {
        Ok(namespaces) => namespaces,
        Err(status) => {
            found.unseen(format!("images: {}", status.message()), "run as root");
            return found.all();
        }
    };
    let mut is_good = true;
    for namespace in namespaces {
        match lost(&channel, &namespace, snapshotter).await {
            Ok(images) if images.is_empty() => {}
            Ok(images) => {
                is_good = false;
                let images: Vec<String> = images.into_iter().take(MAX_NAMES).collect();
                found.bad(
                    format!("containerd believes that images of namespace {namespace} are unpacked, and their snapshots are gone: {}", images.join(", ")),
                    &format!("stop what runs from them, then: ctr -n {namespace} images rm --sync {}; and pull them again", images.join(" ")),
                );
            }
            Err(status) => {
                is_good = false;
                found.unseen(
                    format!("images of namespace {namespace}: {}", status.message()),
                    "see that the agent answers, then run again",
                );
            }
        }
    }
    if is_good {
        found.good("all images that containerd has unpacked here are there");
    }
    found.all()
}

async fn namespaces(channel: &Channel) -> Result<Vec<String>, Status> {
    let request = ListNamespacesRequest::default();
    let listed = NamespacesClient::new(channel.clone()).list(request).await?;
    let namespaces = listed.into_inner().namespaces.into_iter();
    Ok(namespaces.map(|namespace| namespace.name).collect())
}

/// Names of a namespace's images of which a snapshot is gone.
async fn lost(
    channel: &Channel,
    namespace: &str,
    snapshotter: &str,
) -> Result<BTreeSet<String>, Status> {
    let content = content(channel, namespace).await?;
    let label = format!("{SNAPSHOT}{snapshotter}");
    let mut gone = BTreeSet::new();
    for info in &content {
        let Some(snapshot) = info.labels.get(&label) else {
            continue;
        };
        let request = StatSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: snapshot.clone(),
        };
        let request = in_namespace(namespace, request)?;
        match SnapshotsClient::new(channel.clone()).stat(request).await {
            Ok(_) => {}
            Err(status) if status.code() == Code::NotFound => {
                gone.insert(info.digest.clone());
            }
            Err(status) => return Err(status),
        }
    }
    if gone.is_empty() {
        return Ok(gone);
    }
    let above = above(&content, gone);
    let request = in_namespace(namespace, ListImagesRequest::default())?;
    let images = ImagesClient::new(channel.clone()).list(request).await?;
    let images = images.into_inner().images.into_iter();
    let lost = images.filter(|image| {
        let target = image.target.as_ref();
        target.is_some_and(|target| above.contains(&target.digest))
    });
    Ok(lost.map(|image| image.name).collect())
}

async fn content(channel: &Channel, namespace: &str) -> Result<Vec<Info>, Status> {
    let request = in_namespace(namespace, ListContentRequest::default())?;
    let mut client = ContentClient::new(channel.clone());
    let mut listed = client.list(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(message) = listed.message().await? {
        all.extend(message.info);
    }
    Ok(all)
}

/// The same and all that refers to it, by way of others too.
fn above(content: &[Info], gone: BTreeSet<String>) -> BTreeSet<String> {
    let mut parents: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for info in content {
        let kept = info
            .labels
            .iter()
            .filter(|(key, _)| key.starts_with(CONTENT));
        for (_, child) in kept {
            parents.entry(child).or_default().push(&info.digest);
        }
    }
    let mut pending: Vec<String> = gone.iter().cloned().collect();
    let mut above = gone;
    while let Some(child) = pending.pop() {
        for parent in parents.get(child.as_str()).into_iter().flatten() {
            if above.insert((*parent).to_owned()) {
                pending.push((*parent).to_owned());
            }
        }
    }
    above
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_refers_to_a_configuration_is_found_up_to_the_index() {
        let info = |digest: &str, children: &[&str]| Info {
            digest: digest.to_owned(),
            labels: children
                .iter()
                .enumerate()
                .map(|(number, child)| (format!("{CONTENT}.{number}"), (*child).to_owned()))
                .collect(),
            ..Info::default()
        };
        let content = [
            info("config", &[]),
            info("other", &[]),
            info("manifest", &["config", "layer"]),
            info("index", &["manifest", "sibling"]),
            // What nobody writes must not keep us for ever.
            info("layer", &["index"]),
            info("stranger", &["other"]),
        ];
        let found = above(&content, ["config".to_owned()].into());
        let expected = ["config", "index", "layer", "manifest"];
        assert_eq!(found, expected.map(str::to_owned).into());
    }
}
