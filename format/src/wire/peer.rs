//! What peers say to each other.
//!
//! A WANT gets exactly one final answer (DATA, BUSY or MISS), before which any number of WAITs may
//! come. BUSY comes at once and names others, so that nobody finds out by a time-out; WAIT tells that
//! the answer is on its way, so that nobody asks a second peer for it.

use bytes::Bytes;

use super::fields::{Fields, put_digest, put_list, put_u16, put_u32};
use super::frame::{Frame, put_frame};
use super::{Certificate, ChunkId, Grant, MAX_PARENTS, Member, Versions, WireError};
use crate::ChunkHash;

/// Kinds of frames on a peer stream.
pub mod kind {
    /// [`HELLO`](super::Hello).
    pub const HELLO: u8 = 0x01;
    /// [`HELLO_ACK`](super::HelloAck).
    pub const HELLO_ACK: u8 = 0x02;
    /// [`WANT`](super::Want).
    pub const WANT: u8 = 0x03;
    /// [`DATA`](super::PeerMessage::Data).
    pub const DATA: u8 = 0x04;
    /// [`WAIT`](super::PeerMessage::Wait).
    pub const WAIT: u8 = 0x05;
    /// [`BUSY`](super::PeerMessage::Busy).
    pub const BUSY: u8 = 0x06;
    /// [`MISS`](super::PeerMessage::Miss).
    pub const MISS: u8 = 0x07;
    /// [`CANCEL`](super::PeerMessage::Cancel).
    pub const CANCEL: u8 = 0x08;
    /// [`GOAWAY`](super::PeerMessage::GoAway).
    pub const GOAWAY: u8 = 0x09;
    /// [`GRANT`](super::PeerMessage::Grant).
    pub const GRANT: u8 = 0x0a;
}

/// How urgent a chunk is; the order is the order of service in every queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// A reader of the device waits for it.
    Demand = 1,
    /// It follows what a reader just read.
    ReadAhead = 2,
    /// A trace says that it will be read.
    Prefetch = 3,
    /// It completes the image.
    Background = 4,
}

impl Class {
    fn read(fields: &mut Fields<'_>) -> Result<Self, WireError> {
        match fields.u8("class")? {
            1 => Ok(Self::Demand),
            2 => Ok(Self::ReadAhead),
            3 => Ok(Self::Prefetch),
            4 => Ok(Self::Background),
            value => Err(WireError::UnknownTag {
                what: "class",
                value,
            }),
        }
    }
}

/// First frame of whoever opened the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Versions it speaks.
    pub versions: Versions,
    /// Proof that it is a member.
    pub certificate: Certificate,
    /// Random, new at each start: tells a restart from a reconnect.
    pub boot_id: [u8; 16],
}

/// The answer to HELLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloAck {
    /// The version that both will speak.
    pub version: u16,
    /// Proof that it is a member too.
    pub certificate: Certificate,
    /// Random, new at each start.
    pub boot_id: [u8; 16],
}

/// Asks for one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// How urgent.
    pub class: Class,
    /// Which chunk.
    pub chunk: ChunkId,
    /// The hash that the asker expects, if it wants a holder with another table to answer MISS.
    pub hash: Option<ChunkHash>,
}

/// A frame of a peer stream, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    /// Opens the stream.
    Hello(Box<Hello>),
    /// Accepts it.
    HelloAck(Box<HelloAck>),
    /// Asks for a chunk.
    Want {
        /// Chosen by the asker; unique among its requests in flight on this connection.
        request: u32,
        /// What it wants.
        want: Want,
    },
    /// The stored bytes of the chunk, unverified.
    Data {
        /// The request answered.
        request: u32,
        /// The bytes.
        bytes: Bytes,
    },
    /// The chunk is on its way; repeated while it is.
    Wait {
        /// The request meant.
        request: u32,
        /// Milliseconds since whoever reads it from its source last got anything, as far as the
        /// sender knows. It grows along a ring of waiting peers and stays small above a live source.
        idle_ms: u32,
        /// Nodes between the sender and the one that reads it from its source: 0 if that is the sender,
        /// or if it has the chunk. Whoever is nearest to a source that gives nothing gives it up first.
        hops: u8,
    },
    /// Too much to do: ask another, or come back.
    Busy {
        /// The request refused.
        request: u32,
        /// Not to be asked again for this chunk before so many milliseconds.
        retry_ms: u32,
        /// Members that have it or get it first; at most 4.
        alternatives: Vec<Member>,
    },
    /// The sender does not have it and will not get it, or does not say.
    Miss {
        /// The request refused.
        request: u32,
    },
    /// The asker needs no answer any more.
    Cancel {
        /// The request taken back.
        request: u32,
    },
    /// The sender will answer what it has and take no new WANT.
    GoAway,
    /// Why the sender may have the chunks that it is about to want.
    Grant(Box<Grant>),
}

impl PeerMessage {
    /// Appends the message as one frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if let Some(tail) = self.encode_head(out) {
            out.extend_from_slice(tail);
        }
    }

    /// Appends the frame except for DATA's bytes, which are given back to be written after it
    /// without a copy.
    pub fn encode_head(&self, out: &mut Vec<u8>) -> Option<&Bytes> {
        match self {
            Self::Hello(hello) => put_frame(out, kind::HELLO, 0, |out| {
                put_u16(out, hello.versions.min);
                put_u16(out, hello.versions.max);
                out.extend_from_slice(&hello.boot_id);
                hello.certificate.encode(out);
            }),
            Self::HelloAck(ack) => put_frame(out, kind::HELLO_ACK, 0, |out| {
                put_u16(out, ack.version);
                out.extend_from_slice(&ack.boot_id);
                ack.certificate.encode(out);
            }),
            Self::Want { request, want } => put_frame(out, kind::WANT, *request, |out| {
                out.push(want.class as u8);
                put_digest(out, &want.chunk.blob);
                put_u32(out, want.chunk.number);
                out.push(u8::from(want.hash.is_some()));
                if let Some(hash) = &want.hash {
                    out.extend_from_slice(hash.bytes());
                }
            }),
            Self::Data { request, bytes } => {
                let frame = Frame {
                    kind: kind::DATA,
                    request: *request,
                    body: bytes.clone(),
                };
                out.extend_from_slice(&frame.header().encode());
                return Some(bytes);
            }
            Self::Wait {
                request,
                idle_ms,
                hops,
            } => put_frame(out, kind::WAIT, *request, |out| {
                put_u32(out, *idle_ms);
                out.push(*hops);
            }),
            Self::Busy {
                request,
                retry_ms,
                alternatives,
            } => {
                put_frame(out, kind::BUSY, *request, |out| {
                    put_u32(out, *retry_ms);
                    put_list(out, alternatives, MAX_PARENTS, |out, member| {
                        member.put(out);
                    });
                });
            }
            Self::Miss { request } => put_frame(out, kind::MISS, *request, |_| {}),
            Self::Cancel { request } => put_frame(out, kind::CANCEL, *request, |_| {}),
            Self::GoAway => put_frame(out, kind::GOAWAY, 0, |_| {}),
            Self::Grant(grant) => put_frame(out, kind::GRANT, 0, |out| grant.encode(out)),
        }
        None
    }

    /// Understands a frame. DATA's bytes stay a slice of the frame's buffer.
    pub fn from_frame(frame: Frame) -> Result<Self, WireError> {
        let Frame {
            kind,
            request,
            body,
        } = frame;
        let numbered = matches!(kind, kind::WANT..=kind::CANCEL);
        if numbered != (request != 0) && matches!(kind, kind::HELLO..=kind::GRANT) {
            return Err(WireError::BadRequest { kind, request });
        }
        let mut fields = Fields::new(&body);
        let message = match kind {
            kind::HELLO => {
                let versions = Versions {
                    min: fields.u16("min")?,
                    max: fields.u16("max")?,
                };
                let boot_id = fields.array("boot id")?;
                let certificate = Certificate::read(&mut fields)?;
                Self::Hello(Box::new(Hello {
                    versions,
                    certificate,
                    boot_id,
                }))
            }
            kind::HELLO_ACK => {
                let version = fields.u16("version")?;
                let boot_id = fields.array("boot id")?;
                let certificate = Certificate::read(&mut fields)?;
                Self::HelloAck(Box::new(HelloAck {
                    version,
                    certificate,
                    boot_id,
                }))
            }
            kind::WANT => Self::Want {
                request,
                want: read_want(&mut fields)?,
            },
            kind::DATA => {
                return Ok(Self::Data {
                    request,
                    bytes: body,
                });
            }
            kind::WAIT => Self::Wait {
                request,
                idle_ms: fields.u32("idle")?,
                hops: fields.u8("hops")?,
            },
            kind::BUSY => {
                let retry_ms = fields.u32("retry")?;
                let alternatives = fields.list(MAX_PARENTS, "alternatives", Member::read)?;
                Self::Busy {
                    request,
                    retry_ms,
                    alternatives,
                }
            }
            kind::MISS => Self::Miss { request },
            kind::CANCEL => Self::Cancel { request },
            kind::GOAWAY => Self::GoAway,
            kind::GRANT => Self::Grant(Box::new(Grant::read(&mut fields)?)),
            kind => return Err(WireError::UnknownKind { kind }),
        };
        fields.end("peer message")?;
        Ok(message)
    }

    /// Reads exactly one frame from `bytes` and understands it.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        Self::from_frame(Frame::decode(bytes)?)
    }
}

fn read_want(fields: &mut Fields<'_>) -> Result<Want, WireError> {
    let class = Class::read(fields)?;
    let chunk = ChunkId {
        blob: fields.digest("blob")?,
        number: fields.u32("chunk")?,
    };
    let hash = if fields.flag("hash flag")? {
        Some(ChunkHash::from_bytes(fields.array("hash")?))
    } else {
        None
    };
    Ok(Want { class, chunk, hash })
}
