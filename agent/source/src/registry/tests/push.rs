//! Pushing: what arrives, what is never completed, and what is not sent at all.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::response::Response;
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tranship_format::Digest;

use super::server::*;
use crate::blob::BlobBody;
use crate::registry::{Pushed, RegistryFailure};

/// A registry that keeps what it is given, and says 503 to the first few uploads.
#[derive(Default)]
struct Keeper {
    kept: Mutex<BTreeMap<String, Bytes>>,
    failures_left: AtomicUsize,
}

impl Keeper {
    fn play(&self, seen: &Seen) -> Response {
        let kept = &mut *self.kept.lock().unwrap();
        match seen.method.as_str() {
            "HEAD" => {
                let digest = seen.path.rsplit('/').next().unwrap();
                match kept.get(digest) {
                    Some(bytes) => answer(200, bytes.clone()),
                    None => answer(404, ""),
                }
            }
            "POST" => answer_with(
                202,
                &[("location", "/v2/team/app/blobs/uploads/7?state=s%3D")],
                "",
            ),
            "PUT" => {
                let failing = self.failures_left.load(Ordering::SeqCst);
                if failing > 0 {
                    self.failures_left.store(failing - 1, Ordering::SeqCst);
                    return answer(503, "");
                }
                let digest = Digest::of(&seen.body).to_string();
                let said = seen.query.replace("%3A", ":");
                if said != format!("state=s%3D&digest={digest}") {
                    return answer(400, r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
                }
                kept.insert(digest.clone(), seen.body.clone());
                answer_with(201, &[("docker-content-digest", &digest)], "")
            }
            other => panic!("{other}"),
        }
    }

    async fn start(failures: usize) -> (Arc<Self>, Server) {
        let keeper = Arc::new(Self::default());
        keeper.failures_left.store(failures, Ordering::SeqCst);
        let played = Arc::clone(&keeper);
        (keeper, Server::start(move |seen| played.play(seen)).await)
    }

    fn kept(&self, digest: &Digest) -> Option<Bytes> {
        self.kept.lock().unwrap().get(&digest.to_string()).cloned()
    }
}

/// More than one piece, and not a whole number of them.
const LEN: usize = 1_000_001;

#[tokio::test]
async fn blobs_arrive_from_memory_files_and_readers() {
    let (bytes, digest) = blob(LEN);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    let bodies = [
        BlobBody::bytes(bytes.clone()),
        BlobBody::file(file.path()),
        BlobBody::reader(std::io::Cursor::new(bytes.clone())),
    ];
    for body in bodies {
        let (keeper, server) = Keeper::start(0).await;
        let name = format!("{body:?}");
        let pushed = client()
            .push_blob(&server.repo(), &digest, LEN as u64, body)
            .await;
        assert_eq!(pushed.unwrap(), Pushed::Uploaded, "{name}");
        assert_eq!(keeper.kept(&digest).unwrap(), bytes, "{name}");
        let put = &server.seen()[2];
        assert_eq!(put.header("content-length"), Some("1000001"), "{name}");
    }
}

#[tokio::test]
async fn an_empty_blob_is_pushed() {
    let (keeper, server) = Keeper::start(0).await;
    let (bytes, digest) = blob(0);
    let pushed = client()
        .push_blob(&server.repo(), &digest, 0, BlobBody::bytes(bytes))
        .await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert_eq!(keeper.kept(&digest), Some(Bytes::new()));
}

#[tokio::test]
async fn what_is_there_is_not_sent() {
    let (keeper, server) = Keeper::start(0).await;
    let (bytes, digest) = blob(10);
    keeper
        .kept
        .lock()
        .unwrap()
        .insert(digest.to_string(), bytes.clone());
    let pushed = client()
        .push_blob(&server.repo(), &digest, 10, BlobBody::bytes(bytes))
        .await;
    assert_eq!(pushed.unwrap(), Pushed::AlreadyThere);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn what_can_be_read_again_is_sent_again() {
    let (bytes, digest) = blob(LEN);
    let (keeper, server) = Keeper::start(2).await;
    let body = BlobBody::bytes(bytes.clone());
    client()
        .push_blob(&server.repo(), &digest, LEN as u64, body)
        .await
        .unwrap();
    assert_eq!(keeper.kept(&digest).unwrap(), bytes);

    let (keeper, server) = Keeper::start(1).await;
    let body = BlobBody::reader(std::io::Cursor::new(bytes));
    let error = client()
        .push_blob(&server.repo(), &digest, LEN as u64, body)
        .await;
    assert!(matches!(
        error.unwrap_err().failure(),
        RegistryFailure::Server { status: 503, .. }
    ));
    assert_eq!(keeper.kept(&digest), None);
}

#[tokio::test]
async fn wrong_bytes_are_never_completed() {
    for (len, told_len) in [(LEN, LEN), (LEN, LEN - 1), (0, 0)] {
        let (keeper, server) = Keeper::start(0).await;
        let (bytes, _) = blob(len);
        let promised = Digest::of(b"something else");
        let body = BlobBody::bytes(bytes);
        let error = client()
            .push_blob(&server.repo(), &promised, told_len as u64, body)
            .await;
        let error = error.unwrap_err();
        assert!(
            matches!(error.failure(), RegistryFailure::WrongDigest { wanted, .. } if *wanted == promised),
            "{error:?}"
        );
        assert!(keeper.kept.lock().unwrap().is_empty());
        let completed = server.seen().iter().any(|seen| seen.method == "PUT");
        assert!(!completed, "{len} of {told_len}");
    }
}

#[tokio::test]
async fn a_source_that_ends_early_is_the_sources_fault() {
    let (keeper, server) = Keeper::start(0).await;
    let (bytes, digest) = blob(LEN);
    let body = BlobBody::reader(std::io::Cursor::new(bytes.slice(..LEN - 1)));
    let error = client()
        .push_blob(&server.repo(), &digest, LEN as u64, body)
        .await;
    let text = chain(&error.unwrap_err());
    assert!(text.contains("could not read the bytes to push"), "{text}");
    assert!(text.contains("1 bytes before"), "{text}");
    assert!(keeper.kept.lock().unwrap().is_empty());
    let missing = BlobBody::file("/nonexistent/blob");
    let error = client()
        .push_blob(&server.repo(), &digest, 1, missing)
        .await;
    assert!(matches!(
        error.unwrap_err().failure(),
        RegistryFailure::ReadSource(_)
    ));
}

#[tokio::test]
async fn an_upload_whose_source_stops_is_given_up() {
    let (_, server) = Keeper::start(0).await;
    let digest = Digest::of(b"other");
    let (mut far, near) = tokio::io::duplex(8);
    far.write_all(b"half").await.unwrap();
    let body = BlobBody::reader(near);
    let error = short_of_time()
        .push_blob(&server.repo(), &digest, 8, body)
        .await;
    let error = error.unwrap_err();
    assert!(
        matches!(error.failure(), RegistryFailure::TimedOut { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn credentials_do_not_go_to_the_storage_that_takes_the_bytes() {
    let storage = Server::start(|_| answer(201, "")).await;
    let place = format!("http://{}/upload", storage.host);
    let server = Server::start(
        move |seen| match (seen.authorization(), seen.method.as_str()) {
            (Some("Basic dTpw"), "HEAD") => answer(404, ""),
            (Some("Basic dTpw"), _) => answer_with(202, &[("location", &place)], ""),
            _ => answer_with(401, &[("www-authenticate", "Basic")], ""),
        },
    )
    .await;
    let (bytes, digest) = blob(10);
    let client = client_with(&server, user());
    client
        .push_blob(&server.repo(), &digest, 10, BlobBody::bytes(bytes))
        .await
        .unwrap();
    assert_eq!(storage.seen().len(), 1);
    assert_eq!(storage.seen()[0].authorization(), None);
}

#[tokio::test]
async fn mounts_send_nothing() {
    let server = Server::start(|seen| {
        if seen.method == "POST" && seen.query.ends_with("from=base%2Fcan") {
            answer(201, "")
        } else if seen.method == "POST" {
            answer_with(202, &[("location", "/v2/team/app/blobs/uploads/9")], "")
        } else {
            answer(204, "")
        }
    })
    .await;
    let (_, digest) = blob(1);
    let (client, repo) = (client(), server.repo());
    let from = |path: &str| format!("{}/{path}", server.host).parse().unwrap();
    assert!(
        client
            .mount_blob(&repo, &from("base/can"), &digest)
            .await
            .unwrap()
    );
    assert!(
        !client
            .mount_blob(&repo, &from("base/cannot"), &digest)
            .await
            .unwrap()
    );
    let cancelled = &server.seen()[2];
    assert_eq!(
        (cancelled.method.as_str(), cancelled.path.as_str()),
        ("DELETE", "/v2/team/app/blobs/uploads/9")
    );
    let elsewhere = "other.example/base".parse().unwrap();
    assert!(!client.mount_blob(&repo, &elsewhere, &digest).await.unwrap());
    assert_eq!(server.seen().len(), 3);
}
