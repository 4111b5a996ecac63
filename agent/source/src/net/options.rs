//! How a node takes part in the swarm.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use thiserror::Error;
use tranship_format::wire::Role;

use super::certificate::CertificateError;
use super::identity::IdentityError;
use super::transport::TransportError;

/// Text that lets a node into the swarm; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken(Vec<u8>);

impl JoinToken {
    /// Takes the token as it was read, without the white space that editors add around it.
    pub fn new(text: &str) -> Self {
        Self(text.trim().as_bytes().to_vec())
    }

    /// The token itself, for the one who sends or checks it.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(hidden)")
    }
}

/// Where the tracker is, and who it is: an address that ends in `/p2p/<peer id>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackerAddress {
    /// How to get there.
    pub address: Multiaddr,
    /// Who must be there; its key signs memberships.
    pub peer: PeerId,
}

/// Why a text is not the address of a tracker.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrackerAddressError {
    /// It is no multiaddr.
    #[error("read {text:?} as an address such as /ip4/10.0.0.1/tcp/4001/p2p/12D3Koo…")]
    Syntax {
        /// What was given.
        text: String,
        /// Where it goes wrong.
        #[source]
        source: libp2p::multiaddr::Error,
    },
    /// It does not say who is there.
    #[error("the tracker's address {text:?} does not end in /p2p/<peer id>")]
    NoPeer {
        /// What was given.
        text: String,
    },
}

impl std::str::FromStr for TrackerAddress {
    type Err = TrackerAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut address: Multiaddr =
            text.parse().map_err(|source| TrackerAddressError::Syntax {
                text: text.to_owned(),
                source,
            })?;
        match address.pop() {
            Some(libp2p::multiaddr::Protocol::P2p(peer)) if !address.is_empty() => {
                Ok(Self { address, peer })
            }
            _ => Err(TrackerAddressError::NoPeer {
                text: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for TrackerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/p2p/{}", self.address, self.peer)
    }
}

/// Makes a node misbehave, so that tests can watch the others cope. Never set in earnest.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fault {
    /// Share of the chunks it serves in which it flips a bit, 0 to 1.
    pub corrupt_share: f64,
}

/// How a node takes part in the swarm.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// Where the node's key is kept; made if it is not there.
    pub state_dir: PathBuf,
    /// What it listens on. `/ip4/0.0.0.0/tcp/0` takes any free port.
    pub listen: Vec<Multiaddr>,
    /// What it tells others to dial, if that is not what it listens on.
    pub advertise: Vec<Multiaddr>,
    /// Its trackers. Without one it reads the registry alone.
    pub trackers: Vec<TrackerAddress>,
    /// Trackers besides those whose signatures it believes: a tracker's seed, which joins that tracker alone, has the
    /// others of the swarm here.
    pub believed: Vec<PeerId>,
    /// What lets it in.
    pub token: Option<JoinToken>,
    /// Failure and cost domain, empty if unknown; at most 64 bytes count.
    pub zone: String,
    /// Group of near neighbours inside the zone, empty if unknown.
    pub rack: String,
    /// What it is for.
    pub role: Role,
    /// Bytes of chunks that may be in memory on their way in or out, over all peers.
    pub in_flight_len: u32,
    /// Most bytes a second served to others; `None` is without limit.
    pub upload_rate: Option<u64>,
    /// A chunk that a reader waits for is read from the registry, lease or not, after
    /// so long without progress; `None` is what was measured and simulated. Longer
    /// spares the registry where machines are overloaded.
    pub demand_patience: Option<Duration>,
    /// For tests.
    pub fault: Fault,
}

/// Bytes of chunks in flight unless told otherwise: what fills 10 Gb/s for 50 ms.
const IN_FLIGHT_LEN: u32 = 64 << 20;

impl NetOptions {
    /// An agent that listens on any free port of every interface and knows no tracker.
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            listen: vec![any_port()],
            advertise: Vec::new(),
            trackers: Vec::new(),
            believed: Vec::new(),
            token: None,
            zone: String::new(),
            rack: String::new(),
            role: Role::Agent,
            in_flight_len: IN_FLIGHT_LEN,
            upload_rate: None,
            demand_patience: None,
            fault: Fault::default(),
        }
    }
}

fn any_port() -> Multiaddr {
    Multiaddr::from(std::net::Ipv4Addr::UNSPECIFIED).with(libp2p::multiaddr::Protocol::Tcp(0))
}

/// Turns what people write in a configuration (`0.0.0.0:4001`, `[::]:4001` or a
/// multiaddr) into an address to listen on or to advertise. `None` if it is neither.
pub fn parse_address(text: &str) -> Option<Multiaddr> {
    if let Ok(socket) = text.parse::<std::net::SocketAddr>() {
        let port = libp2p::multiaddr::Protocol::Tcp(socket.port());
        return Some(Multiaddr::from(socket.ip()).with(port));
    }
    text.parse().ok()
}

/// Why a node cannot take part. The network being away is never a reason.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetError {
    /// Its key.
    #[error("have a key")]
    Identity(#[source] IdentityError),
    /// Its own end of the transport.
    #[error("start the transport")]
    Transport(#[source] TransportError),
    /// The tracker's peer id cannot be used to check memberships.
    #[error("use the tracker's peer id")]
    Tracker(#[source] CertificateError),
    /// The system gives no random bytes.
    #[error("get random bytes from the system")]
    Random,
    /// The task that decides has ended.
    #[error("the node has stopped")]
    Stopped,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracker_is_an_address_and_a_peer() {
        let peer = super::super::identity::Identity::generate().libp2p_peer();
        let text = format!("/dns4/tracker.example/tcp/4001/p2p/{peer}");
        let parsed: TrackerAddress = text.parse().unwrap();
        assert_eq!(parsed.peer, peer);
        assert_eq!(parsed.to_string(), text);
        assert!(matches!(
            "/ip4/10.0.0.1/tcp/4001".parse::<TrackerAddress>(),
            Err(TrackerAddressError::NoPeer { .. })
        ));
        assert!("10.0.0.1:4001".parse::<TrackerAddress>().is_err());
    }

    #[test]
    fn a_token_is_trimmed_and_hidden() {
        let token = JoinToken::new(" secret\n");
        assert_eq!(token.reveal(), b"secret");
        assert_eq!(format!("{token:?}"), "JoinToken(hidden)");
    }

    #[test]
    fn addresses_are_sockets_or_multiaddrs() {
        for (text, expected) in [
            ("0.0.0.0:7", "/ip4/0.0.0.0/tcp/7"),
            ("[::1]:7", "/ip6/::1/tcp/7"),
            ("/ip4/1.2.3.4/tcp/5", "/ip4/1.2.3.4/tcp/5"),
        ] {
            assert_eq!(parse_address(text).unwrap().to_string(), expected);
        }
        assert!(parse_address("somewhere").is_none());
    }
}
