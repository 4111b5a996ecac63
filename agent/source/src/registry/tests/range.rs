//! Ranges that are ranges, and everything a server may do instead.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use tranship_format::{ByteRange, Digest};

use super::server::*;
use crate::registry::{RegistryClient, RegistryError, RegistryFailure, RegistryOptions};
use crate::verdict::Verdict;

const RANGE: ByteRange = ByteRange { start: 10, end: 20 };

async fn read(
    client: &RegistryClient,
    server: &Server,
    digest: &Digest,
) -> Result<Bytes, RegistryError> {
    client.blob_range(&server.repo(), digest, RANGE).await
}

/// The failure of reading `RANGE` from a server that always answers so.
async fn failure_of<P: Into<Play>>(
    play: impl Fn(&Seen) -> P + Send + Sync + 'static,
) -> RegistryError {
    failure_to(&impatient(), play).await
}

async fn failure_to<P: Into<Play>>(
    client: &RegistryClient,
    play: impl Fn(&Seen) -> P + Send + Sync + 'static,
) -> RegistryError {
    let server = Server::start(play).await;
    let (_, digest) = blob(100);
    read(client, &server, &digest).await.unwrap_err()
}

#[tokio::test]
async fn exactly_the_range_comes() {
    let (bytes, digest) = blob(1_000_000);
    let whole = bytes.clone();
    let server = Server::start(move |seen| serve(&bytes, seen)).await;
    let client = client();
    for (start, end) in [
        (0, 1),
        (999_999, 1_000_000),
        (0, 1_000_000),
        (123, 456_789),
        (5, 5),
    ] {
        let part = client
            .blob_range(&server.repo(), &digest, ByteRange::new(start, end))
            .await;
        let (start, end) = (
            usize::try_from(start).unwrap(),
            usize::try_from(end).unwrap(),
        );
        assert_eq!(part.unwrap(), whole.slice(start..end));
    }
    assert_eq!(
        server.count("/v2/team/app/blobs/sha256:"),
        4,
        "nothing is asked for nothing"
    );
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_told_apart() {
    let error = failure_of(|_| answer(200, vec![0; 100])).await;
    assert!(matches!(error.failure(), RegistryFailure::RangeIgnored));
    assert_eq!(error.verdict(), Verdict::TryElsewhere);
}

#[tokio::test]
async fn the_whole_blob_is_a_range_of_it() {
    let (bytes, digest) = blob(100);
    let whole = bytes.clone();
    let server = Server::start(move |_| answer(200, bytes.clone())).await;
    let range = ByteRange::new(0, 100);
    let part = client().blob_range(&server.repo(), &digest, range).await;
    assert_eq!(part.unwrap(), whole);
}

#[tokio::test]
async fn statuses_are_told_apart() {
    use RegistryFailure as F;
    for status in [400, 401, 403, 404, 416, 418, 429, 500, 503] {
        let error = failure_of(move |_| answer(status, "")).await;
        match (status, error.failure(), error.verdict()) {
            (401, F::Unauthorized(_), Verdict::TryElsewhere)
            | (403, F::Denied(_), Verdict::TryElsewhere)
            | (404, F::NotFound(_), Verdict::TryElsewhere)
            | (416, F::RangeNotSatisfiable, Verdict::GiveUp)
            | (
                429,
                F::TooManyRequests {
                    retry_after: None, ..
                },
                Verdict::TryAgain { .. },
            )
            | (500, F::Server { status: 500, .. }, Verdict::TryAgain { .. })
            | (503, F::Server { status: 503, .. }, Verdict::TryAgain { .. })
            | (400 | 418, F::UnexpectedStatus { .. }, Verdict::TryElsewhere) => {}
            (_, failure, verdict) => panic!("{status} is {failure:?}, {verdict:?}"),
        }
    }
}

#[tokio::test]
async fn pauses_that_a_registry_asks_for_are_known() {
    let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
    for (retry_after, wanted) in [
        ("120", Some(120)),
        ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
        ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
        ("99999999999", Some(3600)),
        ("soon", None),
    ] {
        let error =
            failure_of(move |_| answer_with(429, &[("retry-after", retry_after), date], "")).await;
        let RegistryFailure::TooManyRequests { retry_after, .. } = error.failure() else {
            panic!("{error:?}");
        };
        let wanted = wanted.map(Duration::from_secs);
        assert_eq!(*retry_after, wanted);
        let after = wanted.unwrap_or(Duration::from_secs(1));
        assert_eq!(error.verdict(), Verdict::TryAgain { after });
        assert_eq!(error.failure().asked_pause(), Some(after));
    }
    // A server that fails asks for nothing: the next reader may fare better.
    let error = failure_of(move |_| answer_with(503, &[date], "")).await;
    assert_eq!(error.failure().asked_pause(), None);
}

#[tokio::test]
async fn failures_that_pass_are_outlived() {
    let (bytes, digest) = blob(100);
    let tries = AtomicUsize::new(0);
    let server = Server::start(move |seen| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => answer_with(429, &[("retry-after", "0")], ""),
        1 => answer(502, ""),
        2 => broken_body(),
        _ => serve(&bytes, seen),
    })
    .await;
    read(&client(), &server, &digest).await.unwrap();
    assert_eq!(server.seen().len(), 4);
}

/// Promises ten bytes, sends three, and breaks the connection.
fn broken_body() -> Response {
    let pieces = [
        Ok(Bytes::from_static(b"abc")),
        Err(std::io::Error::other("broken")),
    ];
    answer_with(
        206,
        &[
            ("content-range", "bytes 10-19/100"),
            ("content-length", "10"),
        ],
        Body::from_stream(stream::iter(pieces)),
    )
}

#[tokio::test]
async fn a_connection_that_breaks_is_a_transport_failure() {
    let error = failure_of(|_| broken_body()).await;
    assert!(
        matches!(error.failure(), RegistryFailure::Transport { .. }),
        "{error:?}"
    );
    assert!(matches!(error.verdict(), Verdict::TryAgain { .. }));
}

#[tokio::test]
async fn nobody_listening_is_a_transport_failure() {
    let server = Server::start(|_| answer(200, "")).await;
    let repo = server.repo();
    drop(server);
    let (_, digest) = blob(1);
    let error = impatient()
        .blob_range(&repo, &digest, RANGE)
        .await
        .unwrap_err();
    assert!(
        matches!(error.failure(), RegistryFailure::Transport { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn lengths_that_do_not_fit_are_refused() {
    let range = ("content-range", "bytes 10-19/100");
    // Without a length in the head, the body's own end is all there is.
    let pieces =
        |len: usize| Body::from_stream(stream::iter([Ok::<_, std::io::Error>(vec![0; len])]));
    let short = failure_of(move |_| answer_with(206, &[range], pieces(9))).await;
    assert!(matches!(
        short.failure(),
        RegistryFailure::ShortBody { got: 9, wanted: 10 }
    ));
    let long = failure_of(move |_| answer_with(206, &[range], pieces(11))).await;
    assert!(matches!(
        long.failure(),
        RegistryFailure::LongBody { limit: 10 }
    ));
    let told_long = failure_of(move |_| answer_with(206, &[range], vec![0; 11])).await;
    assert!(matches!(
        told_long.failure(),
        RegistryFailure::LongBody { limit: 10 }
    ));
}

#[tokio::test]
async fn another_range_than_asked_for_is_refused() {
    for content_range in [
        "bytes 0-9/100",
        "bytes 10-18/100",
        "bytes 10-20/100",
        "bytes 11-20/100",
        "",
    ] {
        let error =
            failure_of(move |_| answer_with(206, &[("content-range", content_range)], vec![0; 10]))
                .await;
        assert!(
            matches!(error.failure(), RegistryFailure::Malformed(_)),
            "{content_range}"
        );
    }
    let missing = failure_of(|_| answer(206, vec![0; 10])).await;
    assert!(matches!(missing.failure(), RegistryFailure::Malformed(_)));
}

#[tokio::test]
async fn a_blob_that_ends_within_the_range_is_too_short() {
    let (bytes, _) = blob(15);
    let error = failure_of(move |seen| serve(&bytes, seen)).await;
    assert!(matches!(
        error.failure(),
        RegistryFailure::RangeNotSatisfiable
    ));
}

#[tokio::test]
async fn silence_ends_in_a_time_out() {
    let client = short_of_time();
    let silent = failure_to(&client, |_| Play::Hang).await;
    assert!(
        matches!(silent.failure(), RegistryFailure::TimedOut { .. }),
        "{silent:?}"
    );
    let stuck = failure_to(&client, |_| {
        let some = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"abc"))]);
        answer_with(
            206,
            &[("content-range", "bytes 10-19/100")],
            Body::from_stream(some.chain(stream::pending())),
        )
    })
    .await;
    assert!(matches!(
        stuck.failure(),
        RegistryFailure::TimedOut {
            what: "the next bytes",
            ..
        }
    ));
    assert!(matches!(stuck.verdict(), Verdict::TryAgain { .. }));
}

#[tokio::test]
async fn errors_say_what_why_and_what_next() {
    let server = Server::start(|_| {
        let body = r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"unknown\u001b[31m blob"}]}"#;
        answer(404, body)
    })
    .await;
    let (_, digest) = blob(1);
    let text = chain(&read(&impatient(), &server, &digest).await.unwrap_err());
    let host = &server.host;
    assert_eq!(
        text,
        format!(
            "could not read bytes 10..20 of blob {digest} of {host}/team/app: the registry answered 404: \
             it does not have it (BLOB_UNKNOWN: unknown [31m blob); check the reference"
        )
    );
}

/// A registry that sends readers to a storage, whose addresses are good for one generation.
struct Split {
    registry: Server,
    storage: Server,
    digest: Digest,
    bytes: Bytes,
    generation: Arc<AtomicU64>,
}

impl Split {
    async fn start() -> Self {
        let (bytes, digest) = blob(100);
        let generation = Arc::new(AtomicU64::new(1));
        let (good, whole) = (Arc::clone(&generation), bytes.clone());
        let storage = Server::start(move |seen| {
            if seen.authorization().is_some() {
                return answer(400, "only one way of authentication is allowed");
            }
            if seen.query == format!("signature={}", good.load(Ordering::SeqCst)) {
                serve(&whole, seen)
            } else {
                answer(403, "expired")
            }
        })
        .await;
        let (host, current) = (storage.host.clone(), Arc::clone(&generation));
        let registry = Server::start(move |seen| match seen.authorization() {
            Some("Basic dTpw") => {
                let signature = current.load(Ordering::SeqCst);
                let location = format!("http://{host}/bucket/blob?signature={signature}");
                answer_with(307, &[("location", &location)], "")
            }
            _ => answer_with(401, &[("www-authenticate", "Basic")], ""),
        })
        .await;
        Self {
            registry,
            storage,
            digest,
            bytes,
            generation,
        }
    }

    async fn read(&self, client: &RegistryClient) {
        let part = read(client, &self.registry, &self.digest).await;
        assert_eq!(part.unwrap(), self.bytes.slice(10..20));
    }
}

#[tokio::test]
async fn credentials_stay_with_the_registry_and_redirects_are_remembered() {
    let split = Split::start().await;
    let client = client_with(&split.registry, user());
    for _ in 0..5 {
        split.read(&client).await;
    }
    assert_eq!(split.registry.seen().len(), 2);
    assert_eq!(split.storage.seen().len(), 5);
    for seen in split.storage.seen() {
        assert_eq!(seen.authorization(), None);
    }
}

#[tokio::test]
async fn a_refused_redirect_is_refreshed_by_one_for_all() {
    let split = Split::start().await;
    let client = client_with(&split.registry, user());
    split.read(&client).await;
    let before = split.registry.seen().len();
    split.generation.store(2, Ordering::SeqCst);
    futures::future::join_all((0..20).map(|_| split.read(&client))).await;
    assert_eq!(split.registry.seen().len(), before + 1);
}

#[tokio::test]
async fn an_old_redirect_is_not_used() {
    let split = Split::start().await;
    let client = RegistryClient::new(RegistryOptions {
        redirect_life: Duration::ZERO,
        credentials: crate::Credentials::anonymous().with(&split.registry.host, user()),
        ..options()
    })
    .unwrap();
    split.read(&client).await;
    split.read(&client).await;
    assert_eq!(split.registry.seen().len(), 3);
}

#[tokio::test]
async fn whole_blobs_follow_redirects_without_credentials() {
    let split = Split::start().await;
    let client = client_with(&split.registry, user());
    let whole = client
        .blob_bytes(&split.registry.repo(), &split.digest, 100)
        .await;
    assert_eq!(whole.unwrap(), split.bytes);
    assert_eq!(split.storage.seen()[0].authorization(), None);
}

#[tokio::test]
async fn redirects_that_lead_nowhere_good_are_refused() {
    for location in [
        "http://192.0.2.1/blob?signature=secret",
        "ftp://127.0.0.1/blob",
    ] {
        let error = failure_of(move |_| answer_with(307, &[("location", location)], "")).await;
        assert!(
            matches!(error.failure(), RegistryFailure::BadRedirect { .. }),
            "{error:?}"
        );
        assert!(!chain(&error).contains("secret"));
    }
    let circle = failure_of(|seen| answer_with(307, &[("location", &seen.path)], "")).await;
    assert!(matches!(
        circle.failure(),
        RegistryFailure::BadRedirect {
            why: "too many redirects",
            ..
        }
    ));
    let nowhere = failure_of(|_| answer(307, "")).await;
    assert!(matches!(nowhere.failure(), RegistryFailure::Malformed(_)));
}

#[tokio::test]
async fn a_server_without_tls_is_not_asked_again() {
    let (_, digest) = blob(1);
    let asked = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&asked);
    let server = Server::start_knowing_host(move |host, _| {
        *counted.lock().unwrap() += 1;
        answer_with(307, &[("location", &format!("https://{host}/blob"))], "")
    })
    .await;
    let error = read(&client(), &server, &digest).await.unwrap_err();
    assert!(
        matches!(error.failure(), RegistryFailure::Tls { .. }),
        "{error:?}"
    );
    assert_eq!(*asked.lock().unwrap(), 1);
}
