//! This node's side of its conversation with one tracker, as `sessions` holds it.
//!
//! It numbers requests and remembers what each answer is for, so that the node's
//! machine hears of answers in its own words. The stream itself is kept by the
//! task in `session/keep.rs`, which begins again whenever it ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use tranship_format::Digest;
use tranship_format::wire::{
    BlobInfo, Certificate, ErrorCode, Goodput, Grant, ImageSource, Member, Open, PeerId, Prove,
    PullProof, TrackerReply, TrackerRequest,
};
use tranship_swarm::node::Input;

use super::certificate::unix_seconds;
use super::lent::Proved;
use super::stream::{Outbox, Outgoing};
use crate::counters::Counters;

mod keep;

pub(crate) use keep::{Applicant, keep};

/// Heartbeats without an answer after which the stream is given up.
const MAX_SILENCE: u32 = 3;
/// A certificate is renewed when one part in so many of its life is left.
const RENEW_SHARE: u64 = 3;
/// Answers that may be outstanding: beyond it the oldest is forgotten, since a
/// tracker that owes so many will not answer in time for it to matter.
const PENDING: usize = 4096;

/// What the session's task tells the driver.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    /// The tracker took us in.
    Up(Box<Joined>),
    /// An answer, or routes unasked.
    Reply { request: u32, reply: TrackerReply },
    /// The stream ended.
    Down,
}

/// A stream on which we are a member; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Joined {
    outbox: Outbox,
    _stop: DropGuard,
    certificate: Certificate,
    epoch: u64,
    heartbeat: Duration,
    seed: Option<Member>,
}

/// What follows from what the tracker says.
#[derive(Debug)]
pub(crate) enum Told {
    /// For the machine.
    Machine(Input),
    /// OPENED.
    Opened(Opened),
}

impl From<Input> for Told {
    fn from(input: Input) -> Self {
        Self::Machine(input)
    }
}

/// What the tracker says of an image that was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The image.
    pub(crate) manifest: Digest,
    /// Its blobs that were opened.
    pub(crate) blobs: Vec<Digest>,
    /// Members that use it.
    pub(crate) members: Vec<Arc<Member>>,
    /// Our right to it, if it is good.
    pub(crate) grant: Option<Box<Grant>>,
}

/// What an answer will be for.
#[derive(Debug)]
enum Asked {
    Join,
    Open {
        manifest: Digest,
        blobs: Vec<Digest>,
    },
    Lookup {
        blob: Digest,
        stripes: Vec<u32>,
    },
    Progress {
        lease: u64,
    },
    Heartbeat,
    Prove {
        reply: oneshot::Sender<Proved>,
    },
    Nothing,
}

#[derive(Debug)]
struct Current {
    joined: Box<Joined>,
    heartbeat_at: Instant,
    renew_at: Instant,
    silence: u32,
    /// The tracker said farewell: it hears of leases that it gave, and is asked nothing more.
    is_leaving: bool,
}

/// The conversation, while there is one.
#[derive(Debug)]
pub(crate) struct Session {
    applicant: Applicant,
    certificate: watch::Sender<Option<Certificate>>,
    current: Option<Current>,
    asked: BTreeMap<u32, Asked>,
    last_request: u32,
    counters: Arc<Counters>,
}

impl Session {
    pub(crate) fn new(
        applicant: Applicant,
        certificate: watch::Sender<Option<Certificate>>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            applicant,
            certificate,
            current: None,
            asked: BTreeMap::new(),
            last_request: 0,
            counters,
        }
    }

    /// Whether the tracker has us and answers.
    pub(crate) fn is_joined(&self) -> bool {
        let current = self.current.as_ref();
        current.is_some_and(|current| !current.is_leaving)
    }

    /// Whether a peer is the tracker's seed.
    pub(crate) fn is_seed(&self, peer: &PeerId) -> bool {
        let seed = self
            .current
            .as_ref()
            .and_then(|now| now.joined.seed.as_ref());
        seed.is_some_and(|seed| seed.peer == *peer)
    }

    /// Takes in what the session's task tells; gives what the machine must hear.
    pub(crate) fn handle(&mut self, event: SessionEvent) -> Vec<Told> {
        match event {
            SessionEvent::Up(joined) => {
                self.counters.tracker_connects.increment();
                self.asked.clear();
                let now = Instant::now();
                let up = Input::TrackerUp {
                    epoch: joined.epoch,
                    seed: joined.seed.clone(),
                };
                self.certificate
                    .send_replace(Some(joined.certificate.clone()));
                self.current = Some(Current {
                    heartbeat_at: now + joined.heartbeat,
                    renew_at: renewal(&joined.certificate, now),
                    silence: 0,
                    is_leaving: false,
                    joined,
                });
                vec![up.into()]
            }
            SessionEvent::Reply { request, reply } => self.reply(request, reply),
            SessionEvent::Down => self.end(),
        }
    }

    /// Ends the conversation on our side; the task begins a new one.
    fn end(&mut self) -> Vec<Told> {
        self.asked.clear();
        match self.current.take() {
            Some(current) if !current.is_leaving => vec![Input::TrackerDown.into()],
            Some(_) | None => Vec::new(),
        }
    }

    /// FAREWELL: another tracker is asked from now on. The stream stays as long as the tracker lets it, so that leases
    /// which it gave can be read to their end.
    fn farewell(&mut self) -> Vec<Told> {
        match &mut self.current {
            Some(current) if !current.is_leaving => {
                tracing::info!(tracker = %self.applicant.tracker, "the tracker says farewell");
                current.is_leaving = true;
                vec![Input::TrackerDown.into()]
            }
            Some(_) | None => Vec::new(),
        }
    }

    fn reply(&mut self, request: u32, reply: TrackerReply) -> Vec<Told> {
        let asked = self.asked.remove(&request);
        match (reply, asked) {
            (TrackerReply::Routes { blob, routes }, _) => {
                vec![Input::Routes { blob, routes }.into()]
            }
            (TrackerReply::Opened { grant, members }, Some(Asked::Open { manifest, blobs })) => {
                let grant = grant.filter(|grant| self.believes(grant, &manifest));
                vec![Told::Opened(Opened {
                    manifest,
                    blobs,
                    members,
                    grant,
                })]
            }
            (TrackerReply::ProgressAck { lease, expires_ms }, _) => vec![
                Input::ProgressAck {
                    lease,
                    expires_in: expires_ms.map(|ms| Duration::from_millis(ms.into())),
                }
                .into(),
            ],
            (TrackerReply::HeartbeatAck { epoch, bans }, _) => self.heard(epoch, bans),
            (
                TrackerReply::Joined {
                    certificate, epoch, ..
                },
                Some(Asked::Join),
            ) => {
                if let Some(current) = &mut self.current {
                    current.renew_at = renewal(&certificate, Instant::now());
                    self.certificate.send_replace(Some(*certificate));
                }
                self.heard(epoch, Vec::new())
            }
            (TrackerReply::Proof(state), Some(Asked::Prove { reply })) => {
                // Who asked may have gone.
                let _ = reply.send(Ok(state));
                Vec::new()
            }
            (TrackerReply::Farewell, _) => self.farewell(),
            (TrackerReply::Error { code, text }, asked) => self.refused(code, text, asked),
            (
                TrackerReply::Ack
                | TrackerReply::Opened { .. }
                | TrackerReply::Joined { .. }
                | TrackerReply::Proof(_),
                _,
            ) => Vec::new(),
        }
    }

    fn heard(&mut self, epoch: u64, bans: Vec<PeerId>) -> Vec<Told> {
        let mut inputs = Vec::new();
        if let Some(current) = &mut self.current {
            current.silence = 0;
            if current.joined.epoch != epoch && !current.is_leaving {
                current.joined.epoch = epoch;
                let seed = current.joined.seed.clone();
                inputs.push(Input::TrackerUp { epoch, seed }.into());
            }
        }
        if !bans.is_empty() {
            inputs.push(Input::Bans { peers: bans }.into());
        }
        inputs
    }

    fn refused(&mut self, code: ErrorCode, text: String, asked: Option<Asked>) -> Vec<Told> {
        tracing::debug!(?code, text, "the tracker refuses a request");
        if matches!(code, ErrorCode::NotAMember | ErrorCode::Banned) {
            return self.end();
        }
        match asked {
            Some(Asked::Lookup { blob, stripes }) => {
                vec![Input::LookupFailed { blob, stripes }.into()]
            }
            Some(Asked::Progress { lease }) => vec![
                Input::ProgressAck {
                    lease,
                    expires_in: None,
                }
                .into(),
            ],
            Some(Asked::Prove { reply }) => {
                // Who asked may have gone.
                let _ = reply.send(Err((code, text)));
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// A grant for another, or for another image, would be of no use.
    fn believes(&self, grant: &Grant, manifest: &Digest) -> bool {
        let applicant = &self.applicant;
        let checked =
            applicant
                .authority
                .check_grant(grant, &applicant.member.peer, unix_seconds());
        if let Err(error) = &checked {
            tracing::warn!(%error, "the tracker's grant is not believed; do the clocks differ?");
        }
        checked.is_ok() && grant.manifest == *manifest
    }

    /// PROVE; without anybody to ask, `reply` is dropped.
    pub(crate) fn prove(&mut self, prove: Box<Prove>, reply: oneshot::Sender<Proved>) {
        self.ask(Asked::Prove { reply }, &TrackerRequest::Prove(prove));
    }

    /// OPEN.
    pub(crate) fn open(
        &mut self,
        image: ImageSource,
        grant: Option<Grant>,
        proof: PullProof,
        blobs: Vec<BlobInfo>,
    ) {
        let asked = Asked::Open {
            manifest: image.manifest,
            blobs: blobs.iter().map(|blob| blob.digest).collect(),
        };
        let open = Open {
            image,
            grant,
            proof,
            blobs,
        };
        self.ask(asked, &TrackerRequest::Open(Box::new(open)));
    }

    /// LOOKUP; `false` when there is nobody to ask.
    pub(crate) fn lookup(&mut self, blob: Digest, stripes: Vec<u32>) -> bool {
        let asked = Asked::Lookup {
            blob,
            stripes: stripes.clone(),
        };
        self.ask(asked, &TrackerRequest::Lookup { blob, stripes })
    }

    /// PROGRESS, ANNOUNCE or REPORT.
    pub(crate) fn tell(&mut self, request: &TrackerRequest) {
        let asked = match request {
            TrackerRequest::Progress { lease, .. } => Asked::Progress { lease: *lease },
            _ => Asked::Nothing,
        };
        self.ask(asked, request);
    }

    /// When [`Session::tick`] is due.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let current = self.current.as_ref()?;
        if current.is_leaving {
            return Some(current.heartbeat_at);
        }
        Some(current.heartbeat_at.min(current.renew_at))
    }

    /// Whether the tracker is to hear that we are still here.
    pub(crate) fn is_beat_due(&self) -> bool {
        let current = self.current.as_ref();
        current.is_some_and(|current| current.heartbeat_at <= Instant::now())
    }

    /// Renews our certificate, when due, and says that we are still here, when there are `goodputs` to tell.
    pub(crate) fn tick(&mut self, load_permille: u16, goodputs: Option<&[Goodput]>) -> Vec<Told> {
        let now = Instant::now();
        let Some(current) = &mut self.current else {
            return Vec::new();
        };
        if current.renew_at <= now && !current.is_leaving {
            // Asked again after as long if no answer comes.
            current.renew_at = now + current.joined.heartbeat;
            let join = self.applicant.request(false);
            self.ask(Asked::Join, &join);
        }
        let Some(current) = &mut self.current else {
            return Vec::new();
        };
        let Some(goodputs) = goodputs else {
            return Vec::new();
        };
        current.heartbeat_at = now + current.joined.heartbeat;
        current.silence = current.silence.saturating_add(1);
        if current.silence > MAX_SILENCE {
            tracing::info!("the tracker is silent: its stream is given up");
            return self.end();
        }
        let heartbeat = TrackerRequest::Heartbeat {
            load_permille,
            epoch: current.joined.epoch,
            goodputs: goodputs.to_vec(),
        };
        self.ask(Asked::Heartbeat, &heartbeat);
        Vec::new()
    }

    /// LEAVE; the receiver hears when it has been written.
    pub(crate) fn leave(&mut self) -> Option<oneshot::Receiver<()>> {
        let current = self.current.as_ref()?;
        let (written, done) = oneshot::channel();
        let mut outgoing = Outgoing {
            written: Some(written),
            ..Outgoing::default()
        };
        TrackerRequest::Leave.encode(self.last_request.wrapping_add(1).max(1), &mut outgoing.head);
        current.joined.outbox.send(outgoing).then_some(done)
    }

    fn ask(&mut self, asked: Asked, request: &TrackerRequest) -> bool {
        let Some(current) = &self.current else {
            return false;
        };
        // 0 is for what nobody asked.
        self.last_request = self.last_request.wrapping_add(1).max(1);
        let mut outgoing = Outgoing::default();
        request.encode(self.last_request, &mut outgoing.head);
        if !current.joined.outbox.send(outgoing) {
            return false;
        }
        self.counters.tracker_requests.increment();
        self.asked.insert(self.last_request, asked);
        if self.asked.len() > PENDING {
            self.asked.pop_first();
        }
        true
    }
}

fn renewal(certificate: &Certificate, now: Instant) -> Instant {
    let left = certificate.expires_at.saturating_sub(unix_seconds());
    now + Duration::from_secs(left.saturating_sub(left / RENEW_SHARE).max(1))
}
