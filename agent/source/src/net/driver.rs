//! The one task that drives a node's decisions.
//!
//! It owns the machine, tells it what happens and does what it says. It never
//! waits for anything but the next event: whatever takes time is a task that ends
//! in an event. So no lock guards the decisions, and their order is that of the
//! events.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tranship_format::wire::ChunkId;
use tranship_swarm::node::{Input, Node};

use super::NetStatus;
use super::event::Event;
use super::grants::KeptGrants;
use super::images::Images;
use super::links::Links;
use super::serve::Server;
use super::session::Told;
use super::sessions::Sessions;
use super::waiters::Waiters;
use crate::fetch::{Jobs, Wanted};

/// Events taken before the machine is asked what to do: what many readers want
/// at once is then asked for together.
const BATCH: usize = 64;
/// Farewells are given so long to leave.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long the driver may sleep when the machine has no plans.
const LONG: Duration = Duration::from_hours(1);

/// What reaches the driver.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) wanted: mpsc::Receiver<Wanted>,
    pub(crate) dropped: mpsc::UnboundedReceiver<ChunkId>,
}

/// Decisions and what carries them out.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) node: Node,
    pub(crate) started: Instant,
    pub(crate) links: Links,
    pub(crate) sessions: Sessions,
    pub(crate) images: Images,
    pub(crate) kept_grants: KeptGrants,
    pub(crate) waiters: Waiters,
    pub(crate) jobs: Jobs,
    pub(crate) server: Arc<Server>,
    pub(crate) status: watch::Sender<NetStatus>,
    /// The chunk that the event in hand brought: given on from memory.
    pub(crate) at_hand: Option<(ChunkId, Bytes)>,
}

impl Driver {
    /// Runs until told to stop, then says good-bye.
    pub(crate) async fn run(mut self, mut inbox: Inbox, stop: CancellationToken) {
        loop {
            let wake_at = self.wake_at();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(event) = inbox.events.recv() => self.event(event),
                Some(wanted) = inbox.wanted.recv() => self.wanted(wanted),
                // After the wishes: a reader that came before another went keeps the chunk wanted.
                Some(chunk) = inbox.dropped.recv() => self.dropped(chunk),
                () = tokio::time::sleep_until(wake_at) => {}
            }
            for _ in 0..BATCH {
                if let Ok(event) = inbox.events.try_recv() {
                    self.event(event);
                } else if let Ok(wanted) = inbox.wanted.try_recv() {
                    self.wanted(wanted);
                } else {
                    break;
                }
            }
            for _ in 0..BATCH {
                match inbox.dropped.try_recv() {
                    Ok(chunk) => self.dropped(chunk),
                    Err(_) => break,
                }
            }
            let load = self.node.load_permille();
            let goodputs = || self.node.take_goodputs();
            let told = self.sessions.tick(self.started.elapsed(), load, goodputs);
            self.told(told);
            self.renew_grants();
            self.act_all();
            self.publish();
        }
        // A tracker that does not take the good-bye finds out by itself.
        let written = futures::future::join_all(self.sessions.leave());
        let _ = tokio::time::timeout(FAREWELL, written).await;
    }

    fn wake_at(&self) -> Instant {
        let machine = self.node.wake_at().map(|at| self.started + at);
        let sessions = self.sessions.wake_at(self.started);
        let wakes = [machine, sessions, self.images.renew_at()];
        let soonest = wakes.into_iter().flatten().min();
        soonest.unwrap_or_else(|| Instant::now() + LONG)
    }

    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn handle(&mut self, input: Input) {
        let now = self.now();
        tracing::trace!(?now, ?input, "hears");
        self.node.handle(now, input);
    }

    pub(super) fn told(&mut self, told: Vec<Told>) {
        for told in told {
            match told {
                Told::Machine(input) => self.handle(input),
                Told::Opened(opened) => self.opened(opened),
            }
        }
    }

    pub(super) fn act_all(&mut self) {
        while let Some(action) = self.node.poll(self.now()) {
            self.act(action);
        }
    }

    fn wanted(&mut self, wanted: Wanted) {
        let Wanted {
            chunk,
            class,
            absent,
            reply,
        } = wanted;
        let Some(blob) = self.images.blob(&chunk.blob) else {
            let error = crate::fetch::FetchError::NotOpen { blob: chunk.blob };
            let _ = reply.send(Err(error));
            return;
        };
        let index = blob.store.table().index(chunk.number);
        if !absent && index.is_some_and(|index| blob.store.has(index)) {
            let _ = reply.send(Ok(None));
            return;
        }
        self.waiters.add(chunk, reply);
        // The store is the truth: the machine may believe that the chunk is here.
        self.handle(Input::Evicted { chunk });
        self.handle(Input::Wanted {
            chunk,
            class,
            give_up_at: None,
        });
    }

    fn dropped(&mut self, chunk: ChunkId) {
        if self.waiters.prune(&chunk) {
            self.handle(Input::Unwanted { chunk });
        }
    }
}
