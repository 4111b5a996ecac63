//! What the driver does when the machine says so.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{ChunkId, Class, PeerId, PeerMessage, TrackerRequest};
use tranship_swarm::node::{Action, Input, RegistryFailure};

use super::driver::Driver;
use super::links::purpose;
use super::stream::Outgoing;
use super::transport::Purpose;

impl Driver {
    pub(super) fn act(&mut self, action: Action) {
        tracing::trace!(now = ?self.now(), ?action, "does");
        match action {
            Action::OpenBlobs { blobs } => self.open_blobs(&blobs),
            Action::Lookup { blob, stripes } => {
                if !self.sessions.lookup(blob, stripes.clone()) {
                    self.handle(Input::LookupFailed { blob, stripes });
                }
            }
            Action::Progress {
                lease,
                done_len,
                state,
            } => {
                self.sessions.progress(lease, done_len, state);
            }
            Action::Announce { blob, runs } => {
                self.sessions.announce(blob, runs);
            }
            Action::Report { fault, peer, chunk } => {
                tracing::warn!(%peer, ?fault, blob = %chunk.blob, chunk = chunk.number, "a peer is at fault");
                self.sessions
                    .report(&TrackerRequest::Report { fault, peer, chunk });
            }
            Action::SendWant { to, request, want } => {
                let message = PeerMessage::Want { request, want };
                let grants = self.images.grants(&want.chunk.blob);
                self.links
                    .send_to(&to, purpose(want.class), encode(&message), grants);
            }
            Action::Introduce { to, blob } => {
                // The grants are all that there is to say.
                let grants = self.images.grants(&blob);
                let nothing = Outgoing::default();
                self.links.send_to(&to, Purpose::Demand, nothing, grants);
            }
            Action::SendCancel { peer, request } => {
                self.say(&peer, &PeerMessage::Cancel { request });
            }
            Action::Disconnect { peer } => {
                self.links.disconnect(&peer);
                self.handle(Input::PeerGone { peer });
            }
            Action::ReadRegistry {
                read,
                blob,
                chunks,
                class: _,
            } => self.read_origin(read, blob, chunks),
            Action::Complete { chunk, from: _ } => {
                let bytes = self.bytes_at_hand(&chunk).cloned();
                self.waiters.complete(&chunk, bytes.as_ref());
            }
            Action::Fail { chunk, why } => {
                self.jobs.counters.failures.increment();
                let blob = self.images.blob(&chunk.blob);
                let failure = blob.map_or("", |blob| blob.failure.as_str());
                self.waiters.fail(&chunk, why, failure);
            }
            Action::SendData {
                peer,
                request,
                chunk,
                class,
            } => self.serve(peer, request, chunk, class),
            Action::SendWait {
                peer,
                request,
                idle,
                hops,
            } => {
                self.say(
                    &peer,
                    &PeerMessage::Wait {
                        request,
                        idle_ms: millis(idle),
                        hops,
                    },
                );
            }
            Action::SendBusy {
                peer,
                request,
                retry,
                alternatives,
            } => {
                let alternatives = alternatives.into_iter().map(Arc::unwrap_or_clone).collect();
                let retry_ms = millis(retry);
                self.say(
                    &peer,
                    &PeerMessage::Busy {
                        request,
                        retry_ms,
                        alternatives,
                    },
                );
            }
            Action::SendMiss { peer, request } => self.say(&peer, &PeerMessage::Miss { request }),
        }
    }

    /// Small words go on the demand stream, where nothing long stands before them.
    fn say(&mut self, peer: &PeerId, message: &PeerMessage) {
        self.links.send(peer, Purpose::Demand, encode(message));
    }

    fn read_origin(&mut self, read: u64, blob: Digest, chunks: Range<u32>) {
        let Some(open) = self.images.blob(&blob) else {
            let failure = Some(RegistryFailure {
                retry_after: None,
                permanent: true,
            });
            self.handle(Input::RegistryEnd { read, failure });
            return;
        };
        let origin = Arc::clone(&open.origin);
        self.jobs
            .read_origin(read, open.store.clone(), chunks, origin);
    }

    fn serve(&mut self, peer: PeerId, request: u32, chunk: ChunkId, class: Class) {
        let Some(outbox) = self.links.outbox(&peer, purpose(class)) else {
            self.handle(Input::SendFailed { peer, request });
            return;
        };
        let at_hand = self.bytes_at_hand(&chunk).cloned();
        let blob = self.images.blob(&chunk.blob).map(|blob| blob.store.clone());
        self.server
            .serve((peer, request), chunk, at_hand, blob, outbox);
    }

    fn bytes_at_hand(&self, chunk: &ChunkId) -> Option<&bytes::Bytes> {
        let (at_hand, bytes) = self.at_hand.as_ref()?;
        (at_hand == chunk).then_some(bytes)
    }

    /// Shows counters and standing to those outside.
    pub(super) fn publish(&self) {
        let (ours, theirs) = (&self.jobs.counters, self.node.counters());
        ours.requests.set(theirs.requests);
        ours.hedges.set(theirs.hedges);
        ours.origin_overrides.set(theirs.origin_overrides);
        ours.busy.set(theirs.busy_received);
        ours.misses.set(theirs.misses_received);
        let joined = self.sessions.joined().count() as u64;
        let counts = [
            self.links.count(),
            self.images.count(),
            self.waiters.count(),
        ];
        let [peers, blobs, waiting] = counts.map(|count| count as u64);
        self.status.send_if_modified(|status| {
            let before = status.clone();
            status.joined = joined > 0;
            status.joined_count = joined;
            status.peer_count = peers;
            status.blob_count = blobs;
            status.waiting_count = waiting;
            *status != before
        });
    }
}

fn encode(message: &PeerMessage) -> Outgoing {
    let mut outgoing = Outgoing::default();
    message.encode(&mut outgoing.head);
    outgoing
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
