//! The HTTP API as programs and the operator use it.

use tokio::time::timeout;
use tranship_source::Trace;
use tranship_source::fetch::Class;
use tranship_tracker::client::{Client, ClientError};
use tranship_tracker::config::SeedMode;
use tranship_tracker::message::{ErrorReply, SeedJob, SeedRequest, SeedState};

use crate::cluster::{PATIENCE, TestNode, TestTracker, get, head_of};
use crate::image::Image;
use crate::registry::{REPOSITORY, Registry};

const MIB: usize = 1 << 20;

fn reference(image: &Image, registry: &Registry) -> SeedRequest {
    let manifest = image.manifest.digest();
    SeedRequest {
        reference: format!("{}/{REPOSITORY}@{manifest}", registry.host()),
        trace: None,
    }
}

/// The trace of a start that reads these chunks.
fn trace(image: &Image, chunks: &[u32]) -> Trace {
    let mut trace = Trace {
        manifest: image.manifest.digest(),
        read_len: 0,
        stored_len: image.covered_len(),
        runs: Vec::new(),
    };
    for chunk in chunks {
        trace.push(image.digest, *chunk);
        let index = image.table.index(*chunk);
        trace.read_len += index.map_or(0, |index| image.table.range(index).len());
    }
    trace
}

/// Asks again until what was ordered is over.
async fn until_over(client: &Client, image: &Image) -> SeedJob {
    let manifest = image.manifest.digest().to_string();
    let over = async {
        loop {
            let job = client.seed_job(&manifest).await.unwrap();
            if job.state != SeedState::Fetching {
                return job;
            }
        }
    };
    timeout(PATIENCE, over).await.expect("an order in time")
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> (u16, ErrorReply) {
    match answer.unwrap_err() {
        ClientError::Refused { status, reply } => (status, reply),
        other => panic!("not refused but {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_shows_how_far_it_has_spread_and_what_the_registry_gave() {
    let image = Image::random(20 * MIB, 20);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::Off).await;
    let first = TestNode::member(&tracker, &image, &registry).await;
    first.read_all(&image, Class::Prefetch).await;
    let manifest = image.manifest.digest().to_string();
    let client = tracker.client();
    let spread = async {
        loop {
            let shown = client.image(&manifest).await.unwrap();
            let whole = shown.blobs[0].stripes.iter();
            if whole.filter(|stripe| stripe.holder_count == 1).count() == 2 {
                return shown;
            }
        }
    };
    let shown = timeout(PATIENCE, spread).await.expect("two whole stripes");
    assert_eq!(shown.repository, REPOSITORY);
    assert_eq!(shown.blobs.len(), 1);
    let blob = &shown.blobs[0];
    assert_eq!((blob.member_count, blob.stripe_count), (1, 2));
    assert_eq!(blob.len, image.blob.len() as u64);
    assert_eq!(blob.origin_len, image.covered_len());
    let unknown = tranship_format::Digest::of(b"unknown").to_string();
    assert_eq!(refusal(client.image(&unknown).await).0, 404);
    assert_eq!(refusal(client.image("sha256:0").await).0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seed_fetches_an_image_that_the_operator_orders_before_anybody_starts_it() {
    let image = Image::random(8 * MIB, 21);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::OnRequest).await;
    let client = tracker.client();
    let ordered = client.seed(&reference(&image, &registry)).await.unwrap();
    assert_eq!(ordered.total_len, image.covered_len());
    let job = until_over(&client, &image).await;
    assert_eq!(job.state, SeedState::Complete);
    assert_eq!(job.present_len, image.covered_len());
    assert_eq!(registry.sent_len(), image.blob.len() as u64);
    let node = TestNode::member(&tracker, &image, &registry).await;
    // Whether it may have the image, the registry must say.
    tracker.until_seeding(1).await;
    registry.go_down();
    node.read_all(&image, Class::Demand).await;
    assert_eq!(node.counters().seed.len, image.covered_len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seed_fetches_what_a_trace_names_and_the_rest_when_it_is_ordered_too() {
    let image = Image::random(8 * MIB, 25);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::OnRequest).await;
    let client = tracker.client();
    let whole = reference(&image, &registry);
    // One is named twice, as by hand; it is fetched and counted once.
    let traced = trace(&image, &[20, 3, 4, 20]);
    let traced_len = trace(&image, &[20, 3, 4]).read_len;
    let order = SeedRequest {
        trace: Some(traced),
        ..whole.clone()
    };
    client.seed(&order).await.unwrap();
    let job = until_over(&client, &image).await;
    assert_eq!(job.state, SeedState::Complete);
    assert!(job.by_trace);
    assert_eq!((job.present_len, job.total_len), (traced_len, traced_len));
    let sent_len = registry.sent_len();
    assert!(sent_len < traced_len * 2, "{sent_len} for {traced_len}");
    client.seed(&whole).await.unwrap();
    let job = until_over(&client, &image).await;
    assert_eq!(job.state, SeedState::Complete);
    assert!(!job.by_trace);
    assert_eq!(job.present_len, image.covered_len());
    // What was there already was not read again.
    assert_eq!(registry.sent_len(), image.blob.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_order_takes_the_place_of_one_by_trace_that_is_under_way() {
    let image = Image::random(8 * MIB, 26);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::OnRequest).await;
    let client = tracker.client();
    let whole = reference(&image, &registry);
    let order = SeedRequest {
        trace: Some(trace(&image, &[0, 1, 2])),
        ..whole.clone()
    };
    client.seed(&order).await.unwrap();
    client.seed(&whole).await.unwrap();
    let job = until_over(&client, &image).await;
    assert_eq!((job.state, job.by_trace), (SeedState::Complete, false));
    assert_eq!(job.present_len, image.covered_len());
    let manifest = image.manifest.digest().to_string();
    client.unseed(&manifest).await.unwrap();
    assert_eq!(refusal(client.unseed(&manifest).await).0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_of_another_image_is_refused() {
    let image = Image::random(MIB, 27);
    let other = Image::random(MIB, 28);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::OnRequest).await;
    let client = tracker.client();
    let mut foreign_blob = trace(&image, &[0]);
    foreign_blob.push(other.digest, 0);
    for (trace, why) in [
        (trace(&other, &[0]), "the trace is one of"),
        (trace(&image, &[0, 4_000]), "names chunk 4000"),
        (foreign_blob, "names chunk 0"),
    ] {
        let order = SeedRequest {
            trace: Some(trace),
            ..reference(&image, &registry)
        };
        let (status, reply) = refusal(client.seed(&order).await);
        assert_eq!(status, 422, "{reply:?}");
        assert!(reply.error.contains(why), "{reply:?}");
        assert!(reply.hint.contains("tranship trace"), "{reply:?}");
    }
    let manifest = image.manifest.digest().to_string();
    assert_eq!(refusal(client.seed_job(&manifest).await).0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_cannot_be_carried_out_says_why() {
    let image = Image::random(MIB, 22);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::OnRequest).await;
    let client = tracker.client();
    let host = registry.host();
    let unknown = tranship_format::Digest::of(b"unknown");
    for (reference, expected) in [
        (format!("{host}/{REPOSITORY}:tag"), 400),
        ("https://".to_owned(), 400),
        (format!("{host}/{REPOSITORY}@{unknown}"), 404),
    ] {
        let (status, reply) = refusal(
            client
                .seed(&SeedRequest {
                    reference,
                    trace: None,
                })
                .await,
        );
        assert_eq!(status, expected, "{reply:?}");
        assert!(
            !reply.error.is_empty() && !reply.hint.is_empty(),
            "{reply:?}"
        );
    }
    let unseeded = tranship_format::Digest::of(b"unseeded").to_string();
    assert_eq!(refusal(client.unseed(&unseeded).await).0, 404);
    let without = TestTracker::start(SeedMode::Off).await;
    let ordered = without.client().seed(&reference(&image, &registry)).await;
    assert_eq!(refusal(ordered).0, 501);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_can_be_taken_back_and_given_again() {
    let image = Image::random(8 * MIB, 23);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::OnRequest).await;
    let client = tracker.client();
    let manifest = image.manifest.digest().to_string();
    client.seed(&reference(&image, &registry)).await.unwrap();
    let stopped = client.unseed(&manifest).await.unwrap();
    assert_eq!(stopped.state, SeedState::Stopped);
    assert_eq!(refusal(client.seed_job(&manifest).await).0, 404);
    client.seed(&reference(&image, &registry)).await.unwrap();
    assert_eq!(until_over(&client, &image).await.state, SeedState::Complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_seed_says_so_and_keeps_what_it_has() {
    let image = Image::random(8 * MIB, 24);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::with(|config| {
        config.seed.mode = SeedMode::OnRequest;
        config.seed.quota = bytesize::ByteSize::mib(2);
    })
    .await;
    let client = tracker.client();
    client.seed(&reference(&image, &registry)).await.unwrap();
    let job = until_over(&client, &image).await;
    assert_eq!(job.state, SeedState::Full, "{job:?}");
    assert!(job.present_len > 0 && job.present_len <= 2 << 20, "{job:?}");
    // It fetched no more than it could keep.
    assert!(registry.sent_len() < 3 << 20, "{}", registry.sent_len());
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_want_the_operators_token_and_looking_wants_it_only_from_afar() {
    let tracker = TestTracker::start(SeedMode::OnRequest).await;
    let stranger = tracker.client_with(None);
    stranger.status().await.unwrap();
    let image = SeedRequest {
        reference: "registry.example/a".to_owned(),
        trace: None,
    };
    let peer = tracker.service.ready().peer_id.clone();
    let refused = [
        refusal(stranger.seed(&image).await),
        refusal(stranger.unseed("sha256:0").await),
        refusal(stranger.ban(&peer).await),
        refusal(stranger.unban(&peer).await),
        refusal(tracker.client_with(Some("another")).ban(&peer).await),
    ];
    assert!(
        refused.iter().all(|(status, _)| *status == 401),
        "{refused:?}"
    );

    let open = TestTracker::with(|config| {
        config.http_listen = "0.0.0.0:0".parse().unwrap();
    })
    .await;
    let stranger = open.client_with(None);
    assert_eq!(refusal(stranger.status().await).0, 401);
    open.client().status().await.unwrap();
    for path in ["metrics", "healthz", "readyz"] {
        get(&format!("{}/{path}", open.url())).await;
    }
    let head = head_of(&format!("{}/", open.url())).await;
    assert!(head.starts_with("HTTP/1.1 401"), "{head}");
    assert!(
        head.to_lowercase().contains("www-authenticate: basic"),
        "{head}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_node_stays_out_over_a_restart_until_the_ban_is_taken_back() {
    let image = Image::random(MIB, 25);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::Off).await;
    let node = TestNode::member(&tracker, &image, &registry).await;
    let peer = node.net.peer().to_string();
    let list = tracker.client().ban(&peer).await.unwrap();
    assert_eq!(list.peer_ids, std::slice::from_ref(&peer));
    node.until("it is out", |status| !status.joined).await;

    let (door, _, dir) = tracker.leave().await;
    let tracker = TestTracker::again(door, dir).await;
    tracker.until_refused().await;
    assert!(!node.net.status().joined);
    assert_eq!(tracker.status().await.ban_count, 1);

    let client = tracker.client();
    assert!(client.unban(&peer).await.unwrap().peer_ids.is_empty());
    assert_eq!(refusal(client.unban(&peer).await).0, 404);
    assert_eq!(refusal(client.ban("nobody").await).0, 400);
    node.until("it is in again", |status| status.joined).await;
}
