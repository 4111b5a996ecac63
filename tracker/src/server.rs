//! Drives the tracker's decisions: one task that owns the machine.
//!
//! Each node's stream has a task that only reads; what it reads comes here in
//! order, and answers go straight into the streams' queues. Joining is checked
//! here, because keys and tokens are none of the machine's business.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tranship_format::Digest;
use tranship_format::wire::tracker::Join;
use tranship_format::wire::{
    BlobInfo, ErrorCode, ImageSource, Member, PeerId, Role, TrackerReply, TrackerRequest,
};
use tranship_source::net::certificate::libp2p_peer;
use tranship_source::net::{Replies, TrackerStream};
use tranship_swarm::tracker::{Action, Input, Tracker, TrackerOptions};

use crate::join::Gate;
use crate::rights::{Puller, Rights};
use crate::seed::Seed;

mod bans;
mod drain;
mod opening;
mod question;
mod stream;
mod view;

pub(crate) use bans::Bans;
pub(crate) use drain::Drain;
use opening::Docket;
pub(crate) use question::Question;
use stream::Heard;

/// What may wait for the server; readers of streams wait beyond it.
const HEARD: usize = 4096;
/// Answers of registries that may wait for the server.
const JUDGED: usize = 256;
/// A member whose stream ended has so long to come back before its children get
/// other parents. Longer than a reconnect, shorter than their patience.
const COME_BACK: Duration = Duration::from_secs(2);
/// Images remembered for the status page.
const MAX_IMAGES: usize = 4096;
/// Blobs of one of them that are remembered: more layers than any image has.
const MAX_IMAGE_BLOBS: usize = 1024;
/// How long the server may sleep when the machine has no plans.
const LONG: Duration = Duration::from_hours(1);

/// What the server is made of.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) tracker: Tracker,
    pub(crate) options: TrackerOptions,
    pub(crate) gate: Gate,
    pub(crate) rights: Rights,
    pub(crate) puller: Arc<Puller>,
    pub(crate) bans: Bans,
    pub(crate) seed: Option<(Member, Arc<Seed>)>,
    pub(crate) started: Instant,
    pub(crate) tasks: TaskTracker,
    sessions: BTreeMap<PeerId, Session>,
    /// Those of them whose stream ended, by when each is taken for good.
    gone: BTreeSet<(Instant, PeerId)>,
    images: BTreeMap<Digest, SeenImage>,
    request_count: u64,
    refused_join_count: u64,
    granted_count: u64,
    ungranted_count: u64,
    last_case: u64,
    drain: Drain,
    is_draining: bool,
    /// Where answers of registries are sent, and where they come out.
    judge: mpsc::Sender<opening::Ruling>,
    judged: mpsc::Receiver<opening::Ruling>,
}

/// A member's stream, or what is left of it.
#[derive(Debug)]
struct Session {
    replies: Replies,
    /// When a stream that ended is taken for good.
    gone_at: Option<Instant>,
    docket: Docket,
}

/// An image that somebody opened since the start.
#[derive(Debug)]
struct SeenImage {
    source: ImageSource,
    open_count: u64,
    blobs: BTreeMap<Digest, BlobInfo>,
}

impl Server {
    pub(crate) fn new(
        tracker: Tracker,
        options: TrackerOptions,
        gate: Gate,
        (rights, puller): (Rights, Puller),
        bans: Bans,
        seed: Option<(Member, Arc<Seed>)>,
        tasks: TaskTracker,
    ) -> Self {
        let (judge, judged) = mpsc::channel(JUDGED);
        Self {
            tracker,
            options,
            gate,
            rights,
            puller: Arc::new(puller),
            bans,
            seed,
            started: Instant::now(),
            tasks,
            sessions: BTreeMap::new(),
            gone: BTreeSet::new(),
            images: BTreeMap::new(),
            request_count: 0,
            refused_join_count: 0,
            granted_count: 0,
            ungranted_count: 0,
            last_case: 0,
            drain: Drain::default(),
            is_draining: false,
            judge,
            judged,
        }
    }

    /// Whoever has this can have the server take leave.
    pub(crate) fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// Serves until told to stop.
    pub(crate) async fn run(
        mut self,
        mut streams: mpsc::Receiver<TrackerStream>,
        mut asked: mpsc::Receiver<Question>,
        stop: CancellationToken,
    ) {
        let (hear, mut heard) = mpsc::channel(HEARD);
        let drain = self.drain.begin.clone();
        loop {
            let wake_at = self.wake_at();
            tokio::select! {
                () = stop.cancelled() => return,
                () = drain.cancelled(), if !self.is_draining => self.begin_drain(),
                Some(stream) = streams.recv() => {
                    let listening = stream::listen(stream, hear.clone(), stop.clone());
                    self.tasks.spawn(listening);
                }
                Some(heard) = heard.recv() => self.heard(heard),
                Some(ruling) = self.judged.recv() => self.judged(ruling),
                Some(question) = asked.recv() => self.asked(question),
                () = tokio::time::sleep_until(wake_at) => self.bury(),
            }
            self.act_all();
            self.look_whether_drained();
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn wake_at(&self) -> Instant {
        let machine = self.tracker.wake_at().map(|at| self.started + at);
        let gone = self.gone.first().map(|&(at, _)| at);
        let soonest = machine.into_iter().chain(gone).min();
        soonest.unwrap_or_else(|| Instant::now() + LONG)
    }

    /// Gives up those who did not come back.
    fn bury(&mut self) {
        let now = Instant::now();
        while let Some(&(at, peer)) = self.gone.first()
            && at <= now
        {
            self.gone.pop_first();
            let session = self.sessions.get(&peer);
            if session.is_some_and(|session| session.gone_at == Some(at)) {
                self.sessions.remove(&peer);
                self.tracker.handle(self.now(), Input::Gone { peer });
            }
        }
    }

    fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Request {
                from,
                request,
                message,
                replies,
            } => {
                self.request_count += 1;
                self.request(from, request, message, &replies);
            }
            Heard::Ended { from, replies } => {
                if let Some(session) = self.sessions.get_mut(&from)
                    && session.replies.same_as(&replies)
                {
                    let at = Instant::now() + COME_BACK;
                    session.gone_at = Some(at);
                    self.gone.insert((at, from));
                }
            }
        }
    }

    fn request(&mut self, from: PeerId, request: u32, message: TrackerRequest, replies: &Replies) {
        if let Some(refusal) = self.refusal(&message) {
            // A node that does not read its answer comes again.
            replies.send(request, &refusal);
            return;
        }
        match message {
            TrackerRequest::Join(join) => {
                let reply = match self.join(from, &join, replies) {
                    Ok(joined) => joined,
                    Err(refused) => {
                        self.refused_join_count += 1;
                        refused
                    }
                };
                // A node that does not read its answer comes again.
                replies.send(request, &reply);
            }
            message => {
                let joined = self.sessions.get(&from);
                if !joined.is_some_and(|session| session.replies.same_as(replies)) {
                    let refused = error(ErrorCode::NotAMember, "join first");
                    replies.send(request, &refused);
                    return;
                }
                if let TrackerRequest::Open(open) = message {
                    return self.open(from, request, *open);
                }
                if let TrackerRequest::Prove(prove) = message {
                    return self.prove(from, request, *prove);
                }
                let Some(message) = self.park(from, request, message) else {
                    return;
                };
                let input = Input::Request {
                    from,
                    request,
                    message,
                };
                self.tracker.handle(self.now(), input);
            }
        }
    }

    fn join(
        &mut self,
        from: PeerId,
        join: &Join,
        replies: &Replies,
    ) -> Result<TrackerReply, TrackerReply> {
        if self.tracker.is_banned(&from) {
            return Err(error(ErrorCode::Banned, "banned"));
        }
        let ours = self.seed.as_ref().map(|(seed, _)| seed.peer);
        if join.member.role == Role::Seed && ours != Some(from) {
            return Err(error(
                ErrorCode::NotAdmitted,
                "the seed is the tracker's own",
            ));
        }
        let (version, certificate) = self
            .gate
            .admit(join, &from)
            .map_err(|refusal| error(refusal.code, refusal.text))?;
        let input = Input::Joined {
            member: join.member.clone(),
            boot_id: join.boot_id,
        };
        self.tracker.handle(self.now(), input);
        let session = Session {
            replies: replies.clone(),
            gone_at: None,
            docket: Docket::default(),
        };
        self.sessions.insert(from, session);
        let heartbeat_ms = u32::try_from(self.options.heartbeat.as_millis()).unwrap_or(u32::MAX);
        Ok(TrackerReply::Joined {
            version,
            certificate: Box::new(certificate),
            epoch: self.tracker.epoch(),
            heartbeat_ms,
            seed: self
                .seed
                .as_ref()
                .map(|(member, _)| Box::new(member.clone())),
        })
    }

    fn remember(&mut self, image: &ImageSource, blobs: &[BlobInfo]) {
        if self.images.len() >= MAX_IMAGES && !self.images.contains_key(&image.manifest) {
            return;
        }
        let seen = self.images.entry(image.manifest);
        let seen = seen.or_insert_with(|| SeenImage {
            source: image.clone(),
            open_count: 0,
            blobs: BTreeMap::new(),
        });
        seen.open_count += 1;
        for blob in blobs {
            if seen.blobs.len() < MAX_IMAGE_BLOBS {
                seen.blobs.insert(blob.digest, *blob);
            }
        }
    }

    fn act_all(&mut self) {
        while let Some(action) = self.tracker.poll(self.now()) {
            match action {
                Action::Reply { to, request, reply } => {
                    if let Some(session) = self.sessions.get(&to) {
                        // A node that does not read is found by its heartbeats.
                        session.replies.send(request, &reply);
                    }
                }
                Action::Opened { image, blobs: _ } => {
                    if let Some((_, seed)) = &self.seed {
                        let (seed, tasks) = (Arc::clone(seed), &self.tasks);
                        tasks.spawn(async move { Box::pin(seed.open(image)).await });
                    }
                }
                Action::Shunned { peer } => {
                    tracing::warn!(peer = %name(&peer), "a peer is shunned: two others had wrong chunks of it; look at its memory and its disk");
                }
                Action::Banned { peer } => {
                    tracing::warn!(peer = %name(&peer), "a peer is banned");
                    // Dropping the session ends its stream.
                    self.sessions.remove(&peer);
                    self.bans.add(&peer);
                }
            }
        }
    }
}

/// A peer as people know it.
fn name(peer: &PeerId) -> String {
    libp2p_peer(peer).map_or_else(|| peer.to_string(), |peer| peer.to_string())
}

fn error(code: ErrorCode, text: &str) -> TrackerReply {
    TrackerReply::Error {
        code,
        text: text.to_owned(),
    }
}
