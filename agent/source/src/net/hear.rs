//! What the driver tells the machine when something happened.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tranship_format::Digest;
use tranship_format::wire::{PeerId, PeerMessage};
use tranship_swarm::node::Input;

use super::OpenImage;
use super::driver::Driver;
use super::event::{Cause, Event};
use crate::counters::Source;

impl Driver {
    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Open { image, done } => self.open(*image, done),
            Event::Close { manifest } => {
                let (unused, left) = self.images.close(&manifest);
                for &blob in &unused {
                    self.handle(Input::CloseBlob { blob });
                }
                // The trackers hear that nothing is here any more before it is forgotten which they are.
                self.act_all();
                for blob in &unused {
                    self.sessions.drop_blob(blob);
                }
                for blob in left {
                    self.open_at_machine(blob);
                }
            }
            Event::Prove { prove, reply } => self.prove(prove, reply),
            Event::LinkUp { member, link } => {
                // A banned peer's link is dropped here, which ends it.
                if !self.node.is_banned(self.now(), &member.peer) {
                    self.links.up(member.peer, link);
                    self.handle(Input::PeerUp { member });
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
            Event::Session { tracker, event } => {
                let told = self.sessions.handle(self.now(), tracker, event);
                self.told(told);
            }
            Event::Granted { peer, grant } => self.granted(peer, *grant),
            Event::PullProof { manifest, proof } => self.pull_proof_came(&manifest, proof),
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
            Event::Refilled { blob } => self.open_at_machine(blob),
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
        let manifest = image.manifest;
        let opened = self.images.open(image);
        let is_new = |digest: &Digest| !self.node.is_open(digest);
        let new: Vec<Digest> = opened.iter().copied().filter(is_new).collect();
        let has_any = !opened.is_empty();
        let kept_until = self.use_kept_grant(&manifest);
        for digest in opened {
            self.open_at_machine(digest);
        }
        if kept_until.is_some() {
            // Who else has them only the tracker knows.
            self.tell_members(&new, &[], kept_until);
        }
        // With a new blob the machine says when the tracker is told.
        if has_any && new.is_empty() {
            self.open_image(&manifest, None);
        }
        // The composer may have gone on without waiting.
        let _ = done.send(());
    }

    /// Tells the machine what of a blob is here.
    fn open_at_machine(&mut self, digest: Digest) {
        // It may be closed by now.
        if let Some(blob) = self.images.blob(&digest) {
            let input = Input::OpenBlob {
                blob: digest,
                registries: self.images.registries(blob),
                chunk_lens: blob.chunk_lens(),
                present: blob.store.present(),
            };
            self.sessions.use_blob(self.now(), digest);
            self.handle(input);
        }
    }

    fn message(&mut self, peer: PeerId, message: PeerMessage, room: Option<OwnedSemaphorePermit>) {
        let millis = |ms: u32| Duration::from_millis(ms.into());
        match message {
            PeerMessage::Want { request, want } => self.handle(Input::Want {
                peer,
                request,
                want,
            }),
            PeerMessage::Data { request, bytes } => self.look_at(peer, request, bytes, room),
            PeerMessage::Wait {
                request,
                idle_ms,
                hops,
            } => {
                self.jobs.counters.waits.increment();
                self.handle(Input::Wait {
                    peer,
                    request,
                    idle: millis(idle_ms),
                    hops,
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
            // The carrier takes greetings for what they are here, a fault, and checks grants itself.
            PeerMessage::Hello(_) | PeerMessage::HelloAck(_) | PeerMessage::Grant(_) => {}
        }
    }

    fn look_at(
        &mut self,
        peer: PeerId,
        request: u32,
        bytes: Bytes,
        room: Option<OwnedSemaphorePermit>,
    ) {
        // What nobody asked for is dropped unread.
        let Some(chunk) = self.node.requested(&peer, request) else {
            return;
        };
        let Some(blob) = self.images.blob(&chunk.blob) else {
            return;
        };
        let source = if self.sessions.is_seed(&peer) {
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
