//! A tracker and nodes in this process, on free ports of the loopback interface.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tempfile::TempDir;
use tokio::time::timeout;
use tranship_source::credentials::Secret;
use tranship_source::fetch::{Class, FetchError, RegistryOrigin};
use tranship_source::net::{Fault, JoinToken, Multiaddr, NetOptions, NetStatus, TrackerAddress};
use tranship_source::{
    CountersSnapshot, Credential, Credentials, OpenImage, RegistryClient, RegistryOptions, RepoRef,
    SwarmNet,
};
use tranship_store::{BlobStore, ChunkStore, StoreOptions};
use tranship_tracker::client::Client;
use tranship_tracker::config::SeedMode;
use tranship_tracker::{Config, Service, Status};

use crate::door::Door;
use crate::image::Image;
use crate::registry::{REPOSITORY, Registry};

/// Whatever is waited for comes within this, or the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
/// What lets nodes in.
pub(crate) const TOKEN: &str = "a token for tests";

/// A running tracker and its folder.
#[derive(Debug)]
pub(crate) struct TestTracker {
    pub(crate) service: Service,
    door: Door,
    dir: TempDir,
}

impl TestTracker {
    pub(crate) async fn start(mode: SeedMode) -> Self {
        Self::with(|config| config.seed.mode = mode).await
    }

    /// Starts with other settings than usual.
    pub(crate) async fn with(set: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, Door::open().await, set).await
    }

    /// A tracker without a seed whose grants last so long.
    pub(crate) async fn with_grants_of(life: Duration) -> Self {
        Self::with(|config| {
            config.seed.mode = SeedMode::Off;
            config.rights.grant = life;
        })
        .await
    }

    /// Starts where another was before, with its key.
    pub(crate) async fn again(door: Door, dir: TempDir) -> Self {
        Self::again_with(door, dir, SeedMode::Off).await
    }

    /// The same, with a seed or without.
    pub(crate) async fn again_with(door: Door, dir: TempDir, mode: SeedMode) -> Self {
        Self::start_in(dir, door, |config| config.seed.mode = mode).await
    }

    /// Starts in a folder, which may hold the key already.
    pub(crate) async fn start_in(dir: TempDir, door: Door, set: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            state_dir: dir.path().join("state"),
            listen: "127.0.0.1:0".to_owned(),
            http_listen: "127.0.0.1:0".parse().unwrap(),
            ..Config::default()
        };
        config.rights.grant = HOUR;
        set(&mut config);
        let service = Service::start(config, Some(JoinToken::new(TOKEN)))
            .await
            .unwrap();
        let place: TrackerAddress = service.ready().listen[0].parse().unwrap();
        door.lead(socket(&place.address));
        Self { service, door, dir }
    }

    /// A client with the operator token.
    pub(crate) fn client(&self) -> Client {
        let path = self.dir.path().join("state/operator-token");
        let token = std::fs::read_to_string(path).unwrap();
        self.client_with(Some(&token))
    }

    /// A client with another token, or none.
    pub(crate) fn client_with(&self, token: Option<&str>) -> Client {
        Client::new(&self.url(), token.map(JoinToken::new)).unwrap()
    }

    /// Where it listens for HTTP.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.service.ready().http)
    }

    /// Stops; gives its door, which leads nowhere now, its address and its folder.
    pub(crate) async fn leave(self) -> (Door, TrackerAddress, TempDir) {
        let address = self.address();
        self.door.lead(None);
        self.service.stop().await;
        (self.door, address, self.dir)
    }

    /// Waits until somebody was refused.
    pub(crate) async fn until_refused(&self) {
        let refused = async {
            while self.status().await.refused_join_count == 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, refused).await.expect("a refusal in time");
    }

    /// Where nodes find it, whenever it is there.
    pub(crate) fn address(&self) -> TrackerAddress {
        TrackerAddress {
            address: self.door.address(),
            peer: self.service.ready().peer_id.parse().unwrap(),
        }
    }

    /// What it says of itself.
    pub(crate) async fn status(&self) -> Status {
        let answer = get(&format!("{}/v1/status", self.url())).await;
        serde_json::from_str(&answer).unwrap()
    }
}

impl TestTracker {
    /// Waits until the tracker has heard of an image from so many nodes and from the seed.
    pub(crate) async fn until_seeding(&self, nodes: u64) {
        let seeding = async {
            loop {
                let status = self.status().await;
                let opened = status.blobs.first().map_or(0, |blob| blob.member_count);
                if opened > nodes {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, seeding).await.expect("a seed in time");
    }
}

/// An address of the loopback interface as the system has it.
fn socket(address: &Multiaddr) -> Option<SocketAddr> {
    let text = address.to_string();
    let (ip, port) = text.strip_prefix("/ip4/")?.split_once("/tcp/")?;
    Some((ip.parse::<IpAddr>().ok()?, port.parse().ok()?).into())
}

/// The body of a plain HTTP answer.
pub(crate) async fn get(url: &str) -> String {
    let (head, body) = exchange(url).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{url}: {head}\n{body}");
    body
}

/// The head of a plain HTTP answer.
pub(crate) async fn head_of(url: &str) -> String {
    exchange(url).await.0
}

async fn exchange(url: &str) -> (String, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (host, path) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .unwrap();
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    let request = format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The credentials of the user `reader`, or none.
pub(crate) fn login(registry: &Registry, password: Option<&str>) -> Credentials {
    let Some(password) = password else {
        return Credentials::anonymous();
    };
    let credential = Credential::Basic {
        username: "reader".to_owned(),
        password: Secret::new(password),
    };
    Credentials::anonymous().with(registry.host(), credential)
}

/// A member of the tracker's swarm that has nothing open yet, and its folder.
pub(crate) async fn newcomer(tracker: &TestTracker) -> (SwarmNet, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = NetOptions::new(dir.path().join("state"));
    options.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    options.trackers = vec![tracker.address()];
    options.token = Some(JoinToken::new(TOKEN));
    (SwarmNet::start(options).await.unwrap(), dir)
}

/// A node with a store of its own and one image open.
#[derive(Debug)]
pub(crate) struct TestNode {
    pub(crate) net: SwarmNet,
    pub(crate) blob: BlobStore,
    dir: TempDir,
}

impl TestNode {
    /// Starts a node that trusts `tracker` and shows `token`, and opens the image.
    pub(crate) async fn start(
        tracker: Option<TrackerAddress>,
        token: &str,
        corrupt_share: f64,
        image: &Image,
        registry: &Registry,
    ) -> Self {
        let login = Credentials::anonymous();
        let trackers = tracker.into_iter().collect();
        Self::start_as(login, trackers, token, corrupt_share, image, registry).await
    }

    /// Starts a node of several trackers, and opens the image.
    pub(crate) async fn start_at(
        trackers: Vec<TrackerAddress>,
        image: &Image,
        registry: &Registry,
    ) -> Self {
        let login = Credentials::anonymous();
        Self::start_as(login, trackers, TOKEN, 0.0, image, registry).await
    }

    /// Starts a node that waits for a silent peer no longer than it would in earnest, and opens the image.
    pub(crate) async fn start_impatient(
        tracker: &TestTracker,
        image: &Image,
        registry: &Registry,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = NetOptions::new(dir.path().join("state"));
        options.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        options.trackers = vec![tracker.address()];
        options.token = Some(JoinToken::new(TOKEN));
        let login = Credentials::anonymous();
        let node = Self::open(dir, options, 1 << 30, image, (registry, login)).await;
        node.until("it has joined", |status| status.joined).await;
        node
    }

    /// Starts the node again in its folder, with these credentials.
    pub(crate) async fn restart(
        self,
        login: Credentials,
        tracker: &TestTracker,
        image: &Image,
        registry: &Registry,
    ) -> Self {
        let Self { net, blob, dir } = self;
        net.stop().await;
        drop(blob);
        let mut options = NetOptions::new(dir.path().join("state"));
        options.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        options.trackers = vec![tracker.address()];
        options.token = Some(JoinToken::new(TOKEN));
        options.demand_patience = Some(PATIENCE);
        Self::open(dir, options, 1 << 30, image, (registry, login)).await
    }

    /// Starts a node with these credentials at the registry.
    async fn start_as(
        login: Credentials,
        trackers: Vec<TrackerAddress>,
        token: &str,
        corrupt_share: f64,
        image: &Image,
        registry: &Registry,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = NetOptions::new(dir.path().join("state"));
        options.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        options.trackers = trackers;
        options.token = Some(JoinToken::new(token));
        options.fault = Fault { corrupt_share };
        // All nodes share this machine's processors: how often the registry is read
        // must not hang on how busy they are.
        options.demand_patience = Some(PATIENCE);
        Self::open(dir, options, 1 << 30, image, (registry, login)).await
    }

    /// A node alone that may keep so many bytes.
    pub(crate) async fn with_quota(quota_len: u64, image: &Image, registry: &Registry) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = NetOptions::new(dir.path().join("state"));
        let login = Credentials::anonymous();
        Self::open(dir, options, quota_len, image, (registry, login)).await
    }

    async fn open(
        dir: TempDir,
        options: NetOptions,
        quota_len: u64,
        image: &Image,
        (registry, login): (&Registry, Credentials),
    ) -> Self {
        let net = SwarmNet::start(options).await.unwrap();
        let store = ChunkStore::open(
            &dir.path().join("store"),
            StoreOptions::with_quota(quota_len),
        )
        .unwrap();
        let len = image.blob.len() as u64;
        let blob = store.blob(image.digest, len, image.table.clone()).unwrap();
        let client = RegistryClient::new(RegistryOptions {
            credentials: login,
            // A test does not wait for a registry that is down.
            deadline: Duration::from_secs(1),
            ..RegistryOptions::default()
        })
        .unwrap();
        let repo: RepoRef = format!("{}/{REPOSITORY}", registry.host()).parse().unwrap();
        let open = OpenImage {
            manifest: image.manifest.digest(),
            registry: registry.host().to_owned(),
            repository: REPOSITORY.to_owned(),
            blobs: vec![blob.clone()],
            origin: Arc::new(RegistryOrigin::new(client, repo)),
        };
        net.open(open).await.unwrap();
        Self { net, blob, dir }
    }

    /// A member of `tracker`'s swarm, once the tracker has it.
    pub(crate) async fn member(tracker: &TestTracker, image: &Image, registry: &Registry) -> Self {
        let node = Self::start(Some(tracker.address()), TOKEN, 0.0, image, registry).await;
        node.until("it has joined", |status| status.joined).await;
        node
    }

    /// A member that may pull from a private registry, or, without the password, may not.
    pub(crate) async fn member_with(
        password: Option<&str>,
        tracker: &TestTracker,
        image: &Image,
        registry: &Registry,
    ) -> Self {
        let login = login(registry, password);
        let address = vec![tracker.address()];
        let node = Self::start_as(login, address, TOKEN, 0.0, image, registry).await;
        node.until("it has joined", |status| status.joined).await;
        node
    }

    /// Waits until its standing is as wanted.
    pub(crate) async fn until(&self, what: &str, mut is: impl FnMut(&NetStatus) -> bool) {
        let mut watch = self.net.watch();
        let waited = timeout(PATIENCE, watch.wait_for(|status| is(status))).await;
        assert!(
            waited.is_ok_and(|found| found.is_ok()),
            "waited in vain until {what}"
        );
    }

    /// Reads one chunk.
    pub(crate) async fn chunk(&self, number: u32, class: Class) -> Result<Bytes, FetchError> {
        let index = self.blob.table().index(number).unwrap();
        let reading = self.net.fetcher().chunk(&self.blob, index, class);
        timeout(PATIENCE, reading).await.expect("a chunk in time")
    }

    /// Reads every chunk, sixteen at a time, and compares all bytes; gives the time it took.
    pub(crate) async fn read_all(&self, image: &Image, class: Class) -> Duration {
        let began = Instant::now();
        let numbers = 0..self.blob.table().count();
        futures::stream::iter(numbers)
            .map(|number| async move {
                let bytes = self.chunk(number, class).await?;
                let index = image.table.index(number).unwrap();
                let range = image.table.range(index);
                let (start, end) = (range.start as usize, range.end as usize);
                assert!(
                    bytes == image.blob[start..end],
                    "chunk {number} has other bytes"
                );
                Ok::<_, FetchError>(())
            })
            .buffer_unordered(16)
            .try_collect::<()>()
            .await
            .unwrap();
        began.elapsed()
    }

    pub(crate) fn counters(&self) -> CountersSnapshot {
        self.net.counters().snapshot()
    }
}
