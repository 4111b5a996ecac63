//! What containerd 1.6.20 was heard to say, said again over a real socket: a lazy pull through the container runtime
//! interface, a container from it, its removal, and what it asks of a snapshotter whose folder was emptied.

use std::path::Path;

use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tranship_containerd::snapshots::v1::snapshots_client::SnapshotsClient;
use tranship_containerd::snapshots::v1::{
    CleanupRequest, Info, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest, UsageRequest,
};
use tranship_containerd::tonic::transport::Channel;
use tranship_containerd::tonic::{Code, Status};
use tranship_snapshotter::{Snapshotter, listen, serve};

use crate::fake::{Fake, LAZY};

const HEARD: &str = include_str!("containerd-1.6.20.jsonl");

/// The image of the recording, as one that the fake shows.
const IMAGE: &str = "127.0.0.1:5571/t/bb:v1";

async fn start(root: &Path, stop: &CancellationToken) -> SnapshotsClient<Channel> {
    let socket = root.join("snapshotter.sock");
    let listener = listen(&socket).unwrap();
    let snapshotter = Snapshotter::open(&root.join("root"), Fake::new()).unwrap();
    tokio::spawn(serve(listener, snapshotter, stop.clone()));
    SnapshotsClient::new(tranship_containerd::connect(&socket).await.unwrap())
}

fn text(call: &Value, key: &str) -> String {
    call["req"][key].as_str().unwrap_or_default().to_owned()
}

/// Says one line again; what came back, in the words of the recording.
async fn say(client: &mut SnapshotsClient<Channel>, call: &Value) -> Result<String, Status> {
    let (snapshotter, key) = (text(call, "snapshotter"), text(call, "key"));
    match call["m"].as_str().unwrap() {
        "Prepare" => {
            let labels = call["req"]["labels"]
                .as_object()
                .cloned()
                .unwrap_or_default();
            let labels = labels.into_iter().map(|(key, value)| {
                (
                    key,
                    value
                        .as_str()
                        .unwrap()
                        .replace(IMAGE, &format!("{LAZY}{IMAGE}")),
                )
            });
            let request = PrepareSnapshotRequest {
                snapshotter,
                key,
                parent: text(call, "parent"),
                labels: labels.collect(),
            };
            let mounts = client.prepare(request).await?.into_inner().mounts;
            Ok(mounts[0].r#type.clone())
        }
        "Mounts" => {
            let request = MountsRequest { snapshotter, key };
            let mounts = client.mounts(request).await?.into_inner().mounts;
            Ok(mounts[0].r#type.clone())
        }
        "Stat" => {
            let request = StatSnapshotRequest { snapshotter, key };
            client.stat(request).await?;
            Ok("ok".to_owned())
        }
        "Remove" => {
            let request = RemoveSnapshotRequest { snapshotter, key };
            client.remove(request).await?;
            Ok("ok".to_owned())
        }
        "Usage" => {
            let request = UsageRequest { snapshotter, key };
            client.usage(request).await?;
            Ok("ok".to_owned())
        }
        "Cleanup" => {
            client.cleanup(CleanupRequest { snapshotter }).await?;
            Ok("ok".to_owned())
        }
        "List" => {
            let filters = call["req"]["filters"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let filters = filters.iter().map(|text| text.as_str().unwrap().to_owned());
            let request = ListSnapshotsRequest {
                snapshotter,
                filters: filters.collect(),
            };
            let mut stream = client.list(request).await?.into_inner();
            let mut count = 0;
            while let Some(message) = stream.message().await? {
                count += message.info.len();
            }
            Ok(count.to_string())
        }
        other => panic!("nobody said {other}"),
    }
}

#[tokio::test]
async fn what_containerd_says_is_answered_as_it_expects() {
    let dir = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let mut client = start(dir.path(), &stop).await;
    let calls: Vec<Value> = HEARD
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let emptied = calls.iter().position(|call| call["res"] == "NF").unwrap();
    for call in &calls[..emptied] {
        let wanted = match (&call["m"], &call["res"]) {
            (_, Value::String(word)) => word.clone(),
            (_, Value::Array(mounts)) => mounts[0]["type"].as_str().unwrap().to_owned(),
            // The recorder passed over filters: with them it is the one layer.
            (_, Value::Number(_)) if call["req"]["filters"].is_array() => "1".to_owned(),
            (_, Value::Number(count)) => count.to_string(),
            _ => "ok".to_owned(),
        };
        match say(&mut client, call).await {
            Ok(answer) => assert_eq!(answer, wanted, "{call}"),
            Err(status) => {
                assert_eq!(
                    (status.code(), wanted.as_str()),
                    (Code::AlreadyExists, "ALREADY_EXISTS"),
                    "{call}: {status}"
                );
            }
        }
    }
    stop.cancel();
    let empty = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let mut client = start(empty.path(), &stop).await;
    for call in &calls[emptied..] {
        let status = say(&mut client, call).await.unwrap_err();
        assert_eq!(
            (status.code(), call["res"].as_str()),
            (Code::NotFound, Some("NF"))
        );
    }
    stop.cancel();
}

#[tokio::test]
async fn codes_are_those_that_containerd_goes_by() {
    let dir = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let mut client = start(dir.path(), &stop).await;
    let prepare = |key: &str, parent: &str| PrepareSnapshotRequest {
        key: key.to_owned(),
        parent: parent.to_owned(),
        ..PrepareSnapshotRequest::default()
    };
    client.prepare(prepare("a", "")).await.unwrap();
    let code = |status: Status| status.code();
    assert_eq!(
        code(client.prepare(prepare("a", "")).await.unwrap_err()),
        Code::AlreadyExists
    );
    assert_eq!(
        code(client.prepare(prepare("b", "a")).await.unwrap_err()),
        Code::InvalidArgument
    );
    assert_eq!(
        code(client.prepare(prepare("b", "x")).await.unwrap_err()),
        Code::NotFound
    );
    let commit = tranship_containerd::snapshots::v1::CommitSnapshotRequest {
        key: "a".to_owned(),
        name: "one".to_owned(),
        ..Default::default()
    };
    client.commit(commit.clone()).await.unwrap();
    assert_eq!(
        code(client.commit(commit).await.unwrap_err()),
        Code::NotFound
    );
    client.prepare(prepare("c", "one")).await.unwrap();
    let remove = RemoveSnapshotRequest {
        key: "one".to_owned(),
        ..Default::default()
    };
    assert_eq!(
        code(client.remove(remove).await.unwrap_err()),
        Code::FailedPrecondition
    );
    let mounts = MountsRequest {
        key: "one".to_owned(),
        ..Default::default()
    };
    assert_eq!(
        code(client.mounts(mounts).await.unwrap_err()),
        Code::FailedPrecondition
    );
    let mut update = UpdateSnapshotRequest {
        info: Some(Info {
            name: "one".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    update.update_mask = Some(tranship_containerd::prost_types::FieldMask {
        paths: vec!["kind".to_owned()],
    });
    assert_eq!(
        code(client.update(update.clone()).await.unwrap_err()),
        Code::InvalidArgument
    );
    update.update_mask = None;
    let changed = client
        .update(update)
        .await
        .unwrap()
        .into_inner()
        .info
        .unwrap();
    assert_eq!((changed.name.as_str(), changed.kind), ("one", 3));
    stop.cancel();
}
