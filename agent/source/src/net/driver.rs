//! The one task that drives a node's decisions.
//!
//! It owns the machine, tells it what happens and does what it says. It never
//! waits for anything but the next event: whatever takes time is a task that ends
//! in an event. So no lock guards the decisions, and their order is that of the
//! events.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tranship_format::wire::{ChunkId, PeerId, PeerMessage};
use tranship_swarm::node::{Input, Node};

use super::NetStatus;
use super::OpenImage;
use super::event::{Cause, Event};
use super::images::Images;
use super::links::Links;
use super::serve::Server;
use super::session::Session;
use super::waiters::Waiters;
use crate::counters::Source;
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
    pub(crate) session: Session,
    pub(crate) images: Images,
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
            let inputs = self.session.tick(load, || self.node.take_goodputs());
            self.handle_all(inputs);
            self.act_all();
            self.publish();
        }
        if let Some(written) = self.session.leave() {
            // A tracker that does not take the good-bye finds out by itself.
            let _ = tokio::time::timeout(FAREWELL, written).await;
        }
    }

    fn wake_at(&self) -> Instant {
        let machine = self.node.wake_at().map(|at| self.started + at);
        let wakes = [machine, self.session.wake_at()];
        let soonest = wakes.into_iter().flatten().min();
        soonest.unwrap_or_else(|| Instant::now() + LONG)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn handle(&mut self, input: Input) {
        let now = self.now();
        self.node.handle(now, input);
    }

    fn handle_all(&mut self, inputs: Vec<Input>) {
        for input in inputs {
            self.handle(input);
        }
    }

    fn act_all(&mut self) {
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

    fn event(&mut self, event: Event) {
        match event {
            Event::Open { image, done } => self.open(*image, done),
            Event::Close { manifest } => {
                for blob in self.images.close(&manifest) {
                    self.handle(Input::CloseBlob { blob });
                }
            }
            Event::LinkUp { peer, link } => {
                // A banned peer's link is dropped here, which ends it.
                if !self.node.is_banned(self.now(), &peer) {
                    self.links.up(peer, link);
                }
            }
            Event::LinkDown { peer, id } => {
                if self.links.down(&peer, id) {
                    self.handle(Input::PeerGone { peer });
                }
            }
            Event::Unreachable { peer } => {
                if self.links.unreachable(&peer) {
                    self.handle(Input::PeerGone { peer });
                }
            }
            Event::Message {
                peer,
                message,
                room,
            } => self.message(peer, message, room),
            Event::Session(event) => {
                let inputs = self.session.handle(event);
                self.handle_all(inputs);
            }
            Event::Taken {
                cause,
                chunk,
                taken,
            } => {
                let arrival = taken.arrival;
                self.at_hand = taken.bytes.map(|bytes| (chunk, bytes));
                self.handle(match cause {
                    Cause::Peer { peer, request } => Input::Data {
                        peer,
                        request,
                        arrival,
                    },
                    Cause::Origin { read } => Input::RegistryChunk {
                        read,
                        number: chunk.number,
                        arrival,
                    },
                });
                // What was passed on and not kept exists only now.
                self.act_all();
                self.at_hand = None;
            }
            Event::OriginProgress { read, len } => {
                self.handle(Input::RegistryProgress { read, len });
            }
            Event::OriginEnd {
                read,
                blob,
                failure,
            } => {
                let failure = failure.map(|failed| {
                    if let Some(blob) = self.images.blob_mut(&blob) {
                        blob.failure = failed.text;
                    }
                    failed.failure
                });
                self.handle(Input::RegistryEnd { read, failure });
            }
            Event::Served {
                peer,
                request,
                done: true,
            } => self.handle(Input::Sent { peer, request }),
            Event::Served {
                peer,
                request,
                done: false,
            } => {
                self.handle(Input::SendFailed { peer, request });
            }
        }
    }

    fn open(&mut self, image: OpenImage, done: oneshot::Sender<()>) {
        for digest in self.images.open(image) {
            let Some(blob) = self.images.blob(&digest) else {
                continue;
            };
            let input = Input::OpenBlob {
                blob: digest,
                chunk_lens: blob.chunk_lens(),
                present: blob.store.present(),
            };
            self.handle(input);
        }
        // The composer may have gone on without waiting.
        let _ = done.send(());
    }

    fn message(
        &mut self,
        peer: PeerId,
        message: PeerMessage,
        room: Option<tokio::sync::OwnedSemaphorePermit>,
    ) {
        let millis = |ms: u32| Duration::from_millis(ms.into());
        match message {
            PeerMessage::Want { request, want } => self.handle(Input::Want {
                peer,
                request,
                want,
            }),
            PeerMessage::Data { request, bytes } => self.look_at(peer, request, bytes, room),
            PeerMessage::Wait { request, idle_ms } => {
                self.jobs.counters.waits.increment();
                self.handle(Input::Wait {
                    peer,
                    request,
                    idle: millis(idle_ms),
                });
            }
            PeerMessage::Busy {
                request,
                retry_ms,
                alternatives,
            } => {
                self.handle(Input::Busy {
                    peer,
                    request,
                    retry: millis(retry_ms),
                    alternatives,
                });
            }
            PeerMessage::Miss { request } => self.handle(Input::Miss { peer, request }),
            PeerMessage::Cancel { request } => self.handle(Input::Cancel { peer, request }),
            PeerMessage::GoAway => self.handle(Input::GoAway { peer }),
            // The carrier takes these for what they are here, a fault, and ends the stream.
            PeerMessage::Hello(_) | PeerMessage::HelloAck(_) => {}
        }
    }

    fn look_at(
        &mut self,
        peer: PeerId,
        request: u32,
        bytes: Bytes,
        room: Option<tokio::sync::OwnedSemaphorePermit>,
    ) {
        // What nobody asked for is dropped unread.
        let Some(chunk) = self.node.requested(&peer, request) else {
            return;
        };
        let Some(blob) = self.images.blob(&chunk.blob) else {
            return;
        };
        let source = if self.session.is_seed(&peer) {
            Source::Seed
        } else {
            Source::Peer
        };
        let (jobs, store) = (self.jobs.clone(), blob.store.clone());
        self.jobs.tasks.spawn(async move {
            let taken = jobs.take_in(store, chunk.number, bytes, source).await;
            drop(room);
            let cause = Cause::Peer { peer, request };
            jobs.report(Event::Taken {
                cause,
                chunk,
                taken,
            })
            .await;
        });
    }
}
