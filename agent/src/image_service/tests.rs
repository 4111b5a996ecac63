//! The kubelet on one side, a runtime that notes what it is asked on the other.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use tranship_containerd::cri::image_service_client::ImageServiceClient;
use tranship_containerd::cri::image_service_server::{ImageService, ImageServiceServer};
use tranship_containerd::cri::{
    AuthConfig, FilesystemIdentifier, FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse,
    ImageSpec, PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse,
    UInt64Value,
};
use tranship_containerd::tonic::body::Body;
use tranship_containerd::tonic::codegen::{BoxFuture, Service, http};
use tranship_containerd::tonic::server::NamedService;
use tranship_containerd::tonic::transport::Channel;
use tranship_containerd::tonic::{Code, Request, Response, Status, async_trait};
use tranship_snapshotter::{ImageError, Images, LazyLayers, Snapshotter, Usage, Verdict, Wanted};
use tranship_source::{Credential, Credentials, Secret};

use super::*;

/// A runtime that lets in whoever knows the password.
#[derive(Clone, Default)]
struct Runtime {
    pulls: Arc<Mutex<Vec<PullImageRequest>>>,
}

#[async_trait]
impl ImageService for Runtime {
    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        let request = request.into_inner();
        self.pulls.lock().unwrap().push(request.clone());
        if request.auth.is_some_and(|auth| auth.password == "hunter2") {
            let image_ref = "sha256:abc".to_owned();
            return Ok(Response::new(PullImageResponse { image_ref }));
        }
        Err(Status::unknown("pull access denied"))
    }

    async fn remove_image(
        &self,
        _: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        Err(Status::not_found("no such image"))
    }

    async fn image_fs_info(
        &self,
        _: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        let usage = |snapshotter: &str| FilesystemUsage {
            timestamp: 7,
            fs_id: Some(FilesystemIdentifier {
                mountpoint: format!("/root/io.containerd.snapshotter.v1.{snapshotter}"),
            }),
            used_bytes: Some(UInt64Value { value: 7 }),
            inodes_used: None,
        };
        Ok(Response::new(ImageFsInfoResponse {
            image_filesystems: vec![usage("overlayfs"), usage("tranship")],
            container_filesystems: vec![usage("tranship")],
        }))
    }
}

/// A client, or a server, whose calls have the names of the interface's earlier version.
#[derive(Clone)]
struct Renamed<S> {
    inner: S,
    from: &'static str,
    to: &'static str,
}

impl<S> NamedService for Renamed<S> {
    const NAME: &'static str = "runtime.v1alpha2.ImageService";
}

impl<S> Service<http::Request<Body>> for Renamed<S>
where
    S: Service<http::Request<Body>>,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let named = request.uri().to_string().replace(self.from, self.to);
        *request.uri_mut() = named.parse().unwrap();
        Box::pin(self.inner.call(request))
    }
}

struct Scene {
    dir: tempfile::TempDir,
    runtime: Runtime,
    learnt: Arc<Learnt>,
    stop: CancellationToken,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Scene {
    async fn new() -> (Self, ImageServiceClient<Channel>) {
        Self::with(None).await
    }

    async fn with(accounts: Option<Accounts>) -> (Self, ImageServiceClient<Channel>) {
        let dir = tempfile::tempdir().unwrap();
        let scene = Self {
            learnt: Arc::new(Learnt::open(dir.path())),
            dir,
            runtime: Runtime::default(),
            stop: CancellationToken::new(),
        };
        let ours = scene.dir.path().join("ours.sock");
        let (listener, learnt) = (
            UnixListener::bind(&ours).unwrap(),
            Arc::clone(&scene.learnt),
        );
        let (containerd, stop) = (scene.dir.path().join("containerd.sock"), scene.stop.clone());
        tokio::spawn(async move {
            let serving = serve(listener, &containerd, learnt, accounts, stop);
            serving.await.unwrap();
        });
        let channel = tranship_containerd::connect(&ours).await.unwrap();
        (scene, ImageServiceClient::new(channel))
    }

    fn start_runtime(&self) {
        let listener = UnixListener::bind(self.dir.path().join("containerd.sock")).unwrap();
        let (runtime, stop) = (self.runtime.clone(), self.stop.clone());
        tokio::spawn(async move {
            Server::builder()
                .add_service(ImageServiceServer::new(runtime.clone()))
                .add_service(Renamed {
                    inner: ImageServiceServer::new(runtime),
                    from: "/runtime.v1alpha2.",
                    to: "/runtime.v1.",
                })
                .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
                    stop.cancelled().await;
                })
                .await
                .unwrap();
        });
    }
}

fn pull(password: &str) -> PullImageRequest {
    PullImageRequest {
        image: Some(ImageSpec {
            image: "registry.example/team/app:v1".to_owned(),
            ..ImageSpec::default()
        }),
        auth: Some(AuthConfig {
            username: "u".to_owned(),
            password: password.to_owned(),
            ..AuthConfig::default()
        }),
        ..PullImageRequest::default()
    }
}

async fn known(learnt: Arc<Learnt>) -> Credential {
    let credentials = Credentials::anonymous().with_learnt(learnt);
    let repo = "registry.example/team/app".parse().unwrap();
    credentials.find(&repo).await.unwrap()
}

#[tokio::test]
async fn calls_and_answers_pass_as_they_are() {
    let (scene, mut kubelet) = Scene::new().await;
    let away = kubelet.image_fs_info(ImageFsInfoRequest {}).await;
    let away = away.unwrap_err();
    assert_eq!(away.code(), Code::Unavailable);
    assert!(
        away.message().contains("containerd does not answer"),
        "{away}"
    );
    scene.start_runtime();
    // The connection is made anew once there is somebody.
    let info = kubelet.image_fs_info(ImageFsInfoRequest {}).await.unwrap();
    let usages = info.into_inner().image_filesystems;
    assert_eq!(usages.first().unwrap().timestamp, 7);
    let removed = kubelet
        .remove_image(RemoveImageRequest { image: None })
        .await;
    assert_eq!(removed.unwrap_err().code(), Code::NotFound);
    let pulled = kubelet.pull_image(pull("hunter2")).await.unwrap();
    assert_eq!(pulled.into_inner().image_ref, "sha256:abc");
    assert_eq!(*scene.runtime.pulls.lock().unwrap(), [pull("hunter2")]);
}

/// Images that are lazy, each layer of which takes as much as was read of it.
#[derive(Debug, Default)]
struct ReadSoFar(AtomicU64);

#[async_trait]
impl Images for ReadSoFar {
    async fn find(&self, wanted: &Wanted) -> Verdict {
        if wanted.reference.contains("plain") {
            return Verdict::Unpack;
        }
        Verdict::Lazy(LazyLayers {
            reference: wanted.reference.clone(),
            manifest: String::new(),
            layer_count: wanted.position + 1,
        })
    }

    async fn attach(&self, _: &LazyLayers, _: &Path) -> Result<(), ImageError> {
        Err("nobody attaches it".into())
    }

    async fn detach(&self, _: &Path) -> Result<(), ImageError> {
        Ok(())
    }

    fn attached(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn usage(&self, _: &LazyLayers) -> Usage {
        Usage {
            len: self.0.load(Relaxed),
            inode_count: 2,
        }
    }
}

/// As containerd asks for a layer of an image.
async fn prepare(snapshotter: &Snapshotter, key: &str, reference: &str) {
    let labels = [
        ("containerd.io/snapshot.ref", format!("sha256:{reference}")),
        ("containerd.io/snapshot/cri.image-ref", reference.to_owned()),
    ];
    let request = tranship_snapshotter::Request {
        key: key.to_owned(),
        parent: String::new(),
        labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
    };
    // A lazy one "exists" already.
    let _ = snapshotter.prepare(request).await;
}

// containerd heard once what a lazy layer took, when nothing of it had been read.
#[tokio::test]
async fn the_kubelet_is_told_what_our_snapshots_take_now() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("snapshots");
    let images = Arc::new(ReadSoFar::default());
    let snapshotter = Snapshotter::open(&root, images.clone()).unwrap();
    let accounts = Accounts {
        snapshotter: snapshotter.clone(),
        root,
    };
    let (scene, mut kubelet) = Scene::with(Some(accounts)).await;
    scene.start_runtime();
    for reference in ["registry.example/a:v1", "registry.example/b:v1"] {
        prepare(&snapshotter, &format!("k8s.io/1/{reference}"), reference).await;
    }
    prepare(&snapshotter, "k8s.io/2/plain", "registry.example/plain:v1").await;
    prepare(&snapshotter, "moby/3/plain", "registry.example/plain:v1").await;
    let writable = snapshotter.usage("k8s.io/2/plain").await.unwrap();
    for read_len in [0, 1 << 20] {
        images.0.store(read_len, Relaxed);
        let info = kubelet.image_fs_info(ImageFsInfoRequest {}).await.unwrap();
        let info = info.into_inner();
        let used = |usage: &FilesystemUsage| usage.used_bytes.unwrap().value;
        let [other, ours] = &info.image_filesystems[..] else {
            panic!("{info:?}")
        };
        assert_eq!((used(other), other.timestamp), (7, 7));
        assert_eq!(used(ours), 2 * read_len + writable.len);
        let inodes = ours.inodes_used.unwrap().value;
        assert_eq!(inodes, 4 + writable.inode_count);
        assert!(ours.timestamp > 7);
        let writable_too = info.container_filesystems.first().unwrap();
        assert_eq!(used(writable_too), used(ours));
    }
}

#[tokio::test]
async fn what_a_pull_succeeded_with_is_known_after_a_restart() {
    let (scene, mut kubelet) = Scene::new().await;
    scene.start_runtime();
    kubelet.pull_image(pull("hunter2")).await.unwrap();
    let good = Credential::Basic {
        username: "u".to_owned(),
        password: Secret::new("hunter2"),
    };
    assert_eq!(known(Arc::clone(&scene.learnt)).await, good);
    let refused = kubelet.pull_image(pull("wrong")).await.unwrap_err();
    assert_eq!(refused.message(), "pull access denied");
    assert_eq!(known(Arc::clone(&scene.learnt)).await, good);
    assert_eq!(known(Arc::new(Learnt::open(scene.dir.path()))).await, good);
}

#[tokio::test]
async fn what_a_pull_failed_with_is_forgotten() {
    let (scene, mut kubelet) = Scene::new().await;
    kubelet.pull_image(pull("hunter2")).await.unwrap_err();
    assert_eq!(
        known(Arc::clone(&scene.learnt)).await,
        Credential::Anonymous
    );
    scene.start_runtime();
    kubelet.pull_image(pull("wrong")).await.unwrap_err();
    assert_eq!(
        known(Arc::clone(&scene.learnt)).await,
        Credential::Anonymous
    );
}

#[tokio::test]
async fn a_kubelet_of_the_version_before_is_understood_as_well() {
    let (scene, _) = Scene::new().await;
    scene.start_runtime();
    let ours = scene.dir.path().join("ours.sock");
    let mut kubelet = ImageServiceClient::new(Renamed {
        inner: tranship_containerd::connect(&ours).await.unwrap(),
        from: "/runtime.v1.",
        to: "/runtime.v1alpha2.",
    });
    let info = kubelet.image_fs_info(ImageFsInfoRequest {}).await.unwrap();
    assert_eq!(info.into_inner().image_filesystems.len(), 2);
    kubelet.pull_image(pull("hunter2")).await.unwrap();
    let good = Credential::Basic {
        username: "u".to_owned(),
        password: Secret::new("hunter2"),
    };
    assert_eq!(known(Arc::clone(&scene.learnt)).await, good);
}
