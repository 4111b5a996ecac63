//! containerd on this node: its content, its leases, its names of images.

use std::collections::HashMap;
use std::io::{self, Cursor};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::SinkExt;
use futures::channel::mpsc;
use tokio::io::{AsyncRead, AsyncReadExt};
use tranship_containerd::content::v1::content_client::ContentClient;
use tranship_containerd::content::v1::{
    Info, InfoRequest, UpdateRequest, WriteAction, WriteContentRequest,
};
use tranship_containerd::diff::v1::diff_client::DiffClient;
use tranship_containerd::images::v1::images_client::ImagesClient;
use tranship_containerd::images::v1::{CreateImageRequest, Image, UpdateImageRequest};
use tranship_containerd::leases::v1::leases_client::LeasesClient;
use tranship_containerd::leases::v1::{CreateRequest, DeleteRequest};
use tranship_containerd::prost_types::FieldMask;
use tranship_containerd::snapshots::v1::snapshots_client::SnapshotsClient;
use tranship_containerd::tonic::transport::Channel;
use tranship_containerd::tonic::{Code, Request, Status};
use tranship_containerd::types::Descriptor;
use tranship_containerd::{connect, in_namespace};
use tranship_format::Digest;
use tranship_source::manifest::Manifest;

use crate::failure::{Exit, Failure, Outcome};
use crate::place;

/// Bytes of content in one message.
const PIECE_LEN: u64 = 1 << 20;
/// What a pull that is killed left behind is kept that long.
const LEASE: Duration = Duration::from_hours(24);
/// The header by which containerd is told what the lease is.
const LEASE_HEADER: &str = "containerd-lease";

/// A connection to containerd, in one namespace and under one lease.
#[derive(Debug)]
pub(super) struct Node {
    channel: Channel,
    namespace: String,
    lease: String,
}

impl Node {
    /// Connects, and takes a lease.
    pub(super) async fn connect(socket: &Path, namespace: &str) -> Outcome<Self> {
        let channel = connect(socket).await.map_err(|error| {
            Failure::new(
                Exit::Unavailable,
                format!("cannot reach containerd at {}", socket.display()),
            )
            .because(&error)
            .next("is containerd running, and is this its socket? --containerd names another")
        })?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let node = Self {
            channel,
            namespace: namespace.to_owned(),
            lease: format!("tranship-pull-{}-{}", std::process::id(), now.as_nanos()),
        };
        let expires = now.saturating_add(LEASE).as_secs();
        let minute = crate::time::of_unix(i64::try_from(expires).unwrap_or(i64::MAX));
        // As RFC 3339 has it.
        let expires = format!("{}:00Z", minute.replace(' ', "T"));
        let request = CreateRequest {
            id: node.lease.clone(),
            labels: [("containerd.io/gc.expire".to_owned(), expires)].into(),
        };
        let mut leases = LeasesClient::new(node.channel.clone());
        let request =
            in_namespace(namespace, request).map_err(|status| told("take a lease", &status))?;
        leases
            .create(request)
            .await
            .map_err(|status| told("take a lease", &status))?;
        Ok(node)
    }

    /// Gives the lease back.
    pub(super) async fn end(self) -> Outcome {
        let request = DeleteRequest {
            id: self.lease.clone(),
            sync: false,
        };
        let mut leases = LeasesClient::new(self.channel.clone());
        let outcome = match self.call(request) {
            Ok(request) => leases.delete(request).await,
            Err(status) => Err(status),
        };
        outcome
            .map(drop)
            .map_err(|status| told("give the lease back", &status))
    }

    /// A call in our namespace, under our lease.
    pub(super) fn call<T>(&self, message: T) -> Result<Request<T>, Status> {
        let mut request = in_namespace(&self.namespace, message)?;
        let lease = self
            .lease
            .parse()
            .map_err(|_| Status::internal("a lease's name is no header"))?;
        request.metadata_mut().insert(LEASE_HEADER, lease);
        Ok(request)
    }

    pub(super) fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    pub(super) fn diff(&self) -> DiffClient<Channel> {
        DiffClient::new(self.channel.clone())
    }

    /// Puts a manifest into containerd's content.
    pub(super) async fn put(
        &self,
        manifest: &Manifest,
        labels: HashMap<String, String>,
    ) -> Outcome {
        let bytes = manifest.bytes().clone();
        self.put_bytes(manifest.digest(), bytes, labels).await
    }

    /// Puts bytes into containerd's content.
    pub(super) async fn put_bytes(
        &self,
        digest: Digest,
        bytes: Bytes,
        labels: HashMap<String, String>,
    ) -> Outcome {
        let len = bytes.len() as u64;
        self.put_reader(digest, len, Cursor::new(bytes), labels)
            .await
    }

    /// Whether containerd has a blob.
    pub(super) async fn has(&self, digest: Digest) -> Outcome<bool> {
        let request = InfoRequest {
            digest: digest.to_string(),
        };
        let mut content = ContentClient::new(self.channel.clone());
        let outcome = match self.call(request) {
            Ok(request) => content.info(request).await,
            Err(status) => Err(status),
        };
        match outcome {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(told("look for a blob", &status)),
        }
    }

    /// Puts what `reader` gives into containerd's content, which checks that it has this digest. What is there already
    /// gets the labels.
    pub(super) async fn put_reader(
        &self,
        digest: Digest,
        len: u64,
        reader: impl AsyncRead + Send + Unpin + 'static,
        labels: HashMap<String, String>,
    ) -> Outcome {
        let doing = || format!("put {digest} into its content");
        let (sender, messages) = mpsc::channel(2);
        let first = WriteContentRequest {
            r#ref: format!("{}-{digest}", self.lease),
            total: i64::try_from(len).unwrap_or(i64::MAX),
            expected: digest.to_string(),
            labels: labels.clone(),
            ..WriteContentRequest::default()
        };
        let reading = tokio::spawn(send(sender, first, reader));
        let mut content = ContentClient::new(self.channel.clone());
        let request = self
            .call(messages)
            .map_err(|status| told(&doing(), &status))?;
        let outcome = async {
            let mut answers = content.write(request).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok::<_, Status>(())
        }
        .await;
        let read = reading.await;
        match outcome {
            Err(status) if status.code() == Code::AlreadyExists => self.label(digest, labels).await,
            // Why the stream ended early is what was wrong with the reading.
            outcome => {
                if let Ok(Err(error)) = read {
                    return Err(place::failure(format!("cannot read {digest}"), &error));
                }
                outcome.map_err(|status| told(&doing(), &status))
            }
        }
    }

    async fn label(&self, digest: Digest, labels: HashMap<String, String>) -> Outcome {
        if labels.is_empty() {
            return Ok(());
        }
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let request = UpdateRequest {
            info: Some(Info {
                digest: digest.to_string(),
                labels,
                ..Info::default()
            }),
            update_mask: Some(FieldMask { paths }),
        };
        let mut content = ContentClient::new(self.channel.clone());
        let outcome = match self.call(request) {
            Ok(request) => content.update(request).await,
            Err(status) => Err(status),
        };
        outcome
            .map(drop)
            .map_err(|status| told(&format!("label {digest}"), &status))
    }

    /// Gives a manifest or index a name, or moves the name to it.
    pub(super) async fn name(&self, name: &str, target: Descriptor) -> Outcome {
        let image = Image {
            name: name.to_owned(),
            target: Some(target),
            ..Image::default()
        };
        let mut images = ImagesClient::new(self.channel.clone());
        let create = CreateImageRequest {
            image: Some(image.clone()),
        };
        let update = UpdateImageRequest {
            image: Some(image),
            update_mask: Some(FieldMask {
                paths: vec!["target".to_owned()],
            }),
        };
        let outcome = async {
            match images.create(self.call(create)?).await {
                Err(status) if status.code() == Code::AlreadyExists => {
                    images.update(self.call(update)?).await.map(drop)
                }
                created => created.map(drop),
            }
        };
        outcome
            .await
            .map_err(|status| told(&format!("name the image {name}"), &status))
    }
}

/// Sends a blob piece by piece and commits it.
async fn send(
    mut sender: mpsc::Sender<WriteContentRequest>,
    first: WriteContentRequest,
    mut reader: impl AsyncRead + Unpin,
) -> io::Result<()> {
    let mut offset = 0i64;
    loop {
        let mut piece = Vec::new();
        let mut some = (&mut reader).take(PIECE_LEN);
        let len = some.read_to_end(&mut piece).await?;
        let action = if len == 0 {
            WriteAction::Commit
        } else {
            WriteAction::Write
        };
        let message = WriteContentRequest {
            action: action.into(),
            offset,
            data: piece,
            ..first.clone()
        };
        // The other side says by itself why it listens no longer.
        if sender.send(message).await.is_err() || len == 0 {
            return Ok(());
        }
        offset = offset.saturating_add(i64::try_from(len).unwrap_or(i64::MAX));
    }
}

/// What containerd said to something that we asked of it.
pub(super) fn told(what: &str, status: &Status) -> Failure {
    let exit = match status.code() {
        Code::Unavailable | Code::DeadlineExceeded => Exit::Unavailable,
        Code::NotFound => Exit::NotFound,
        Code::PermissionDenied | Code::Unauthenticated => Exit::Denied,
        Code::Unimplemented => Exit::Unsupported,
        _ => Exit::Failed,
    };
    Failure::new(exit, format!("containerd did not {what}")).why(format!(
        "{:?}: {}",
        status.code(),
        status.message()
    ))
}
