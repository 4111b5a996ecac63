//! Several trackers share the blobs of one swarm, and stand in for each other; one that stops takes leave.

use futures::future::join;
use tempfile::TempDir;
use tokio::time::timeout;
use tranship_format::Digest;
use tranship_format::wire::{ErrorCode, LeaseState, Route, TrackerReply, TrackerRequest};
use tranship_source::fetch::Class;
use tranship_source::net::TrackerAddress;
use tranship_source::net::certificate::wire_peer;
use tranship_source::net::identity::Identity;
use tranship_swarm::shard;
use tranship_tracker::BlobStatus;
use tranship_tracker::config::{Check, SeedMode};

use crate::caller::Caller;
use crate::cluster::{PATIENCE, TestNode, TestTracker};
use crate::door::Door;
use crate::image::Image;
use crate::registry::Registry;
use crate::{all_read, tell};

const MIB: usize = 1 << 20;

/// Three trackers that know of each other.
struct Three {
    /// The one that answers for the image's blob first, its stand-in second.
    trackers: Vec<TestTracker>,
    /// All their peer ids.
    ids: Vec<String>,
}

impl Three {
    async fn start(mode: SeedMode, image: &Image) -> Self {
        let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let ids: Vec<String> = dirs
            .iter()
            .map(|dir| Identity::open(&dir.path().join("state")).unwrap())
            .map(|identity| identity.libp2p_peer().to_string())
            .collect();
        let mut trackers = Vec::new();
        for dir in dirs {
            trackers.push(begin(dir, Door::open().await, mode, &ids).await);
        }
        trackers.sort_by_key(|tracker| {
            let peer = wire_peer(tracker.address().peer).unwrap();
            std::cmp::Reverse(shard::rank(&image.digest, &peer))
        });
        Self { trackers, ids }
    }

    /// Nodes that all three have taken in.
    async fn members(&self, count: usize, image: &Image, registry: &Registry) -> Vec<TestNode> {
        let addresses: Vec<TrackerAddress> =
            self.trackers.iter().map(TestTracker::address).collect();
        let mut nodes = Vec::new();
        for _ in 0..count {
            let node = TestNode::start_at(addresses.clone(), image, registry).await;
            node.until("all trackers have it", |status| status.joined_count == 3)
                .await;
            nodes.push(node);
        }
        nodes
    }
}

async fn begin(dir: TempDir, door: Door, mode: SeedMode, ids: &[String]) -> TestTracker {
    let starting = TestTracker::start_in(dir, door, |config| {
        config.seed.mode = mode;
        config.trackers = ids.to_vec();
    });
    starting.await
}

/// What a tracker knows of the image's blob, once that is as it should be.
async fn until_known(tracker: &TestTracker, is: impl Fn(&BlobStatus) -> bool) -> BlobStatus {
    let known = async {
        loop {
            let status = tracker.status().await;
            if let Some(blob) = status.blobs.into_iter().find(|blob| is(blob)) {
                return blob;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, known).await.expect("the tracker to know")
}

async fn until_two_are_left(nodes: &[TestNode]) {
    for node in nodes {
        node.until("it has two left", |status| status.joined_count == 2)
            .await;
        assert!(node.net.status().joined);
    }
}

/// Each of them alone would read everything.
fn read_less_than_twice(registry: &Registry, image: &Image) {
    assert!(
        registry.sent_len() < 2 * image.covered_len(),
        "the registry sent {} bytes of {}",
        registry.sent_len(),
        image.covered_len()
    );
}

/// Four nodes read, and midway the tracker that answers for the blob goes, with a farewell or without.
async fn lose_the_tracker(says_farewell: bool) {
    let image = Image::random(32 * MIB, 30);
    let registry = Registry::start(&image).await;
    let mut three = Three::start(SeedMode::Off, &image).await;
    let nodes = three.members(4, &image, &registry).await;
    for told in &three.trackers[..2] {
        until_known(told, |blob| blob.member_count == 4).await;
    }
    let lost = three.trackers.remove(0);
    let half = image.covered_len() / 2;
    let reading = all_read(&nodes, &image, Class::Demand);
    let stopping = async {
        while nodes[0].counters().fetched_len() < half {
            tokio::task::yield_now().await;
        }
        let stand_in = three.trackers[0].status().await;
        assert_eq!(stand_in.lease_count, 0, "the stand-in is not asked yet");
        if says_farewell {
            lost.service.drain().await;
            until_two_are_left(&nodes).await;
        }
        lost.service.stop().await;
    };
    let (took, ()) = join(reading, stopping).await;
    let what = if says_farewell { "leaves" } else { "is lost" };
    let what = format!("one of three trackers {what}");
    tell(&what, &nodes, None, &image, &registry, &took);
    read_less_than_twice(&registry, &image);
    until_two_are_left(&nodes).await;
    // The one that was told of nothing before stands in now.
    let stripes = u64::from(image.table.count().div_ceil(64));
    until_known(&three.trackers[1], |blob| {
        blob.registration_count == 4 * stripes
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_tracker_of_a_blob_is_lost_midway_no_read_fails_and_its_stand_in_goes_on() {
    lose_the_tracker(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_tracker_of_a_blob_takes_leave_midway_all_turn_to_its_stand_in() {
    lose_the_tracker(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_that_comes_back_is_told_what_its_blobs_holders_have() {
    let image = Image::random(MIB, 31);
    let registry = Registry::start(&image).await;
    let mut three = Three::start(SeedMode::Off, &image).await;
    let nodes = three.members(2, &image, &registry).await;
    all_read(&nodes, &image, Class::Demand).await;
    let (door, _, dir) = three.trackers.remove(0).leave().await;
    until_two_are_left(&nodes).await;
    let back = begin(dir, door, SeedMode::Off, &three.ids).await;
    let blob = until_known(&back, |blob| blob.registration_count == 2).await;
    assert_eq!((blob.member_count, blob.complete_count), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seed_of_a_blobs_tracker_serves_nodes_whichever_tracker_signed_for_them() {
    let image = Image::random(8 * MIB, 32);
    let registry = Registry::start(&image).await;
    let three = Three::start(SeedMode::OnOpen, &image).await;
    let nodes = three.members(2, &image, &registry).await;
    for told in &three.trackers[..2] {
        until_known(told, |blob| blob.member_count == 3).await;
    }
    // A tracker that had a key waits at first for those who may have chunks, before the seed comes first.
    let settling = async {
        while three.trackers[0].status().await.uptime_seconds < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, settling)
        .await
        .expect("two seconds to pass");
    let took = all_read(&nodes, &image, Class::Demand).await;
    let seed = three.trackers[0].status().await.seed.unwrap();
    tell("three seeds", &nodes, Some(&seed), &image, &registry, &took);
    read_less_than_twice(&registry, &image);
    assert!(seed.counters.served.len > 0, "{seed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_that_takes_leave_lets_leases_end_and_begins_nothing() {
    let tracker = TestTracker::with(|config| {
        config.seed.mode = SeedMode::Off;
        config.rights.check = Check::Members;
    })
    .await;
    let blob = Digest::of(b"blob");
    let mut holder = Caller::member(&tracker).await;
    // It never reads, and nobody waits for it.
    let _deaf = Caller::member(&tracker).await;
    holder.open(blob, 64).await;
    let stripes = vec![0];
    let lookup = TrackerRequest::Lookup { blob, stripes };
    let routes = holder.call(&lookup).await;
    let TrackerReply::Routes { routes, .. } = routes else {
        panic!("no routes but {routes:?}");
    };
    let Route::Origin { lease, .. } = routes[0].route else {
        panic!("no lease but {routes:?}");
    };
    let progress = |done_len, state| TrackerRequest::Progress {
        lease,
        done_len,
        state,
    };
    let leaving = async {
        tracker.service.drain().await;
    };
    let reading = async {
        assert_eq!(holder.hear().await, (0, TrackerReply::Farewell));
        let goes_on = holder.call(&progress(1, LeaseState::Reading)).await;
        assert!(
            matches!(
                goes_on,
                TrackerReply::ProgressAck {
                    expires_ms: Some(_),
                    ..
                }
            ),
            "{goes_on:?}"
        );
        stopping(&holder.call(&lookup).await);
        stopping(&holder.open(blob, 64).await);
        stopping(&Caller::join(&tracker).await.1);
        assert_eq!(tracker.status().await.lease_count, 1);
        holder.call(&progress(9, LeaseState::Resting)).await;
    };
    join(leaving, reading).await;
    // One more word: the stream stands until the end.
    holder.call(&progress(9, LeaseState::Resting)).await;
    tracker.service.stop().await;
}

fn stopping(reply: &TrackerReply) {
    assert!(
        matches!(
            reply,
            TrackerReply::Error {
                code: ErrorCode::Stopping,
                ..
            }
        ),
        "{reply:?}"
    );
}
