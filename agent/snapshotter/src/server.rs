//! containerd's calls on the wire: messages in, rules asked, messages or codes out.
//!
//! containerd decides by the code alone: `ALREADY_EXISTS` after a prepare means that a layer need not be unpacked,
//! `FAILED_PRECONDITION` after a remove that the snapshot has children, and any code that it does not know there ends its whole
//! garbage collection.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Iter, Stream};
use tokio_util::sync::CancellationToken;
use tranship_containerd::prost_types::Timestamp;
use tranship_containerd::snapshots::v1 as wire;
use tranship_containerd::snapshots::v1::snapshots_server::{Snapshots, SnapshotsServer};
use tranship_containerd::tonic::transport::Server;
use tranship_containerd::tonic::{self, Request, Response, Status, async_trait};

use crate::error::SnapshotError;
use crate::snapshot::{Kind, Snapshot};
use crate::snapshotter::{self, LabelChange, Snapshotter};

/// Snapshots in one message of a list, so that no message grows too long for the other side.
const LISTED_AT_ONCE: usize = 100;

/// Answers containerd on `listener` until `stop`; calls that are under way are finished.
pub async fn serve(
    listener: UnixListener,
    snapshotter: Snapshotter,
    stop: CancellationToken,
) -> io::Result<()> {
    Server::builder()
        .add_service(SnapshotsServer::new(Calls { snapshotter }))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
            stop.cancelled().await;
        })
        .await
        .map_err(io::Error::other)
}

#[derive(Debug)]
struct Calls {
    snapshotter: Snapshotter,
}

#[async_trait]
impl Snapshots for Calls {
    async fn prepare(
        &self,
        request: Request<wire::PrepareSnapshotRequest>,
    ) -> Result<Response<wire::PrepareSnapshotResponse>, Status> {
        let wire::PrepareSnapshotRequest {
            key,
            parent,
            labels,
            ..
        } = request.into_inner();
        let request = snapshotter::Request {
            key,
            parent,
            labels: labels.into_iter().collect(),
        };
        let mounts = self.snapshotter.prepare(request).await.map_err(status)?;
        Ok(Response::new(wire::PrepareSnapshotResponse { mounts }))
    }

    async fn view(
        &self,
        request: Request<wire::ViewSnapshotRequest>,
    ) -> Result<Response<wire::ViewSnapshotResponse>, Status> {
        let wire::ViewSnapshotRequest {
            key,
            parent,
            labels,
            ..
        } = request.into_inner();
        let request = snapshotter::Request {
            key,
            parent,
            labels: labels.into_iter().collect(),
        };
        let mounts = self.snapshotter.view(request).await.map_err(status)?;
        Ok(Response::new(wire::ViewSnapshotResponse { mounts }))
    }

    async fn mounts(
        &self,
        request: Request<wire::MountsRequest>,
    ) -> Result<Response<wire::MountsResponse>, Status> {
        let key = request.into_inner().key;
        let mounts = self.snapshotter.mounts(&key).await.map_err(status)?;
        Ok(Response::new(wire::MountsResponse { mounts }))
    }

    async fn commit(
        &self,
        request: Request<wire::CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let call = request.into_inner();
        let labels = call.labels.into_iter().collect();
        self.snapshotter
            .commit(&call.key, &call.name, &call.parent, labels)
            .await
            .map_err(status)?;
        Ok(Response::new(()))
    }

    async fn remove(
        &self,
        request: Request<wire::RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let key = request.into_inner().key;
        self.snapshotter.remove(&key).await.map_err(status)?;
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<wire::StatSnapshotRequest>,
    ) -> Result<Response<wire::StatSnapshotResponse>, Status> {
        let key = request.into_inner().key;
        let found = self.snapshotter.stat(&key).await.map_err(status)?;
        let info = Some(info(found));
        Ok(Response::new(wire::StatSnapshotResponse { info }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateSnapshotRequest>,
    ) -> Result<Response<wire::UpdateSnapshotResponse>, Status> {
        let call = request.into_inner();
        let given = call
            .info
            .ok_or_else(|| Status::invalid_argument("which snapshot is to be changed?"))?;
        let paths = call.update_mask.unwrap_or_default().paths;
        let change = LabelChange::parse(&paths).map_err(status)?;
        let labels = given.labels.into_iter().collect();
        let changed = self.snapshotter.update(&given.name, labels, change).await;
        let info = Some(info(changed.map_err(status)?));
        Ok(Response::new(wire::UpdateSnapshotResponse { info }))
    }

    type ListStream =
        Pin<Box<dyn Stream<Item = Result<wire::ListSnapshotsResponse, Status>> + Send + 'static>>;

    async fn list(
        &self,
        request: Request<wire::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let filters = request.into_inner().filters;
        let found = self.snapshotter.list(&filters).await.map_err(status)?;
        let infos: Vec<wire::Info> = found.into_iter().map(info).collect();
        let messages: Vec<_> = infos
            .chunks(LISTED_AT_ONCE)
            .map(|some| {
                Ok(wire::ListSnapshotsResponse {
                    info: some.to_vec(),
                })
            })
            .collect();
        let stream: Iter<_> = tokio_stream::iter(messages);
        Ok(Response::new(Box::pin(stream)))
    }

    async fn usage(
        &self,
        request: Request<wire::UsageRequest>,
    ) -> Result<Response<wire::UsageResponse>, Status> {
        let key = request.into_inner().key;
        let usage = self.snapshotter.usage(&key).await.map_err(status)?;
        Ok(Response::new(wire::UsageResponse {
            size: i64::try_from(usage.len).unwrap_or(i64::MAX),
            inodes: i64::try_from(usage.inode_count).unwrap_or(i64::MAX),
        }))
    }

    async fn cleanup(
        &self,
        _request: Request<wire::CleanupRequest>,
    ) -> Result<Response<()>, Status> {
        self.snapshotter.clean_up().await.map_err(status)?;
        Ok(Response::new(()))
    }
}

fn info(snapshot: Snapshot) -> wire::Info {
    let kind = match snapshot.kind {
        Kind::View => wire::Kind::View,
        Kind::Active => wire::Kind::Active,
        Kind::Committed => wire::Kind::Committed,
    };
    wire::Info {
        name: snapshot.name,
        parent: snapshot.parent,
        kind: kind.into(),
        created_at: Some(timestamp(snapshot.created_at)),
        updated_at: Some(timestamp(snapshot.updated_at)),
        labels: snapshot.labels.into_iter().collect(),
    }
}

fn timestamp(since_1970: Duration) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since_1970.subsec_nanos()).unwrap_or(0),
    }
}

/// The code that containerd goes by, and the whole story for whoever reads its log.
#[expect(
    clippy::needless_pass_by_value,
    reason = "it stands in map_err, which gives the error away"
)]
fn status(error: SnapshotError) -> Status {
    let code = match &error {
        SnapshotError::NotFound { .. } => tonic::Code::NotFound,
        SnapshotError::Exists { .. } => tonic::Code::AlreadyExists,
        SnapshotError::HasChildren { .. }
        | SnapshotError::WrongKind { .. }
        | SnapshotError::Quarantined { .. }
        | SnapshotError::NotLazy { .. } => tonic::Code::FailedPrecondition,
        SnapshotError::ParentNotCommitted { .. } | SnapshotError::Invalid { .. } => {
            tonic::Code::InvalidArgument
        }
        SnapshotError::Image { .. } | SnapshotError::Stopping => tonic::Code::Unavailable,
        SnapshotError::Folder { .. } | SnapshotError::Database { .. } => tonic::Code::Internal,
        SnapshotError::Corrupt { .. } => tonic::Code::DataLoss,
    };
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // A transparent error repeats the words of the one below it.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    if matches!(
        code,
        tonic::Code::Internal | tonic::Code::DataLoss | tonic::Code::Unavailable
    ) {
        tracing::warn!(error = text, "a call of containerd fails");
    }
    Status::new(code, text)
}
