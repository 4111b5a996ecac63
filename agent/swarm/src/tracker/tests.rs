//! The tracker, one decision at a time: the bench that the tests of its parts stand on.

use tranship_format::wire::{
    BlobInfo, ChunkId, Fault, Goodput, Grant, ImageSource, LeaseState, Role, Route, StripeRoute,
    StripeRun, StripeState,
};

use super::*;

mod bounds;
mod leases;
mod members;
mod rights;
mod search;
mod trees;

/// A right without an end.
const FOR_EVER: Duration = Duration::MAX;
const START: Duration = Duration::from_secs(100);

fn ms(ms: u64) -> Duration {
    START + Duration::from_millis(ms)
}

fn peer(name: u8) -> PeerId {
    PeerId::from_bytes(&[name]).unwrap()
}

fn blob() -> Digest {
    Digest::of(b"blob")
}

fn chunk() -> ChunkId {
    ChunkId {
        blob: blob(),
        number: 0,
    }
}

fn member(name: u8, zone: &str, role: Role) -> Member {
    Member {
        peer: peer(name),
        addresses: Vec::new(),
        zone: zone.to_owned(),
        rack: String::new(),
        role,
    }
}

/// A tracker with agents 1 to `count` in one zone, who have all opened the blob of four stripes.
fn swarm(count: u8) -> Tracker {
    let mut tracker = Tracker::new(TrackerOptions::default(), 1, []);
    for name in 1..=count {
        join(&mut tracker, member(name, "a", Role::Agent));
    }
    tracker
}

fn join(tracker: &mut Tracker, member: Member) {
    let from = member.peer;
    tracker.handle(
        START,
        Input::Joined {
            member,
            boot_id: [0; 16],
        },
    );
    open(tracker, START, from, (blob(), 256), Some(FOR_EVER));
}

/// A peer opens a blob of so many chunks, with the right to it until then, and is answered.
fn open(
    tracker: &mut Tracker,
    now: Duration,
    from: PeerId,
    (digest, chunk_count): (Digest, u32),
    until: Option<Duration>,
) -> TrackerReply {
    open_at(tracker, "registry", now, from, (digest, chunk_count), until)
}

/// The same at another registry.
fn open_at(
    tracker: &mut Tracker,
    registry: &str,
    now: Duration,
    from: PeerId,
    (digest, chunk_count): (Digest, u32),
    until: Option<Duration>,
) -> TrackerReply {
    let image = ImageSource {
        registry: registry.to_owned(),
        repository: "image".to_owned(),
        manifest: Digest::of(b"manifest"),
    };
    let grant = Grant {
        peer: from,
        registry: registry.to_owned(),
        manifest: image.manifest,
        blobs: vec![digest],
        issued_at: 0,
        expires_at: 0,
        tracker: peer(99),
        signature: Vec::new(),
    };
    let input = Input::Open {
        from,
        request: 1,
        image,
        blobs: vec![BlobInfo {
            digest,
            len: 1 << 26,
            chunk_count,
        }],
        rights: until.map(|until| Box::new(Rights { grant, until })),
    };
    tracker.handle(now, input);
    let mut replies = replies(tracker, now);
    let place = replies.iter().position(|(to, _)| *to == from);
    replies.swap_remove(place.unwrap()).1
}

/// Handles a request and gives all replies that follow from it, to whomever.
fn tell(
    tracker: &mut Tracker,
    now: Duration,
    from: PeerId,
    message: TrackerRequest,
) -> Vec<(PeerId, TrackerReply)> {
    tracker.handle(
        now,
        Input::Request {
            from,
            request: 1,
            message,
        },
    );
    replies(tracker, now)
}

fn replies(tracker: &mut Tracker, now: Duration) -> Vec<(PeerId, TrackerReply)> {
    let mut replies = Vec::new();
    while let Some(action) = tracker.poll(now) {
        if let Action::Reply { to, reply, .. } = action {
            replies.push((to, reply));
        }
    }
    replies
}

/// The route of stripe 0 for a member, which must be told to it.
fn lookup(tracker: &mut Tracker, now: Duration, name: u8) -> Route {
    let request = TrackerRequest::Lookup {
        blob: blob(),
        stripes: vec![0],
    };
    route_told(&tell(tracker, now, peer(name), request), name)
}

fn route_told(replies: &[(PeerId, TrackerReply)], name: u8) -> Route {
    let told = replies.iter().rev().find_map(|(to, reply)| match reply {
        TrackerReply::Routes { routes, .. } if *to == peer(name) => Some(routes[0].route.clone()),
        _ => None,
    });
    told.unwrap()
}

fn lease(route: &Route) -> u64 {
    let Route::Origin { lease, .. } = route else {
        panic!("no lease but {route:?}")
    };
    *lease
}

fn parents(route: &Route) -> Vec<u8> {
    let Route::Parents(parents) = route else {
        panic!("no parents but {route:?}")
    };
    parents
        .iter()
        .map(|parent| parent.peer.as_bytes()[0])
        .collect()
}

fn announce(tracker: &mut Tracker, now: Duration, name: u8, state: StripeState) {
    let runs = vec![StripeRun { state, count: 1 }];
    tell(
        tracker,
        now,
        peer(name),
        TrackerRequest::Announce { blob: blob(), runs },
    );
}

fn progress(
    tracker: &mut Tracker,
    now: Duration,
    name: u8,
    lease: u64,
    done_len: u64,
    state: LeaseState,
) -> Vec<(PeerId, TrackerReply)> {
    tell(
        tracker,
        now,
        peer(name),
        TrackerRequest::Progress {
            lease,
            done_len,
            state,
        },
    )
}
