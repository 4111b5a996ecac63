//! OPEN and PROVE: judged here, because registries are none of the machine's business.
//!
//! While a registry is asked, what the same node says of the image's blobs waits: it sends its questions
//! right behind OPEN, and the answer to all of them hangs on the judgement.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{
    BlobInfo, ErrorCode, Grant, ImageSource, Open, PeerId, Prove, PullProof, TrackerRequest,
};
use tranship_source::net::certificate::unix_seconds;
use tranship_swarm::tracker::{Input, Rights};

use super::{Server, error};
use crate::rights::{Answer, Judgement, Plea};
use crate::seed::unproven;

/// Images of one node that may be asked about at once.
const MAX_JUDGING: usize = 256;
/// What may wait for that.
const MAX_PARKED: usize = 1024;

/// What a node waits for, and what waits with it.
#[derive(Debug, Default)]
pub(super) struct Docket {
    judging: BTreeMap<u64, Case>,
    parked: Vec<(u32, TrackerRequest)>,
}

/// An OPEN or PROVE whose registry is being asked.
#[derive(Debug)]
struct Case {
    request: u32,
    image: ImageSource,
    wanted: Wanted,
    held: Option<Grant>,
}

#[derive(Debug)]
enum Wanted {
    /// These blobs.
    Blobs(Vec<BlobInfo>),
    /// The proof of a blob of so many bytes.
    Proof(Digest, u64),
}

/// A registry's answer for a case.
#[derive(Debug)]
pub(super) struct Ruling {
    from: PeerId,
    case: u64,
    answer: Answer,
}

impl Server {
    /// Takes an OPEN of a member in.
    pub(super) fn open(&mut self, from: PeerId, request: u32, open: Open) {
        let is_seed = self
            .seed
            .as_ref()
            .is_some_and(|(seed, _)| seed.peer == from);
        let judged = self.rights.judge(&Plea::from(&open), &from, is_seed);
        let Open {
            image,
            proof,
            blobs,
            ..
        } = open;
        match judged {
            Judgement::Granted(grant) => self.opened(from, request, image, blobs, Some(grant)),
            Judgement::Ask { held } => {
                let case = Case {
                    request,
                    image,
                    wanted: Wanted::Blobs(blobs),
                    held,
                };
                self.ask_registry(from, case, proof);
            }
        }
    }

    /// Takes a PROVE of a member in. A proof tells what is in a blob, and costs the registry a read of it: so it is
    /// lent to those alone who may have the blob.
    pub(super) fn prove(&mut self, from: PeerId, request: u32, prove: Prove) {
        let judged = self.rights.judge(&Plea::from(&prove), &from, false);
        let Prove {
            image,
            proof,
            blob,
            len,
            ..
        } = prove;
        match judged {
            Judgement::Granted(grant) => {
                self.lend(from, request, image, (blob, len), Some(&grant));
            }
            Judgement::Ask { held } => {
                let case = Case {
                    request,
                    image,
                    wanted: Wanted::Proof(blob, len),
                    held,
                };
                self.ask_registry(from, case, proof);
            }
        }
    }

    fn ask_registry(&mut self, from: PeerId, case: Case, proof: PullProof) {
        let Some(session) = self.sessions.get_mut(&from) else {
            return;
        };
        if session.docket.judging.len() >= MAX_JUDGING {
            let refused = error(ErrorCode::Overloaded, "too many images at once");
            session.replies.send(case.request, &refused);
            return;
        }
        self.last_case += 1;
        let (number, image) = (self.last_case, case.image.clone());
        session.docket.judging.insert(number, case);
        let (puller, judge) = (Arc::clone(&self.puller), self.judge.clone());
        self.tasks.spawn(async move {
            let answer = puller.ask(&image, &proof).await;
            let ruling = Ruling {
                from,
                case: number,
                answer,
            };
            // A server that has stopped does not mind.
            let _ = judge.send(ruling).await;
        });
    }

    /// A registry answered: the node is, and what waited is heard.
    pub(super) fn judged(&mut self, ruling: Ruling) {
        let Ruling { from, case, answer } = ruling;
        let Some(session) = self.sessions.get_mut(&from) else {
            return;
        };
        // Of a stream that has ended.
        let Some(case) = session.docket.judging.remove(&case) else {
            return;
        };
        let parked = std::mem::take(&mut session.docket.parked);
        let replies = session.replies.clone();
        let grant = self.rights.conclude(answer, &case.image, &from, case.held);
        match case.wanted {
            Wanted::Blobs(blobs) => self.opened(from, case.request, case.image, blobs, grant),
            Wanted::Proof(blob, len) => {
                self.lend(from, case.request, case.image, (blob, len), grant.as_ref());
            }
        }
        for (request, message) in parked {
            self.request(from, request, message, &replies);
        }
    }

    /// Has the seed answer, which may have to look at its disk. Whoever may not have the blob hears what is said of one that
    /// cannot be proven.
    fn lend(
        &self,
        from: PeerId,
        request: u32,
        image: ImageSource,
        (blob, len): (Digest, u64),
        grant: Option<&Grant>,
    ) {
        let Some(session) = self.sessions.get(&from) else {
            return;
        };
        let may_have = grant.is_some_and(|grant| grant.blobs.contains(&blob));
        let Some((_, seed)) = self.seed.as_ref().filter(|_| may_have) else {
            session.replies.send(request, &unproven());
            return;
        };
        let (seed, replies) = (Arc::clone(seed), session.replies.clone());
        self.tasks.spawn(async move {
            let reply = seed.prove(image, blob, len).await;
            // A node that has gone does without.
            replies.send(request, &reply);
        });
    }

    fn opened(
        &mut self,
        from: PeerId,
        request: u32,
        image: ImageSource,
        blobs: Vec<BlobInfo>,
        grant: Option<Grant>,
    ) {
        if grant.is_some() {
            self.granted_count += 1;
            self.remember(&image, &blobs);
        } else {
            self.ungranted_count += 1;
        }
        let now = self.now();
        let rights = grant.map(|grant| {
            let left = Duration::from_secs(grant.expires_at.saturating_sub(unix_seconds()));
            let until = now.saturating_add(left);
            Box::new(Rights { grant, until })
        });
        let input = Input::Open {
            from,
            request,
            image,
            blobs,
            rights,
        };
        self.tracker.handle(now, input);
    }

    /// Keeps a message until what it is about is judged; gives it back if nothing is to be waited for.
    pub(super) fn park(
        &mut self,
        from: PeerId,
        request: u32,
        message: TrackerRequest,
    ) -> Option<TrackerRequest> {
        let now = self.now();
        let (TrackerRequest::Lookup { blob, .. } | TrackerRequest::Announce { blob, .. }) =
            &message
        else {
            return Some(message);
        };
        let blob = *blob;
        let Some(session) = self.sessions.get_mut(&from) else {
            return Some(message);
        };
        let is_of = |case: &Case| match &case.wanted {
            Wanted::Blobs(blobs) => blobs.iter().any(|info| info.digest == blob),
            Wanted::Proof(..) => false,
        };
        let docket = &mut session.docket;
        if !docket.judging.values().any(is_of) || self.tracker.has_open(now, &from, &blob) {
            return Some(message);
        }
        if docket.parked.len() < MAX_PARKED {
            docket.parked.push((request, message));
        } else {
            let refused = error(ErrorCode::Overloaded, "too much at once");
            session.replies.send(request, &refused);
        }
        None
    }
}
