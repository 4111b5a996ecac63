//! Requests, agent to tracker. Each carries a request number that its answer repeats.

use super::{Fault, Goodput, JoinProof, LeaseState, Open, Prove, StripeRun, StripeState, kind};
use crate::Digest;
use crate::wire::fields::{
    Fields, in_bounds, put_bytes, put_digest, put_list, put_u16, put_u32, put_u64,
};
use crate::wire::frame::{Frame, put_frame};
use crate::wire::{
    Certificate, ChunkId, MAX_GOODPUTS, MAX_RUNS, MAX_STRIPES, MAX_TOKEN_LEN, Member, PeerId,
    Versions, WireError,
};

/// Asks to be made a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Versions the sender speaks.
    pub versions: Versions,
    /// Why it should be let in.
    pub proof: JoinProof,
    /// Who it is; `peer` must be the identity of the connection.
    pub member: Member,
    /// Random, new at each start.
    pub boot_id: [u8; 16],
}

/// What an agent asks of the tracker, or tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackerRequest {
    /// Makes the sender a member. The first request on a stream. Answer: JOINED.
    Join(Box<Join>),
    /// It uses these blobs of an image. Repeating it is harmless, brings the members up to date and
    /// renews the grant. Answer: OPENED.
    Open(Box<Open>),
    /// Where do these stripes come from? At most 64. Answer: ROUTES.
    Lookup {
        /// The blob.
        blob: Digest,
        /// Numbers of stripes.
        stripes: Vec<u32>,
    },
    /// How the read under a lease goes. Answer: `PROGRESS_ACK`.
    Progress {
        /// The lease.
        lease: u64,
        /// Bytes read from the registry under it so far; more than before is progress.
        done_len: u64,
        /// Whether it reads.
        state: LeaseState,
    },
    /// What the sender has of a blob, from stripe 0; stripes beyond the runs are `None`. Answer: ACK.
    Announce {
        /// The blob.
        blob: Digest,
        /// Its stripes' states in order, at most 16,384 runs.
        runs: Vec<StripeRun>,
    },
    /// Still here. Answer: `HEARTBEAT_ACK`.
    Heartbeat {
        /// Upload queue, 0 idle to 1,000 full.
        load_permille: u16,
        /// The epoch it knows.
        epoch: u64,
        /// How fast others were, at most 64.
        goodputs: Vec<Goodput>,
    },
    /// A peer is at fault. Answer: ACK.
    Report {
        /// How.
        fault: Fault,
        /// Which peer.
        peer: PeerId,
        /// With which chunk.
        chunk: ChunkId,
    },
    /// The sender stops. Answer: ACK.
    Leave,
    /// Is there a proof of this blob, which has no chunk table? Answer: PROOF.
    Prove(Box<Prove>),
}

impl TrackerRequest {
    /// Appends the request as one frame; `request` must not be 0.
    pub fn encode(&self, request: u32, out: &mut Vec<u8>) {
        let kind = match self {
            Self::Join(_) => kind::JOIN,
            Self::Open(_) => kind::OPEN,
            Self::Lookup { .. } => kind::LOOKUP,
            Self::Progress { .. } => kind::PROGRESS,
            Self::Announce { .. } => kind::ANNOUNCE,
            Self::Heartbeat { .. } => kind::HEARTBEAT,
            Self::Report { .. } => kind::REPORT,
            Self::Leave => kind::LEAVE,
            Self::Prove(_) => kind::PROVE,
        };
        put_frame(out, kind, request, |out| self.put(out));
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Join(join) => {
                let Join {
                    versions,
                    proof,
                    member,
                    boot_id,
                } = &**join;
                put_u16(out, versions.min);
                put_u16(out, versions.max);
                out.extend_from_slice(boot_id);
                member.put(out);
                match proof {
                    JoinProof::Token(token) => {
                        out.push(1);
                        put_bytes(out, token, MAX_TOKEN_LEN);
                    }
                    JoinProof::Certificate(certificate) => {
                        out.push(2);
                        certificate.encode(out);
                    }
                }
            }
            Self::Open(open) => open.put(out),
            Self::Lookup { blob, stripes } => {
                put_digest(out, blob);
                put_list(out, stripes, MAX_STRIPES, |out, stripe| {
                    put_u32(out, *stripe);
                });
            }
            Self::Progress {
                lease,
                done_len,
                state,
            } => {
                put_u64(out, *lease);
                put_u64(out, *done_len);
                out.push(*state as u8);
            }
            Self::Announce { blob, runs } => {
                put_digest(out, blob);
                put_list(out, runs, MAX_RUNS, |out, run| {
                    out.push(run.state as u8);
                    put_u32(out, run.count);
                });
            }
            Self::Heartbeat {
                load_permille,
                epoch,
                goodputs,
            } => {
                put_u16(out, *load_permille);
                put_u64(out, *epoch);
                put_list(out, goodputs, MAX_GOODPUTS, |out, goodput| {
                    goodput.peer.put(out);
                    put_u64(out, goodput.bytes_per_second);
                });
            }
            Self::Report { fault, peer, chunk } => {
                out.push(*fault as u8);
                peer.put(out);
                put_digest(out, &chunk.blob);
                put_u32(out, chunk.number);
            }
            Self::Leave => {}
            Self::Prove(prove) => prove.put(out),
        }
    }

    /// Understands a frame that an agent sent, and gives its request number, which is never 0.
    pub fn from_frame(frame: &Frame) -> Result<(u32, Self), WireError> {
        let Frame {
            kind,
            request,
            ref body,
        } = *frame;
        let mut fields = Fields::new(body);
        let message = match kind {
            kind::JOIN => read_join(&mut fields)?,
            kind::OPEN => Self::Open(Box::new(Open::read(&mut fields)?)),
            kind::LOOKUP => Self::Lookup {
                blob: fields.digest("blob")?,
                stripes: fields.list(MAX_STRIPES, "stripes", |fields| fields.u32("stripe"))?,
            },
            kind::PROGRESS => Self::Progress {
                lease: fields.u64("lease")?,
                done_len: fields.u64("done")?,
                state: read_lease_state(&mut fields)?,
            },
            kind::ANNOUNCE => Self::Announce {
                blob: fields.digest("blob")?,
                runs: fields.list(MAX_RUNS, "runs", read_run)?,
            },
            kind::HEARTBEAT => Self::Heartbeat {
                load_permille: fields.u16("load")?,
                epoch: fields.u64("epoch")?,
                goodputs: fields.list(MAX_GOODPUTS, "goodputs", |fields| {
                    let peer = PeerId::read(fields)?;
                    Ok(Goodput {
                        peer,
                        bytes_per_second: fields.u64("goodput")?,
                    })
                })?,
            },
            kind::REPORT => Self::Report {
                fault: read_fault(&mut fields)?,
                peer: PeerId::read(&mut fields)?,
                chunk: ChunkId {
                    blob: fields.digest("blob")?,
                    number: fields.u32("chunk")?,
                },
            },
            kind::LEAVE => Self::Leave,
            kind::PROVE => Self::Prove(Box::new(Prove::read(&mut fields)?)),
            kind => return Err(WireError::UnknownKind { kind }),
        };
        fields.end("tracker request")?;
        if request == 0 {
            return Err(WireError::BadRequest { kind, request });
        }
        Ok((request, message))
    }

    /// Reads exactly one frame from `bytes` and understands it.
    pub fn decode(bytes: &[u8]) -> Result<(u32, Self), WireError> {
        Self::from_frame(&Frame::decode(bytes)?)
    }
}

fn read_join(fields: &mut Fields<'_>) -> Result<TrackerRequest, WireError> {
    let versions = Versions {
        min: fields.u16("min")?,
        max: fields.u16("max")?,
    };
    let boot_id = fields.array("boot id")?;
    let member = Member::read(fields)?;
    let proof = match fields.u8("proof")? {
        1 => JoinProof::Token(fields.bytes(0, MAX_TOKEN_LEN, "token")?.to_vec()),
        2 => JoinProof::Certificate(Box::new(Certificate::read(fields)?)),
        value => {
            return Err(WireError::UnknownTag {
                what: "proof",
                value,
            });
        }
    };
    Ok(TrackerRequest::Join(Box::new(Join {
        versions,
        proof,
        member,
        boot_id,
    })))
}

fn read_lease_state(fields: &mut Fields<'_>) -> Result<LeaseState, WireError> {
    match fields.u8("lease state")? {
        1 => Ok(LeaseState::Reading),
        2 => Ok(LeaseState::Resting),
        3 => Ok(LeaseState::Released),
        4 => Ok(LeaseState::Queued),
        value => Err(WireError::UnknownTag {
            what: "lease state",
            value,
        }),
    }
}

fn read_run(fields: &mut Fields<'_>) -> Result<StripeRun, WireError> {
    let state = match fields.u8("stripe state")? {
        0 => StripeState::None,
        1 => StripeState::InFlight,
        2 => StripeState::Complete,
        value => {
            return Err(WireError::UnknownTag {
                what: "stripe state",
                value,
            });
        }
    };
    let count = fields.u32("run")?;
    in_bounds(u64::from(count), 1, u64::from(u32::MAX), "run")?;
    Ok(StripeRun { state, count })
}

fn read_fault(fields: &mut Fields<'_>) -> Result<Fault, WireError> {
    match fields.u8("fault")? {
        1 => Ok(Fault::WrongChunk),
        2 => Ok(Fault::Slow),
        3 => Ok(Fault::Dead),
        value => Err(WireError::UnknownTag {
            what: "fault",
            value,
        }),
    }
}
