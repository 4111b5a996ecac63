//! Proofs that the tracker lends of layers without a chunk table.

use futures::future::join_all;
use tempfile::TempDir;
use tokio::time::timeout;
use tranship_format::wire::ImageSource;
use tranship_format::{ChunkTable, Digest};
use tranship_source::fetch::{Class, RegistryOrigin};
use tranship_source::net::lent::LentError;
use tranship_source::{RegistryClient, RegistryOptions};
use tranship_tracker::Config;
use tranship_tracker::config::{Check, SeedMode};

use crate::MIB;
use crate::cluster::{PATIENCE, TestNode, TestTracker, login, newcomer};
use crate::image::Image;
use crate::registry::{PASSWORD, REPOSITORY, Registry, docker_config};

fn source(image: &Image, registry: &Registry) -> ImageSource {
    ImageSource {
        registry: registry.host().to_owned(),
        repository: REPOSITORY.to_owned(),
        manifest: image.manifest.digest(),
    }
}

/// What a node reads the registry with, or, without the password, in vain.
fn origin(registry: &Registry, password: Option<&str>) -> RegistryOrigin {
    let client = RegistryClient::new(RegistryOptions {
        credentials: login(registry, password),
        ..RegistryOptions::default()
    });
    let repo = format!("{}/{REPOSITORY}", registry.host());
    RegistryOrigin::new(client.unwrap(), repo.parse().unwrap())
}

/// A member that has nothing open asks for the proof of the image's layer.
async fn ask(
    tracker: &TestTracker,
    source: &ImageSource,
    image: &Image,
    origin: &RegistryOrigin,
) -> Result<ChunkTable, LentError> {
    let (net, _dir) = newcomer(tracker).await;
    let len = image.blob.len() as u64;
    net.lent_proof(source, origin, image.digest, len).await
}

/// What somebody is told who gets no proof.
fn refusal(lent: Result<ChunkTable, LentError>) -> String {
    match lent {
        Err(LentError::Refused { code, text }) => format!("{code:?}: {text}"),
        other => panic!("no refusal: {other:?}"),
    }
}

/// A tracker whose seed may pull from a private registry.
async fn tracker_of(registry: &Registry, set: impl FnOnce(&mut Config)) -> (TestTracker, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, docker_config(registry)).unwrap();
    let tracker = TestTracker::with(|config| {
        config.registry.docker_config = path;
        set(config);
    });
    (tracker.await, dir)
}

fn foreign(seed: u64) -> Image {
    Image::random(8 * MIB, seed).without_table()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_for_a_proof_cost_the_registry_one_read_and_the_seed_then_has_the_blob() {
    let image = foreign(11);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::OnOpen).await;
    let newcomers = join_all((0..4).map(|_| newcomer(&tracker))).await;
    let (source, len) = (source(&image, &registry), image.blob.len() as u64);
    let origin = origin(&registry, None);
    let asking = newcomers
        .iter()
        .map(|(net, _)| net.lent_proof(&source, &origin, image.digest, len));
    for lent in join_all(asking).await {
        assert_eq!(lent.unwrap(), image.table);
    }
    assert_eq!(registry.sent_len(), len, "one read for all");
    let node = TestNode::member(&tracker, &image, &registry).await;
    tracker.until_seeding(1).await;
    node.read_all(&image, Class::Demand).await;
    assert_eq!(registry.sent_len(), len, "chunks come from the seed");
    let seed = tracker.status().await.seed.unwrap();
    assert_eq!(seed.proof_count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_outlives_the_tracker() {
    let image = foreign(12);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::OnOpen).await;
    let (source, len) = (source(&image, &registry), image.blob.len() as u64);
    let (net, _dir) = newcomer(&tracker).await;
    let first = net
        .lent_proof(&source, &origin(&registry, None), image.digest, len)
        .await
        .unwrap();
    net.stop().await;
    let (door, _, dir) = tracker.leave().await;
    let tracker = TestTracker::again_with(door, dir, SeedMode::OnOpen).await;
    let (net, _dir) = newcomer(&tracker).await;
    let again = net
        .lent_proof(&source, &origin(&registry, None), image.digest, len)
        .await
        .unwrap();
    assert_eq!(again, first);
    assert_eq!(registry.sent_len(), len, "the blob was not read again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_not_what_the_manifest_says_is_not_proven() {
    let mut image = foreign(13);
    let mut bytes = image.blob.to_vec();
    bytes[5 * MIB] ^= 1;
    image.blob = bytes.into();
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::OnOpen).await;
    let (net, _dir) = newcomer(&tracker).await;
    let (source, len) = (source(&image, &registry), image.blob.len() as u64);
    let lent = net
        .lent_proof(&source, &origin(&registry, None), image.digest, len)
        .await;
    assert!(matches!(lent, Err(LentError::Refused { .. })), "{lent:?}");
    // Nor is it read again for the next one who asks.
    let requests = registry.request_count();
    let lent = net
        .lent_proof(&source, &origin(&registry, None), image.digest, len)
        .await;
    assert!(matches!(lent, Err(LentError::Refused { .. })), "{lent:?}");
    assert_eq!(registry.request_count(), requests);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_layer_of_the_image_without_a_table_is_proven() {
    let image = foreign(14);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::OnOpen).await;
    let (net, _dir) = newcomer(&tracker).await;
    let (source, len) = (source(&image, &registry), image.blob.len() as u64);
    let stranger = net
        .lent_proof(&source, &origin(&registry, None), Digest::of(b"{}"), 2)
        .await;
    assert!(matches!(stranger, Err(LentError::Refused { .. })));
    let too_short = net
        .lent_proof(&source, &origin(&registry, None), image.digest, len - 1)
        .await;
    assert!(matches!(too_short, Err(LentError::Refused { .. })));
    assert_eq!(registry.request_count(), 0, "no blob was read for that");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_seed_nothing_is_proven() {
    let image = foreign(15);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::Off).await;
    let source = source(&image, &registry);
    refusal(ask(&tracker, &source, &image, &origin(&registry, None)).await);
    assert_eq!(registry.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_lent_to_those_who_may_pull_and_to_others_the_image_is_not_there() {
    let image = foreign(16);
    let registry = Registry::start_private(&image).await;
    let (tracker, _config) = tracker_of(&registry, |_| {}).await;
    let here = source(&image, &registry);
    let nowhere = ImageSource {
        manifest: Digest::of(b"no such manifest"),
        ..here.clone()
    };
    let (reader, stranger) = (origin(&registry, Some(PASSWORD)), origin(&registry, None));
    let absent = refusal(ask(&tracker, &nowhere, &image, &reader).await);
    // Nobody has a proof yet: a stranger does not make the seed read.
    let refused = refusal(ask(&tracker, &here, &image, &stranger).await);
    assert_eq!(refused, absent);
    assert_eq!(
        registry.request_count(),
        0,
        "no blob was read for a stranger"
    );

    let lent = ask(&tracker, &here, &image, &reader).await;
    assert_eq!(lent.unwrap(), image.table);
    // There is one: still not for a stranger.
    let refused = refusal(ask(&tracker, &here, &image, &stranger).await);
    assert_eq!(refused, absent);
    assert_eq!(registry.sent_len(), image.blob.len() as u64);
    // The tracker asked with tokens of the nodes, never with a password.
    let shown = registry.shown();
    assert!(shown.iter().all(|shown| shown.starts_with("token-")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_holds_brings_the_proof_while_the_registry_says_nothing() {
    let image = foreign(17);
    let registry = Registry::start_private(&image).await;
    let (tracker, _config) = tracker_of(&registry, |_| {}).await;
    let here = source(&image, &registry);
    let reader = origin(&registry, Some(PASSWORD));
    let lent = ask(&tracker, &here, &image, &reader).await;
    assert_eq!(lent.unwrap(), image.table);
    let granted = tracker.status().await.granted_count;
    let node = TestNode::member_with(Some(PASSWORD), &tracker, &image, &registry).await;
    node.chunk(0, Class::Demand).await.unwrap();
    // The chunk may be here before the grant: nobody waits for the tracker who can read the registry.
    let is_granted = async {
        while tracker.status().await.granted_count == granted {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, is_granted).await.expect("a grant");
    registry.go_down();
    let (nobody, len) = (origin(&registry, None), image.blob.len() as u64);
    // That the tracker gave it does not mean that the node has heard of it.
    let asked = async {
        loop {
            let asked = node.net.lent_proof(&here, &nobody, image.digest, len).await;
            if !matches!(asked, Err(LentError::Refused { .. })) {
                return asked;
            }
        }
    };
    let asked = timeout(PATIENCE, asked).await.expect("a proof");
    assert_eq!(asked.unwrap(), image.table);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_in_a_registry_of_ones_own_opens_no_proof_of_anothers_blob() {
    let image = foreign(18);
    let registry = Registry::start_private(&image).await;
    let (tracker, _config) = tracker_of(&registry, |_| {}).await;
    let reader = origin(&registry, Some(PASSWORD));
    let lent = ask(&tracker, &source(&image, &registry), &image, &reader).await;
    assert_eq!(lent.unwrap(), image.table);
    // It serves the manifest that names the blob, to anybody, and has no such blob.
    let without_blob = Image {
        digest: Digest::of(b"another blob"),
        ..image.clone()
    };
    let own = Registry::start(&without_blob).await;
    refusal(ask(&tracker, &source(&image, &own), &image, &origin(&own, None)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seed_reads_for_a_proof_no_registry_but_those_that_the_settings_allow() {
    let image = foreign(19);
    let registry = Registry::start(&image).await;
    for check in [Check::Registry, Check::Members] {
        let tracker = TestTracker::with(|config| {
            config.rights.check = check;
            config.registry.allow = vec!["registry.example".to_owned()];
        });
        let tracker = tracker.await;
        let here = source(&image, &registry);
        refusal(ask(&tracker, &here, &image, &origin(&registry, None)).await);
    }
    assert_eq!(registry.request_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_that_reads_by_order_alone_makes_no_proof_for_others() {
    let image = foreign(20);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::OnRequest).await;
    let here = source(&image, &registry);
    refusal(ask(&tracker, &here, &image, &origin(&registry, None)).await);
    assert_eq!(registry.request_count(), 0);
}
