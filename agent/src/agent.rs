//! The daemon as a value: started from settings, stopped from the top down.
//!
//! Nothing at the start needs the network, and no single device can keep the daemon from starting. Stopping goes from
//! those who ask to those who answer: no more calls, devices down, the tracker told, the store on disk; each step has its
//! grace, and whoever is late is named.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tranship_snapshotter::{SnapshotError, Snapshotter};
use tranship_source::Learnt;
use tranship_source::net::{NetError, SwarmNet};
use tranship_store::{ChunkStore, StoreError};

use crate::config::{Config, HttpListen, OptionsError};
use crate::control::server::{self, Control};
use crate::control::{ReadyLine, SourceCounters, Status, StoreStatus, SwarmStatus};
use crate::devices::Devices;
use crate::http::{self, Health};
use crate::image::{Images, StartImagesError};
use crate::image_service::{self, Accounts};
use crate::metrics::{self, Numbers, Reads};
use crate::snapshots::LazyImages;

/// How long a start waits for devices of an earlier run before it says that it is ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings.
    #[error("the settings cannot be used")]
    Options(#[from] OptionsError),
    /// The state directory.
    #[error("the state directory {} cannot be used", .path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store.
    #[error("the store does not open")]
    Store(#[from] StoreError),
    /// The swarm.
    #[error("the node of the swarm does not start")]
    Net(#[from] NetError),
    /// Images.
    #[error("images cannot be opened")]
    Images(#[from] StartImagesError),
    /// Snapshots.
    #[error("the snapshots in {} cannot be opened", .root.display())]
    Snapshots {
        /// Where they are.
        root: PathBuf,
        /// Why.
        #[source]
        source: SnapshotError,
    },
    /// A socket.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A running daemon. It must be [stopped](Self::stop) to take its devices down in order.
#[derive(Debug)]
pub struct Agent {
    ready: ReadyLine,
    devices: Arc<Devices>,
    net: Arc<SwarmNet>,
    store: ChunkStore,
    is_ready: Arc<AtomicBool>,
    grace: Duration,
    servers: TaskTracker,
    stop: CancellationToken,
}

impl Agent {
    /// Starts everything, and brings back the devices of an earlier run.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let state_error = |source| StartError::State {
            path: config.state_dir.clone(),
            source,
        };
        // Before anything else: containerd looks for it once, and calls wait in it.
        let snapshot_listener = listen_for_containerd(config)?;
        std::fs::create_dir_all(&config.state_dir).map_err(state_error)?;
        // The store's lock keeps a second daemon from everything below.
        let store = ChunkStore::open(&config.store_dir(), config.store_options())?;
        let listener =
            server::bind(&config.control_socket).map_err(|source| StartError::Listen {
                address: config.control_socket.display().to_string(),
                source,
            })?;
        let http_listener = listen(config.http_listen).await?;
        let net = Arc::new(SwarmNet::start(config.net_options()?).await?);
        let device_reads = Arc::new(Reads::default());
        let mut image_options = config.image_options()?;
        let image_service = ImageCalls::bind(config)?;
        if let Some(calls) = &image_service {
            let credentials = &mut image_options.registry.credentials;
            *credentials = credentials.clone().with_learnt(Arc::clone(&calls.learnt));
        }
        let images = Images::open_in(
            &config.state_dir,
            store.clone(),
            Arc::clone(&net),
            image_options,
            Arc::clone(&device_reads),
        )?;
        let images = Arc::new(images);
        let devices = Devices::open_in(
            &config.state_dir,
            Arc::clone(&images),
            config.device_options(),
            Arc::clone(&device_reads),
        )
        .map_err(state_error)?;
        let devices = Arc::new(devices);
        devices.recover(PATIENCE).await;
        devices.begin_graduation();
        let (servers, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut snapshots = None;
        if let Some(listener) = snapshot_listener {
            let lazy = LazyImages::new(images, Arc::clone(&devices), config);
            let root = config.snapshotter.root.clone();
            let (snapshotter, lazy) = open_snapshots(root, lazy).await?;
            let serving = tranship_snapshotter::serve(listener, snapshotter.clone(), stop.clone());
            servers.spawn(watch("snapshotter", serving));
            snapshots = Some((snapshotter, lazy));
        }
        if let Some(calls) = image_service {
            let accounts = snapshots.as_ref().map(|(snapshotter, _)| Accounts {
                snapshotter: snapshotter.clone(),
                root: config.snapshotter.root.clone(),
            });
            servers.spawn(watch("image service", calls.serve(accounts, stop.clone())));
        }
        let numbers: Arc<dyn Numbers> = Arc::new(Gauges {
            devices: Arc::clone(&devices),
            net: Arc::clone(&net),
            store: store.clone(),
            snapshots,
        });

        let control = Control {
            devices: Arc::clone(&devices),
            numbers: Arc::clone(&numbers),
        };
        servers.spawn(watch(
            "control",
            server::serve(listener, control, stop.clone()),
        ));
        let is_ready = Arc::new(AtomicBool::new(true));
        let mut http_address = None;
        if let Some((listener, address)) = http_listener {
            let health = Health {
                registry: Arc::new(metrics::registry(numbers, device_reads)),
                ready: Arc::clone(&is_ready),
            };
            servers.spawn(watch("http", http::serve(listener, health, stop.clone())));
            http_address = Some(address.to_string());
        }
        let ready = ReadyLine {
            peer_id: net.peer().to_string(),
            control: config.control_socket.clone(),
            http: http_address,
            listen: net.addresses().iter().map(ToString::to_string).collect(),
        };
        tracing::info!(peer = ready.peer_id, control = %ready.control.display(), "the agent is ready");
        Ok(Self {
            ready,
            devices,
            net,
            store,
            is_ready,
            grace: config.device.stop_grace,
            servers,
            stop,
        })
    }

    /// Where it can be reached.
    pub fn ready(&self) -> &ReadyLine {
        &self.ready
    }

    /// Stops from the top down. Devices come back with the next start.
    pub async fn stop(self) {
        self.is_ready.store(false, Ordering::Relaxed);
        self.stop.cancel();
        self.servers.close();
        if timeout(self.grace, self.servers.wait()).await.is_err() {
            tracing::warn!("calls of the control API are late to end");
        }
        if self.devices.are_left() {
            // Reads of what is here are answered until the very end: a successor can begin only when this process is gone.
            self.devices.retire();
            self.net.leave().await;
            sync(&self.store, self.grace).await;
        }
        self.devices.stop(self.grace).await;
        drop(self.devices);
        if let Ok(net) = Arc::try_unwrap(self.net) {
            net.stop().await;
        } else {
            // Somebody who is late holds it; the tracker finds out by itself.
            tracing::warn!("the tracker was not told that this node leaves");
        }
        sync(&self.store, self.grace).await;
    }
}

async fn sync(store: &ChunkStore, grace: Duration) {
    let store = store.clone();
    let synced = tokio::task::spawn_blocking(move || store.sync());
    match timeout(grace, synced).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(
            error = &error as &dyn Error,
            "the store is not wholly on disk"
        ),
        Ok(Err(_)) | Err(_) => tracing::warn!("the store is late to reach the disk"),
    }
}

/// The socket on which containerd calls, if it is to.
fn listen_for_containerd(config: &Config) -> Result<Option<UnixListener>, StartError> {
    let Some(socket) = &config.snapshotter.socket else {
        return Ok(None);
    };
    let listener = tranship_snapshotter::listen(socket);
    listener.map(Some).map_err(|source| StartError::Listen {
        address: socket.display().to_string(),
        source,
    })
}

/// The kubelet's calls about images, and what they bring.
struct ImageCalls {
    listener: UnixListener,
    containerd: PathBuf,
    learnt: Arc<Learnt>,
}

impl ImageCalls {
    fn bind(config: &Config) -> Result<Option<Self>, StartError> {
        let settings = &config.image_service;
        let Some(socket) = &settings.socket else {
            return Ok(None);
        };
        let listener = tranship_snapshotter::bind(socket);
        let listener = listener.map_err(|source| StartError::Listen {
            address: socket.display().to_string(),
            source,
        })?;
        Ok(Some(Self {
            listener,
            containerd: settings.containerd.clone(),
            learnt: Arc::new(if settings.keep_credentials {
                Learnt::open(&config.state_dir)
            } else {
                Learnt::in_memory()
            }),
        }))
    }

    async fn serve(self, accounts: Option<Accounts>, stop: CancellationToken) -> io::Result<()> {
        let (listener, learnt) = (self.listener, self.learnt);
        image_service::serve(listener, &self.containerd, learnt, accounts, stop).await
    }
}

/// Opens the snapshots, and begins to take away what was removed before the last stop.
async fn open_snapshots(
    root: PathBuf,
    lazy: LazyImages,
) -> Result<(Snapshotter, Arc<LazyImages>), StartError> {
    let (lazy, path) = (Arc::new(lazy), root.clone());
    let images = Arc::clone(&lazy);
    let opened = tokio::task::spawn_blocking(move || Snapshotter::open(&path, images)).await;
    let snapshotter = opened
        .unwrap_or(Err(SnapshotError::Stopping))
        .map_err(|source| StartError::Snapshots { root, source })?;
    let cleaning = snapshotter.clone();
    tokio::spawn(async move {
        if let Err(error) = cleaning.clean_up().await {
            tracing::warn!(
                error = &error as &dyn Error,
                "what belonged to removed snapshots stays until containerd asks for a cleanup"
            );
        }
    });
    Ok((snapshotter, lazy))
}

async fn listen(listen: HttpListen) -> Result<Option<(TcpListener, SocketAddr)>, StartError> {
    let HttpListen::At(address) = listen else {
        return Ok(None);
    };
    let failed = |source| StartError::Listen {
        address: address.to_string(),
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Some((listener, address)))
}

/// A server that ends early is worth a line.
async fn watch(name: &'static str, server: impl Future<Output = io::Result<()>>) {
    if let Err(error) = server.await {
        tracing::error!(name, %error, "a server ended");
    }
}

#[derive(Debug)]
struct Gauges {
    devices: Arc<Devices>,
    net: Arc<SwarmNet>,
    store: ChunkStore,
    snapshots: Option<(Snapshotter, Arc<LazyImages>)>,
}

impl Numbers for Gauges {
    fn status(&self) -> Status {
        let devices = self.devices.list();
        let mounts: usize = devices.iter().map(|device| device.mounts.len()).sum();
        let waiting = || devices.iter().filter_map(|device| device.waiting.as_ref());
        let (net, counted, kept) = (
            self.net.status(),
            self.net.counters().snapshot(),
            self.store.counters(),
        );
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            peer_id: net.peer_id,
            swarm: SwarmStatus {
                listen: net.addresses,
                trackers: net.trackers,
                joined: net.joined,
                joined_count: u32::try_from(net.joined_count).unwrap_or(u32::MAX),
                peer_count: u32::try_from(net.peer_count).unwrap_or(u32::MAX),
            },
            store: StoreStatus {
                used_len: self.store.used_len(),
                quota_len: self.store.options().quota_len,
                blob_count: u32::try_from(self.store.blobs().len()).unwrap_or(u32::MAX),
                corrupt_count: kept.corrupt_count,
                evicted_count: kept.evicted_count,
                copied_count: kept.copied_count,
                refused_count: kept.refused_count,
            },
            sources: SourceCounters {
                store_len: counted.store.len,
                peer_len: counted.peer.len,
                seed_len: counted.seed.len,
                registry_len: counted.registry.len,
                served_len: counted.served.len,
                refused_count: counted.refused.count,
                hedge_count: counted.hedge_count,
                request_count: counted.request_count,
                busy_count: counted.busy_count,
                override_count: counted.origin_override_count,
                refused_grant_count: counted.refused_grant_count,
            },
            device_count: u32::try_from(devices.len()).unwrap_or(u32::MAX),
            mount_count: u32::try_from(mounts).unwrap_or(u32::MAX),
            waiting_count: waiting().map(|waiting| waiting.count).sum(),
            longest_wait_ms: waiting()
                .map(|waiting| waiting.longest_ms)
                .max()
                .unwrap_or(0),
            snapshots: self
                .snapshots
                .as_ref()
                .map(|(snapshotter, lazy)| lazy.status(snapshotter)),
        }
    }
}
