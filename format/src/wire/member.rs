//! Who takes part: a peer's identity, and how and where it is reached.
//!
//! The identity is opaque bytes here (libp2p's peer id in practice), because format and swarm must
//! not know the transport; equality and order are all that decisions need.

use std::fmt;

use super::fields::{Fields, in_bounds, put_bytes, put_list, put_text};
use super::{MAX_ADDRESS_LEN, MAX_ADDRESSES, MAX_LABEL_LEN, MAX_PEER_ID_LEN, WireError};

/// Identity of a peer: 1 to 64 opaque bytes.
///
/// Held inline, so that it is `Copy` and a map of peers needs no second allocation each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    len: u8,
    bytes: [u8; MAX_PEER_ID_LEN],
}

impl PeerId {
    /// Takes 1 to 64 bytes; anything else is [`WireError::OutOfBounds`].
    pub fn from_bytes(id: &[u8]) -> Result<Self, WireError> {
        in_bounds(id.len() as u64, 1, MAX_PEER_ID_LEN as u64, "peer id")?;
        let mut bytes = [0; MAX_PEER_ID_LEN];
        for (to, from) in bytes.iter_mut().zip(id) {
            *to = *from;
        }
        let len = u8::try_from(id.len()).unwrap_or(0);
        Ok(Self { len, bytes })
    }

    /// The bytes it was made from.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.as_bytes(), MAX_PEER_ID_LEN);
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, WireError> {
        Self::from_bytes(fields.bytes(1, MAX_PEER_ID_LEN, "peer id")?)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({self})")
    }
}

/// What a member is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Role {
    /// Reads images for its node and serves what it read.
    Agent = 1,
    /// Holds chunks near the registry for others, beside the tracker.
    Seed = 2,
}

/// A member of the swarm as the tracker tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its identity.
    pub peer: PeerId,
    /// Where it listens, as multiaddr text; at most 4 of at most 256 bytes.
    pub addresses: Vec<String>,
    /// Failure and cost domain, such as a data-centre hall; at most 64 bytes, empty if unknown.
    pub zone: String,
    /// Group of near neighbours inside the zone; at most 64 bytes, empty if unknown.
    pub rack: String,
    /// What it is for.
    pub role: Role,
}

impl Member {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        self.peer.put(out);
        put_list(out, &self.addresses, MAX_ADDRESSES, |out, address| {
            put_text(out, address, MAX_ADDRESS_LEN);
        });
        put_text(out, &self.zone, MAX_LABEL_LEN);
        put_text(out, &self.rack, MAX_LABEL_LEN);
        out.push(self.role as u8);
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, WireError> {
        Ok(Self {
            peer: PeerId::read(fields)?,
            addresses: fields.list(MAX_ADDRESSES, "addresses", |fields| {
                fields.text(MAX_ADDRESS_LEN, "address")
            })?,
            zone: fields.text(MAX_LABEL_LEN, "zone")?,
            rack: fields.text(MAX_LABEL_LEN, "rack")?,
            role: match fields.u8("role")? {
                1 => Role::Agent,
                2 => Role::Seed,
                value => {
                    return Err(WireError::UnknownTag {
                        what: "role",
                        value,
                    });
                }
            },
        })
    }
}
