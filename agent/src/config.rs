//! What an operator can set, with its defaults.
//!
//! Only this module knows the file and the environment; every other part is handed the options of its own. Sizes and
//! durations carry units (`"50GiB"`, `"30s"`), since a number without one is a mistake waiting for its day.

mod load;
mod options;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::control::{DEFAULT_SOCKET, FrontEndChoice};
use tranship_source::registry::HOSTS_DIRS;

pub use load::{ConfigError, Layers, Loaded};
pub use options::OptionsError;

/// All settings of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where it keeps what must outlive it: its key, manifests, which devices it had, upper directories of mounts.
    pub state_dir: PathBuf,
    /// Unix socket of the control API.
    pub control_socket: PathBuf,
    /// Address of metrics and health; `"off"` for none.
    pub http_listen: HttpListen,
    /// Which log messages are written: a level, or `tracing` directives such as `info,tranship_source=debug`.
    pub log: String,
    /// How log messages are written.
    pub log_format: LogFormat,
    /// Registries and how to speak to them.
    pub registry: Registry,
    /// Chunks on this node's disk.
    pub store: Store,
    /// The swarm.
    pub swarm: Swarm,
    /// Devices.
    pub device: Device,
    /// Containers' root filesystems for containerd.
    pub snapshotter: Snapshotter,
    /// The kubelet's calls about images, passed on to containerd.
    pub image_service: ImageService,
    /// What is fetched before anyone reads it.
    pub prefetch: Prefetch,
    /// Misbehaviour for tests.
    pub fault: Fault,
}

/// Address of metrics and health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HttpListen {
    /// Nobody listens.
    Off,
    /// Listens there; port 0 takes any free one.
    At(SocketAddr),
}

impl TryFrom<String> for HttpListen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() || text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|_| {
            format!(
                "{text:?} is neither \"off\" nor an address with a port, such as 127.0.0.1:9477"
            )
        })
    }
}

impl From<HttpListen> for String {
    fn from(listen: HttpListen) -> Self {
        match listen {
            HttpListen::Off => "off".to_owned(),
            HttpListen::At(address) => address.to_string(),
        }
    }
}

/// How log messages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// A line of text each.
    #[default]
    Text,
    /// A JSON object each.
    Json,
}

/// Registries and how to speak to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Registry {
    /// Hosts (with port) that are spoken to without TLS. Those on this machine always are.
    pub plain_http: Vec<String>,
    /// Docker's `config.json` with credentials and helpers.
    pub docker_config: Option<PathBuf>,
    /// The kubelet's `CredentialProviderConfig`, whose plugins are asked for credentials as the kubelet asks them.
    pub credential_provider_config: Option<PathBuf>,
    /// Where the plugins are.
    pub credential_provider_bin_dir: PathBuf,
    /// Secrets of Kubernetes with docker's configuration: their files, or the folders that they are mounted as.
    pub pull_secrets: Vec<PathBuf>,
    /// Certificates (PEM) to trust besides the machine's own.
    pub extra_roots: Vec<PathBuf>,
    /// Directories that say how registries are reached, as containerd's `certs.d`; the first with a folder for a registry counts.
    pub hosts_dirs: Vec<PathBuf>,
    /// Registries, or parts of them (`registry.example/team`), whose pushers are trusted with proofs of layers that have no
    /// chunk table.
    pub trust_proofs: Vec<String>,
    /// Registries, or parts of them, for which the tracker may be shown our password as proof that we may pull.
    pub prove_by_secret: Vec<String>,
    /// Mirrors of registries, each in the order in which they are asked before the registry itself.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// How long a request is tried again after failures that pass by themselves.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            docker_config: None,
            credential_provider_config: None,
            // Where the kubelet's are by habit.
            credential_provider_bin_dir: PathBuf::from(
                "/usr/libexec/kubernetes/kubelet-plugins/credential-provider",
            ),
            pull_secrets: Vec::new(),
            extra_roots: Vec::new(),
            // Where containerd looks.
            hosts_dirs: HOSTS_DIRS.map(PathBuf::from).to_vec(),
            trust_proofs: Vec::new(),
            prove_by_secret: Vec::new(),
            mirrors: BTreeMap::new(),
            // A registry that restarts is back within this.
            deadline: Duration::from_mins(1),
        }
    }
}

/// Chunks on this node's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Store {
    /// Where; `store` in the state directory unless set.
    pub dir: Option<PathBuf>,
    /// Stored bytes at most.
    pub quota: ByteSize,
    /// Percent of the quota at which eviction begins.
    pub high_water: u8,
    /// Percent of the quota at which eviction ends.
    pub low_water: u8,
    /// Bytes that stay free on the filesystem whatever the quota says.
    pub free_floor: ByteSize,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            dir: None,
            quota: ByteSize::gib(50),
            high_water: 95,
            low_water: 90,
            free_floor: ByteSize::gib(2),
        }
    }
}

/// The swarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Swarm {
    /// The tracker, as a multiaddr that ends in `/p2p/<peer id>`. Without one chunks come from the registry alone.
    pub tracker: Option<String>,
    /// The same for several, which share the load: each blob has one of them that is asked, and another that stands in.
    pub trackers: Vec<String>,
    /// What lets this node into the swarm.
    pub token: Option<String>,
    /// The same in a file, which is read at the start.
    pub token_file: Option<PathBuf>,
    /// Where this node listens for peers: a socket address or a multiaddr.
    pub listen: String,
    /// What others should dial, if that is not what it listens on.
    pub advertise: Vec<String>,
    /// Failure and cost domain; peers of the same one are preferred.
    pub zone: String,
    /// Group of near neighbours inside the zone.
    pub rack: String,
    /// Bytes of chunks that may be in memory on their way in or out.
    pub in_flight: ByteSize,
    /// Most bytes a second given to others; 0 is without limit.
    pub upload_rate: ByteSize,
    /// So long may a chunk that a reader waits for make no progress before this node reads it from the registry itself.
    /// Longer spares the registry where machines are overloaded; shorter bounds what a bad peer costs.
    #[serde(with = "humantime_serde")]
    pub demand_patience: Duration,
    /// Images that are still given to others after their last device went.
    pub idle_images: usize,
    /// Whether the tracker is trusted with proofs of layers that have no chunk table.
    pub trust_proofs: bool,
}

impl Default for Swarm {
    fn default() -> Self {
        Self {
            tracker: None,
            trackers: Vec::new(),
            token: None,
            token_file: None,
            listen: "0.0.0.0:0".to_owned(),
            advertise: Vec::new(),
            zone: String::new(),
            rack: String::new(),
            in_flight: ByteSize::mib(64),
            upload_rate: ByteSize::b(0),
            // What the swarm's simulation was tuned with.
            demand_patience: Duration::from_millis(500),
            idle_images: 16,
            trust_proofs: false,
        }
    }
}

/// Devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// The front end of devices that do not ask for one.
    pub front_end: FrontEndChoice,
    /// Decompressed blocks of one device that are kept in memory.
    pub block_cache: ByteSize,
    /// Threads that answer one device's reads.
    pub workers: usize,
    /// How long a read waits for bytes that no source gives at the moment, before it fails. A container sees that
    /// failure as a broken disk, so it is long.
    #[serde(with = "humantime_serde")]
    pub read_deadline: Duration,
    /// Whether devices and mounts are taken down when the daemon stops. They come back when it starts again.
    pub detach_on_stop: bool,
    /// How long each step of stopping may take.
    #[serde(with = "humantime_serde")]
    pub stop_grace: Duration,
    /// Whether each device is answered by a process of its own, which outlives the daemon.
    pub processes: bool,
    /// How long readers of devices wait for the daemon to come back after it died, before they get errors.
    #[serde(with = "humantime_serde")]
    pub agent_patience: Duration,
    /// Whether a device whose image is wholly here moves to a plain file, which is read without this daemon.
    pub graduate: bool,
    /// Bytes of disk that those files may take, beside the store's quota and above its floor of free space.
    pub graduate_quota: ByteSize,
}

impl Default for Device {
    fn default() -> Self {
        Self {
            front_end: FrontEndChoice::Auto,
            block_cache: ByteSize::mib(64),
            workers: 8,
            read_deadline: Duration::from_mins(5),
            detach_on_stop: true,
            stop_grace: Duration::from_secs(10),
            processes: true,
            agent_patience: Duration::from_mins(10),
            graduate: false,
            graduate_quota: ByteSize::gib(20),
        }
    }
}

/// Containers' root filesystems for containerd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshotter {
    /// Unix socket on which containerd calls; without one nobody answers it.
    pub socket: Option<PathBuf>,
    /// Where snapshots are: on a filesystem that overlays can have their upper directories on. The default is where
    /// containerd looks for what a snapshotter takes on disk.
    pub root: PathBuf,
    /// Registries, or parts of them (`registry.example/team`), none of whose images may be unpacked.
    pub require_lazy: Vec<String>,
    /// Registries, or parts of them, whose pushers are trusted that what they attach to an image is the same image, converted.
    pub trust_referrers: Vec<String>,
}

impl Default for Snapshotter {
    fn default() -> Self {
        Self {
            socket: None,
            root: PathBuf::from("/var/lib/containerd/io.containerd.snapshotter.v1.tranship"),
            require_lazy: Vec::new(),
            trust_referrers: Vec::new(),
        }
    }
}

/// The kubelet's calls about images, passed on to containerd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageService {
    /// Unix socket on which the kubelet calls (`--image-service-endpoint`); without one nobody answers it.
    pub socket: Option<PathBuf>,
    /// containerd's socket: calls are passed on to it, and events published there.
    pub containerd: PathBuf,
    /// Whether credentials with which a pull succeeded are kept, sealed, for the next start.
    pub keep_credentials: bool,
}

impl Default for ImageService {
    fn default() -> Self {
        Self {
            socket: None,
            containerd: PathBuf::from("/run/containerd/containerd.sock"),
            keep_credentials: true,
        }
    }
}

/// What is fetched before anyone reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Prefetch {
    /// Whether the rest of an image is fetched once it is attached.
    pub background: bool,
    /// Chunks of an image on their way at once for that.
    pub in_flight: usize,
    /// Chunks that a sequential reader is kept ahead of, at most; 0 turns it off.
    pub read_ahead: u32,
}

impl Default for Prefetch {
    fn default() -> Self {
        Self {
            background: false,
            in_flight: 8,
            read_ahead: 16,
        }
    }
}

/// Misbehaviour for tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fault {
    /// Share of the chunks given to others in which a bit is flipped, 0 to 1. Never set this in earnest.
    pub corrupt_share: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/tranship"),
            control_socket: PathBuf::from(DEFAULT_SOCKET),
            http_listen: HttpListen::At(SocketAddr::from(([127, 0, 0, 1], 9477))),
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            registry: Registry::default(),
            store: Store::default(),
            swarm: Swarm::default(),
            device: Device::default(),
            snapshotter: Snapshotter::default(),
            image_service: ImageService::default(),
            prefetch: Prefetch::default(),
            fault: Fault::default(),
        }
    }
}

impl Config {
    /// Where the store is.
    pub fn store_dir(&self) -> PathBuf {
        self.store
            .dir
            .clone()
            .unwrap_or_else(|| self.state_dir.join("store"))
    }
}
