//! Private images: shared by those whom the registry lets pull, and by nobody else.

use std::time::Duration;

use tokio::time::timeout;
use tranship_source::fetch::Class;
use tranship_tracker::Status;
use tranship_tracker::config::SeedMode;

use crate::MIB;
use crate::cluster::{PATIENCE, TestNode, TestTracker, login};
use crate::image::Image;
use crate::registry::{PASSWORD, Registry};

/// Waits until the tracker's status is as wanted.
async fn until(tracker: &TestTracker, what: &str, is: impl Fn(&Status) -> bool) {
    let waiting = async {
        while !is(&tracker.status().await) {
            tokio::task::yield_now().await;
        }
    };
    let waited = timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}

fn members(status: &Status) -> u64 {
    status.blobs.first().map_or(0, |blob| blob.member_count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_is_given_to_those_who_may_pull_it_and_hidden_from_those_who_may_not() {
    let image = Image::random(4 * MIB, 20);
    let registry = Registry::start_private(&image).await;
    let tracker = TestTracker::start(SeedMode::Off).await;
    let first = TestNode::member_with(Some(PASSWORD), &tracker, &image, &registry).await;
    until(&tracker, "the first has the image", |status| {
        members(status) == 1
    })
    .await;
    first.read_all(&image, Class::Demand).await;

    let second = TestNode::member_with(Some(PASSWORD), &tracker, &image, &registry).await;
    until(&tracker, "the second has the image", |status| {
        members(status) == 2
    })
    .await;
    second.read_all(&image, Class::Demand).await;
    assert_eq!(second.counters().peer.len, image.covered_len());

    // A member, who knows manifest, blob and chunk table, and has no password.
    let third = TestNode::member_with(None, &tracker, &image, &registry).await;
    let before = tracker.status().await.ungranted_count;
    until(&tracker, "the third was refused", |status| {
        status.ungranted_count > before.max(1) - 1
    })
    .await;
    assert!(third.chunk(0, Class::Demand).await.is_err());
    let counters = third.counters();
    assert_eq!((counters.peer.count, counters.seed.count), (0, 0));
    assert_eq!(third.net.status().peer_count, 0, "it met nobody");
    let status = tracker.status().await;
    assert_eq!((members(&status), status.members.len()), (2, 3));
    assert_eq!(
        first.counters().served.len + second.counters().served.len,
        image.covered_len(),
        "the third was served nothing"
    );
    // The tracker asked with tokens of the nodes, never with the password.
    assert!(
        registry
            .shown()
            .iter()
            .all(|shown| shown.starts_with("token-"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_grant_lasts_peers_give_what_the_registry_no_longer_would() {
    let image = Image::random(4 * MIB, 21);
    let registry = Registry::start_private(&image).await;
    let tracker = TestTracker::start(SeedMode::Off).await;
    let first = TestNode::member_with(Some(PASSWORD), &tracker, &image, &registry).await;
    let second = TestNode::member_with(Some(PASSWORD), &tracker, &image, &registry).await;
    until(&tracker, "both have the image", |status| {
        members(status) == 2
    })
    .await;
    first.read_all(&image, Class::Demand).await;
    registry.shut();
    let (sent, half) = (registry.sent_len(), image.table.count() / 2);
    for number in 0..half {
        second.chunk(number, Class::Demand).await.unwrap();
    }
    registry.go_down();
    let (door, _, dir) = tracker.leave().await;
    second
        .until("the tracker is gone", |status| !status.joined)
        .await;
    // Without tracker and registry it goes on, and with a tracker that knows nothing yet as well.
    second.chunk(half, Class::Demand).await.unwrap();
    let again = TestTracker::again(door, dir).await;
    second
        .until("the tracker is back", |status| status.joined)
        .await;
    until(&again, "both have the image again", |status| {
        members(status) == 2
    })
    .await;
    for number in half..image.table.count() {
        second.chunk(number, Class::Demand).await.unwrap();
    }
    assert_eq!(registry.sent_len(), sent);
    assert_eq!(second.counters().peer.len, image.covered_len());
    assert_eq!(second.counters().registry.count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_grant_is_renewed_while_the_registry_allows_it_and_then_ends() {
    let image = Image::random(4 * MIB, 22);
    let registry = Registry::start_private(&image).await;
    let tracker = TestTracker::with_grants_of(Duration::from_secs(4)).await;
    let first = TestNode::member_with(Some(PASSWORD), &tracker, &image, &registry).await;
    let second = TestNode::member_with(Some(PASSWORD), &tracker, &image, &registry).await;
    until(&tracker, "both have the image", |status| {
        members(status) == 2
    })
    .await;
    first.read_all(&image, Class::Demand).await;
    let granted = tracker.status().await.granted_count;
    until(&tracker, "grants were renewed", |status| {
        status.granted_count >= granted + 4
    })
    .await;
    second.chunk(0, Class::Demand).await.unwrap();
    assert_eq!(second.counters().peer.count, 1);
    registry.shut();
    until(&tracker, "the last grant is over", |status| {
        members(status) == 0
    })
    .await;
    assert!(second.chunk(1, Class::Demand).await.is_err());
    assert_eq!(second.counters().peer.count, 1, "nothing came of it");
    let again = first.chunk(1, Class::Demand).await;
    assert!(again.is_ok(), "what is here stays here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_outlives_its_node_and_serves_when_the_registry_lets_nobody_in_any_more() {
    let image = Image::random(4 * MIB, 23);
    let registry = Registry::start_private(&image).await;
    let tracker = TestTracker::start(SeedMode::Off).await;
    let first = TestNode::member_with(Some(PASSWORD), &tracker, &image, &registry).await;
    let second = TestNode::member_with(Some(PASSWORD), &tracker, &image, &registry).await;
    until(&tracker, "both have the image", |status| {
        members(status) == 2
    })
    .await;
    first.read_all(&image, Class::Demand).await;
    second.chunk(0, Class::Demand).await.unwrap();
    let sent = registry.sent_len();
    registry.shut();
    // Its credentials are good for nothing now, and all that it has besides them is the grant.
    let login = login(&registry, Some(PASSWORD));
    let second = second.restart(login, &tracker, &image, &registry).await;
    second.until("it has joined", |status| status.joined).await;
    until(&tracker, "both have the image again", |status| {
        members(status) == 2
    })
    .await;
    second.read_all(&image, Class::Demand).await;
    assert_eq!(registry.sent_len(), sent);
    let counters = second.counters();
    assert_eq!(counters.registry.count, 0);
    assert_eq!(
        counters.peer.count + counters.store.count,
        u64::from(image.table.count())
    );
}
