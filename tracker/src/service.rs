//! A running tracker: its parts put together, and taken apart again.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tranship_format::wire::Role;
use tranship_source::net::certificate::{Authority, CertificateError};
use tranship_source::net::identity::{Identity, IdentityError};
use tranship_source::net::{
    JoinToken, NetError, NetOptions, PeerId, TrackerAddress, parse_address, random_bytes,
};
use tranship_source::proof::TrustedProofs;
use tranship_source::registry::{BadMirror, Mirrors};
use tranship_source::{
    Credentials, PlainHttp, RegistryClient, RegistryFailure, RegistryOptions, SwarmNet,
};
use tranship_store::{ChunkStore, StoreError, StoreOptions};
use tranship_swarm::tracker::{Tracker, TrackerOptions};

use crate::config::{Config, SeedMode};
use crate::http::{self, Shown};
use crate::join::Gate;
use crate::proofs::{self, Proofs};
use crate::rights::{Puller, Rights};
use crate::secret::{Secret, TokenError, token};
use crate::seed::{Seed, SeedParts};
use crate::server::{Bans, Drain, Server};

/// Leases that are out when the tracker takes leave have so long to end.
const DRAIN: Duration = Duration::from_secs(10);
/// Stopping takes at most so long.
const STOP: Duration = Duration::from_secs(5);
/// How often to look whether everybody has let go of what is shared.
const LETTING_GO: Duration = Duration::from_millis(2);
/// A registry has so long to say who may pull.
const CHECK: Duration = Duration::from_secs(5);
/// Questions of the HTTP side that may wait.
const ASKED: usize = 16;

/// Where a tracker can be reached, once it can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ready {
    /// Its peer id.
    pub peer_id: String,
    /// Addresses for nodes, each ending in the peer id.
    pub listen: Vec<String>,
    /// `address:port` of the status page.
    pub http: String,
}

/// Why a tracker does not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting cannot be used.
    #[error("use the setting {key} = {value:?}: it is neither address:port nor a multiaddr")]
    Address {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// Another tracker is named by what is none.
    #[error("use {value:?} in the setting trackers: it neither is a peer id nor ends in one")]
    Other {
        /// What was given.
        value: String,
    },
    /// The key.
    #[error("have a key")]
    Identity(#[source] IdentityError),
    /// The key is of a kind that cannot sign memberships.
    #[error("sign memberships")]
    Authority(#[source] CertificateError),
    /// The join token, or the operator's.
    #[error("have the tokens")]
    Token(#[source] TokenError),
    /// The join token that was given is empty: it would let in whoever shows none.
    #[error(
        "use the join token that was given: it is empty; set TRANSHIP_TOKEN to a token, or unset it so that the token file counts"
    )]
    EmptyToken,
    /// The list of bans.
    #[error("open the bans in {path}")]
    Bans {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The seed's chunks.
    #[error("open the seed's store")]
    Store(#[source] StoreError),
    /// A registry or a mirror is no host.
    #[error("use the setting registry.mirrors")]
    Mirrors(#[source] BadMirror),
    /// The seed's proofs.
    #[error("make a place for proofs")]
    Proofs(#[source] io::Error),
    /// The seed's way to registries.
    #[error("set up the registry client")]
    Registry(#[source] Box<RegistryFailure>),
    /// The transport.
    #[error("take part in the swarm")]
    Net(#[source] NetError),
    /// The HTTP listener.
    #[error("listen for HTTP on {address}")]
    Http {
        /// Where.
        address: SocketAddr,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The system gives no random bytes.
    #[error("get random bytes from the system")]
    Random,
}

/// A running tracker.
#[derive(Debug)]
pub struct Service {
    net: Arc<SwarmNet>,
    tasks: TaskTracker,
    stop: CancellationToken,
    drain: Drain,
    ready: Ready,
}

impl Service {
    /// Starts a tracker; it serves when this returns. `join_token` is used instead
    /// of the token file, as the environment gives it.
    ///
    /// # Errors
    /// [`StartError`] when this machine lacks something; the network is not waited for.
    pub async fn start(config: Config, join_token: Option<JoinToken>) -> Result<Self, StartError> {
        let was_here = Identity::exists(&config.state_dir);
        let identity = Identity::open(&config.state_dir).map_err(StartError::Identity)?;
        let others = others(&config)?;
        let all = others.iter().copied().chain([identity.libp2p_peer()]);
        let authority = Authority::of_all(all).map_err(StartError::Authority)?;
        let token = match join_token {
            Some(token) if token.reveal().is_empty() => return Err(StartError::EmptyToken),
            Some(token) => token,
            None => token(&config.token_path()).map_err(StartError::Token)?,
        };
        let operator = crate::secret::token(&config.operator_token_path());
        let operator = Secret::new(&operator.map_err(StartError::Token)?);
        let bans_path = config.state_dir.join("bans");
        let (bans, banned) = Bans::open(&bans_path).map_err(|source| StartError::Bans {
            path: bans_path,
            source,
        })?;
        let http = TcpListener::bind(config.http_listen).await;
        let http = http.map_err(|source| StartError::Http {
            address: config.http_listen,
            source,
        })?;
        let http_address = http.local_addr().map_or_else(
            |_| config.http_listen.to_string(),
            |address| address.to_string(),
        );

        let has_seed = config.seed.mode != SeedMode::Off;
        let options = NetOptions {
            believed: others,
            ..net_options(&config, identity.libp2p_peer(), &token, has_seed)?
        };
        let (net, streams) = SwarmNet::start_with_tracker(options)
            .await
            .map_err(StartError::Net)?;
        let net = Arc::new(net);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let seed = if has_seed {
            let key = (identity.clone(), authority.clone());
            let seed = seed(&config, &net, key, (tasks.clone(), stop.clone()))?;
            Some((net.member().clone(), Arc::new(seed)))
        } else {
            None
        };

        let ready = Ready {
            peer_id: net.peer().to_string(),
            listen: net.addresses().iter().map(ToString::to_string).collect(),
            http: http_address,
        };
        let options = TrackerOptions {
            grace: if was_here {
                TrackerOptions::default().grace
            } else {
                Duration::ZERO
            },
            // With none nothing would ever be read.
            origin_reads: config.registry.reads.max(1),
            ..TrackerOptions::default()
        };
        let epoch = random_bytes().ok_or(StartError::Random)?;
        let epoch = u64::from_le_bytes(epoch.first_chunk().copied().unwrap_or_default());
        let tracker = Tracker::new(options.clone(), epoch, banned);
        let rights = Rights::new(
            identity.clone(),
            authority.clone(),
            config.rights.check,
            config.rights.grant,
        );
        let puller = Puller::new(client(&config, Some(CHECK))?, config.registry.allow.clone());
        let gate = Gate::new(identity, authority, Secret::new(&token), config.membership);
        let (ask, asked) = mpsc::channel(ASKED);
        let shown = Shown::new(
            ask,
            seed.as_ref().map(|(_, seed)| Arc::clone(seed)),
            &ready,
            operator,
            config.http_listen.ip().is_loopback(),
        );
        let server = Server::new(
            tracker,
            options,
            gate,
            (rights, puller),
            bans,
            seed,
            tasks.clone(),
        );
        let drain = server.drain();
        tasks.spawn(server.run(streams, asked, stop.clone()));
        tasks.spawn(http::serve(http, shown, stop.clone()));
        Ok(Self {
            net,
            tasks,
            stop,
            drain,
            ready,
        })
    }

    /// Where it can be reached.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Takes leave: members are told and turn to another tracker, nothing new is begun, and what is being read of
    /// registries under leases is read to its end, within ten seconds. To be stopped then.
    pub async fn drain(&self) {
        self.drain.begin.cancel();
        let drained = async {
            self.drain.told.cancelled().await;
            self.drain.done.cancelled().await;
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("leases are still out; their holders go on without the tracker");
        }
    }

    /// Stops, within a few seconds. Nodes notice by their streams and go on without it.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP, self.tasks.wait()).await.is_err() {
            tracing::warn!("the tracker did not stop in time");
        }
        // The parts that shared it are gone by now, but that a connection of the HTTP side counts as closed a moment before it
        // lets go of everything.
        let stopping = async {
            let mut shared = self.net;
            loop {
                match Arc::try_unwrap(shared) {
                    Ok(net) => return net.stop().await,
                    Err(still) => shared = still,
                }
                tokio::time::sleep(LETTING_GO).await;
            }
        };
        if tokio::time::timeout(STOP, stopping).await.is_err() {
            tracing::warn!("the tracker's network did not stop in time");
        }
    }
}

/// The other trackers of the swarm.
fn others(config: &Config) -> Result<Vec<PeerId>, StartError> {
    let id = |text: &String| {
        // An address ends in the peer id.
        let last = text.rsplit('/').next().unwrap_or(text);
        last.parse().map_err(|_| StartError::Other {
            value: text.clone(),
        })
    };
    config.trackers.iter().map(id).collect()
}

fn net_options(
    config: &Config,
    peer: PeerId,
    token: &JoinToken,
    has_seed: bool,
) -> Result<NetOptions, StartError> {
    let parse = |key, value: &str| {
        parse_address(value).ok_or_else(|| StartError::Address {
            key,
            value: value.to_owned(),
        })
    };
    let mut options = NetOptions::new(config.state_dir.clone());
    let listen = parse("listen", &config.listen)?;
    for address in &config.advertise {
        options.advertise.push(parse("advertise", address)?);
    }
    // The seed's tracker lives in the same process: the transport sees that the
    // peer is itself, and the address is not dialled.
    let ours = has_seed.then(|| TrackerAddress {
        address: listen.clone(),
        peer,
    });
    options.trackers.extend(ours);
    options.listen = vec![listen];
    options.token = Some(token.clone());
    options.role = Role::Seed;
    Ok(options)
}

/// A client of registries: with the seed's credentials, or without any and with so much time for one question.
fn client(config: &Config, anonymous: Option<Duration>) -> Result<RegistryClient, StartError> {
    let credentials = match config.registry.docker_config.as_os_str() {
        none if none.is_empty() || anonymous.is_some() => Credentials::anonymous(),
        path => Credentials::default().with_docker_config(path),
    };
    let usual = RegistryOptions::default();
    let options = RegistryOptions {
        plain_http: if config.registry.plain_http.is_empty() {
            PlainHttp::Loopback
        } else {
            PlainHttp::Always(config.registry.plain_http.clone())
        },
        credentials,
        // Who may pull is for the registry alone to say: a mirror that gives to all would let all in.
        mirrors: match anonymous {
            Some(_) => Mirrors::default(),
            None => Mirrors::new(config.registry.mirrors.clone()).map_err(StartError::Mirrors)?,
        },
        connect_timeout: anonymous.unwrap_or(usual.connect_timeout),
        read_timeout: anonymous.unwrap_or(usual.read_timeout),
        deadline: anonymous.unwrap_or(usual.deadline),
        ..usual
    };
    RegistryClient::new(options).map_err(|failure| StartError::Registry(Box::new(failure)))
}

fn seed(
    config: &Config,
    net: &Arc<SwarmNet>,
    (identity, authority): (Identity, Authority),
    (tasks, stop): (TaskTracker, CancellationToken),
) -> Result<Seed, StartError> {
    let quota_len = config.seed.quota.as_u64();
    let store = ChunkStore::open(&config.seed_dir(), StoreOptions::with_quota(quota_len))
        .map_err(StartError::Store)?;
    let proofs = Proofs::open(config.state_dir.join("proofs"), identity, authority)
        .map_err(StartError::Proofs)?;
    Ok(Seed::new(SeedParts {
        net: Arc::clone(net),
        store,
        client: client(config, None)?,
        allowed: config.registry.allow.clone(),
        trusted: TrustedProofs::new(config.registry.trust_proofs.clone()),
        proofs,
        scratch: proofs::scratch(&config.seed_dir()).map_err(StartError::Proofs)?,
        opens_all: config.seed.mode == SeedMode::OnOpen,
        tasks,
        stop,
    }))
}
