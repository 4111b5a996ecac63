//! The snapshotter's calls without containerd between: what a call costs, and what one waits for.

use crate::node::Node;
use futures::future::join_all;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tranship_containerd::connect;
use tranship_containerd::snapshots::v1::snapshots_client::SnapshotsClient;
use tranship_containerd::snapshots::v1::{
    CleanupRequest, Info, Kind, ListSnapshotsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
};
use tranship_containerd::tonic::Status;
use tranship_containerd::tonic::transport::Channel;

/// A connection to a node's snapshotter.
#[derive(Debug)]
pub struct Snapshots {
    /// On which calls are made; for calls of one's own beside these.
    pub runtime: Runtime,
    client: SnapshotsClient<Channel>,
}

impl Snapshots {
    /// Connects to the snapshotter of a node.
    pub fn of(node: &Node) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let socket = node.cluster.folder().join("snapshotter.sock");
        let channel = runtime.block_on(connect(&socket)).expect("a connection");
        Self {
            runtime,
            client: SnapshotsClient::new(channel),
        }
    }

    /// All snapshots.
    pub fn list(&self) -> Vec<Info> {
        let mut client = self.client.clone();
        let listing = async move {
            let mut stream = client
                .list(ListSnapshotsRequest::default())
                .await?
                .into_inner();
            let mut all = Vec::new();
            while let Some(message) = stream.message().await? {
                all.extend(message.info);
            }
            Ok::<_, Status>(all)
        };
        self.runtime.block_on(listing).expect("a list")
    }

    /// The one committed snapshot on which no other of its kind stands; containers may.
    pub fn top(&self) -> String {
        let mut all = self.list();
        all.retain(|info| info.kind == i32::from(Kind::Committed));
        let below: BTreeSet<&str> = all.iter().map(|info| info.parent.as_str()).collect();
        let mut tops = all
            .iter()
            .filter(|info| !below.contains(info.name.as_str()));
        let top = tops.next().expect("a committed snapshot").name.clone();
        assert!(tops.next().is_none(), "one image: {all:?}");
        top
    }

    /// A call of prepare that nobody has waited for yet.
    pub fn preparing(
        &self,
        key: &str,
        parent: &str,
        labels: HashMap<String, String>,
    ) -> impl Future<Output = Result<Duration, Status>> + Send + use<> {
        let mut client = self.client.clone();
        let request = PrepareSnapshotRequest {
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels,
            ..PrepareSnapshotRequest::default()
        };
        async move {
            let begun = Instant::now();
            client.prepare(request).await?;
            Ok(begun.elapsed())
        }
    }

    /// Prepares a snapshot for a container; how long that took.
    pub fn prepare(&self, key: &str, parent: &str) -> Duration {
        let call = self.preparing(key, parent, HashMap::new());
        self.runtime.block_on(call).expect("a snapshot")
    }

    /// Prepares many at once; how long each took.
    pub fn prepare_all(&self, keys: &[String], parent: &str) -> Vec<Duration> {
        let calls = keys
            .iter()
            .map(|key| self.preparing(key, parent, HashMap::new()));
        let all = self.runtime.block_on(join_all(calls));
        all.into_iter()
            .map(|took| took.expect("a snapshot"))
            .collect()
    }

    /// Removes snapshots, and what stands behind them.
    pub fn remove(&self, keys: &[String]) {
        let mut client = self.client.clone();
        let removing = async {
            for key in keys {
                let request = RemoveSnapshotRequest {
                    key: key.clone(),
                    ..RemoveSnapshotRequest::default()
                };
                client.remove(request).await?;
            }
            client.cleanup(CleanupRequest::default()).await
        };
        self.runtime.block_on(removing).expect("removed snapshots");
    }
}
