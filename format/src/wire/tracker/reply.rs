//! Answers, tracker to agent; ROUTES also comes unasked, with request number 0, when a parent is lost, and FAREWELL never otherwise.

use std::sync::Arc;

use super::{ErrorCode, Route, StripeRoute, kind, read_members};
use crate::Digest;
use crate::wire::fields::{Fields, put_digest, put_list, put_text, put_u16, put_u32, put_u64};
use crate::wire::frame::{Frame, put_frame};
use crate::wire::{
    Certificate, Grant, MAX_BANS, MAX_MEMBERS, MAX_PARENTS, MAX_STRIPES, MAX_TEXT_LEN, Member,
    PeerId, SignedProof, WireError,
};

/// What the tracker answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackerReply {
    /// To JOIN.
    Joined {
        /// The version that both will speak.
        version: u16,
        /// The sender's membership.
        certificate: Box<Certificate>,
        /// Changes when the tracker has forgotten: what was announced must be announced again, and
        /// leases of another epoch are void.
        epoch: u64,
        /// Time between heartbeats.
        heartbeat_ms: u32,
        /// The tracker's own seed, if it has one.
        seed: Option<Box<Member>>,
    },
    /// To OPEN. Empty for whoever may not have the image, as for an image that there is not.
    Opened {
        /// The sender's right to the image's blobs.
        grant: Option<Box<Grant>>,
        /// Members that use the image, at most 256; the same ones for everybody, because routes
        /// without a tracker are computed from them.
        members: Vec<Arc<Member>>,
    },
    /// To LOOKUP, or unasked.
    Routes {
        /// The blob.
        blob: Digest,
        /// Routes, at most 64.
        routes: Vec<StripeRoute>,
    },
    /// To PROGRESS.
    ProgressAck {
        /// The lease.
        lease: u64,
        /// Milliseconds that it now runs without progress; `None` if it is another's or void.
        expires_ms: Option<u32>,
    },
    /// To HEARTBEAT.
    HeartbeatAck {
        /// The epoch.
        epoch: u64,
        /// Peers to have nothing to do with, at most 1,024, the latest first.
        bans: Vec<PeerId>,
    },
    /// To ANNOUNCE, REPORT and LEAVE.
    Ack,
    /// To PROVE.
    Proof(ProofState),
    /// Unasked, once: the tracker stops soon, and is to be asked nothing more.
    Farewell,
    /// Instead of any of the above.
    Error {
        /// Why.
        code: ErrorCode,
        /// For people, at most 512 bytes.
        text: String,
    },
}

/// How far the tracker is with a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProofState {
    /// Here it is.
    Ready(Box<SignedProof>),
    /// It is being made: ask again after so many milliseconds.
    Making {
        /// Bytes of the blob read so far; more than before is progress.
        done_len: u64,
        /// How long.
        retry_ms: u32,
    },
}

const READY: u8 = 1;
const MAKING: u8 = 2;

const ORIGIN: u8 = 1;
const PARENTS: u8 = 2;
const WAIT: u8 = 3;

impl TrackerReply {
    /// Appends the reply as one frame; `request` is the number of the request, or 0 for unasked ROUTES and for FAREWELL.
    pub fn encode(&self, request: u32, out: &mut Vec<u8>) {
        let kind = match self {
            Self::Joined { .. } => kind::JOINED,
            Self::Opened { .. } => kind::OPENED,
            Self::Routes { .. } => kind::ROUTES,
            Self::ProgressAck { .. } => kind::PROGRESS_ACK,
            Self::HeartbeatAck { .. } => kind::HEARTBEAT_ACK,
            Self::Ack => kind::ACK,
            Self::Proof(_) => kind::PROOF,
            Self::Farewell => kind::FAREWELL,
            Self::Error { .. } => kind::ERROR,
        };
        put_frame(out, kind, request, |out| self.put(out));
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Joined {
                version,
                certificate,
                epoch,
                heartbeat_ms,
                seed,
            } => {
                put_u16(out, *version);
                put_u64(out, *epoch);
                put_u32(out, *heartbeat_ms);
                certificate.encode(out);
                out.push(u8::from(seed.is_some()));
                if let Some(seed) = seed {
                    seed.put(out);
                }
            }
            Self::Opened { grant, members } => {
                out.push(u8::from(grant.is_some()));
                if let Some(grant) = grant {
                    grant.encode(out);
                }
                put_list(out, members, MAX_MEMBERS, |out, member| member.put(out));
            }
            Self::Routes { blob, routes } => {
                put_digest(out, blob);
                put_routes(out, routes);
            }
            Self::ProgressAck { lease, expires_ms } => {
                put_u64(out, *lease);
                out.push(u8::from(expires_ms.is_some()));
                if let Some(ms) = expires_ms {
                    put_u32(out, *ms);
                }
            }
            Self::HeartbeatAck { epoch, bans } => {
                put_u64(out, *epoch);
                put_list(out, bans, MAX_BANS, |out, peer| peer.put(out));
            }
            Self::Ack | Self::Farewell => {}
            Self::Proof(ProofState::Ready(proof)) => {
                out.push(READY);
                proof.encode(out);
            }
            Self::Proof(ProofState::Making { done_len, retry_ms }) => {
                out.push(MAKING);
                put_u64(out, *done_len);
                put_u32(out, *retry_ms);
            }
            Self::Error { code, text } => {
                out.push(*code as u8);
                put_text(out, text, MAX_TEXT_LEN);
            }
        }
    }

    /// Understands a frame that the tracker sent, and gives the number of the request it answers.
    pub fn from_frame(frame: &Frame) -> Result<(u32, Self), WireError> {
        let Frame {
            kind,
            request,
            ref body,
        } = *frame;
        let mut fields = Fields::new(body);
        let message = match kind {
            kind::JOINED => read_joined(&mut fields)?,
            kind::OPENED => Self::Opened {
                grant: if fields.flag("grant flag")? {
                    Some(Box::new(Grant::read(&mut fields)?))
                } else {
                    None
                },
                members: read_members(&mut fields, MAX_MEMBERS)?,
            },
            kind::ROUTES => {
                let blob = fields.digest("blob")?;
                Self::Routes {
                    blob,
                    routes: read_routes(&mut fields)?,
                }
            }
            kind::PROGRESS_ACK => {
                let lease = fields.u64("lease")?;
                let expires_ms = if fields.flag("lease flag")? {
                    Some(fields.u32("expires")?)
                } else {
                    None
                };
                Self::ProgressAck { lease, expires_ms }
            }
            kind::HEARTBEAT_ACK => Self::HeartbeatAck {
                epoch: fields.u64("epoch")?,
                bans: fields.list(MAX_BANS, "bans", PeerId::read)?,
            },
            kind::ACK => Self::Ack,
            kind::PROOF => Self::Proof(match fields.u8("proof state")? {
                READY => ProofState::Ready(Box::new(SignedProof::read(&mut fields)?)),
                MAKING => ProofState::Making {
                    done_len: fields.u64("done")?,
                    retry_ms: fields.u32("retry")?,
                },
                value => {
                    return Err(WireError::UnknownTag {
                        what: "proof state",
                        value,
                    });
                }
            }),
            kind::FAREWELL => Self::Farewell,
            kind::ERROR => Self::Error {
                code: ErrorCode::read(&mut fields)?,
                text: fields.text(MAX_TEXT_LEN, "error text")?,
            },
            kind => return Err(WireError::UnknownKind { kind }),
        };
        fields.end("tracker reply")?;
        let may_be_unasked = matches!(kind, kind::ROUTES | kind::FAREWELL);
        let must_be_unasked = kind == kind::FAREWELL;
        if (request == 0 && !may_be_unasked) || (request != 0 && must_be_unasked) {
            return Err(WireError::BadRequest { kind, request });
        }
        Ok((request, message))
    }

    /// Reads exactly one frame from `bytes` and understands it.
    pub fn decode(bytes: &[u8]) -> Result<(u32, Self), WireError> {
        Self::from_frame(&Frame::decode(bytes)?)
    }
}

fn read_joined(fields: &mut Fields<'_>) -> Result<TrackerReply, WireError> {
    let version = fields.u16("version")?;
    let epoch = fields.u64("epoch")?;
    let heartbeat_ms = fields.u32("heartbeat")?;
    let certificate = Box::new(Certificate::read(fields)?);
    let seed = if fields.flag("seed flag")? {
        Some(Box::new(Member::read(fields)?))
    } else {
        None
    };
    Ok(TrackerReply::Joined {
        version,
        certificate,
        epoch,
        heartbeat_ms,
        seed,
    })
}

/// Each member is written once, in a table before the routes, which name it by its place there:
/// the stripes of one blob mostly share their parents.
fn put_routes(out: &mut Vec<u8>, routes: &[StripeRoute]) {
    let kept = routes.get(..MAX_STRIPES).unwrap_or(routes);
    let mut table: Vec<&Arc<Member>> = Vec::new();
    let mut body = Vec::new();
    put_list(
        &mut body,
        kept,
        MAX_STRIPES,
        |out, StripeRoute { stripe, route }| {
            put_u32(out, *stripe);
            match route {
                Route::Origin { lease, expires_ms } => {
                    out.push(ORIGIN);
                    put_u64(out, *lease);
                    put_u32(out, *expires_ms);
                }
                Route::Parents(parents) => {
                    out.push(PARENTS);
                    put_list(out, parents, MAX_PARENTS, |out, parent| {
                        let known = table.iter().position(|member| *member == parent);
                        let place = known.unwrap_or_else(|| {
                            table.push(parent);
                            table.len() - 1
                        });
                        put_u16(out, u16::try_from(place).unwrap_or(u16::MAX));
                    });
                }
                Route::Wait { ms } => {
                    out.push(WAIT);
                    put_u32(out, *ms);
                }
            }
        },
    );
    put_list(out, &table, MAX_STRIPES * MAX_PARENTS, |out, member| {
        member.put(out);
    });
    out.extend_from_slice(&body);
}

fn read_routes(fields: &mut Fields<'_>) -> Result<Vec<StripeRoute>, WireError> {
    let table = read_members(fields, MAX_STRIPES * MAX_PARENTS)?;
    fields.list(MAX_STRIPES, "routes", |fields| {
        let stripe = fields.u32("stripe")?;
        let route = match fields.u8("route")? {
            ORIGIN => Route::Origin {
                lease: fields.u64("lease")?,
                expires_ms: fields.u32("expires")?,
            },
            PARENTS => Route::Parents(fields.list(MAX_PARENTS, "parents", |fields| {
                let place = fields.u16("parent")?;
                table
                    .get(usize::from(place))
                    .cloned()
                    .ok_or(WireError::OutOfBounds {
                        what: "parent",
                        value: u64::from(place),
                        min: 0,
                        max: table.len() as u64,
                    })
            })?),
            WAIT => Route::Wait {
                ms: fields.u32("wait")?,
            },
            value => {
                return Err(WireError::UnknownTag {
                    what: "route",
                    value,
                });
            }
        };
        Ok(StripeRoute { stripe, route })
    })
}
