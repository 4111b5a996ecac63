//! Whole blobs: checked, and gone on with where they broke.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use tokio::io::AsyncReadExt;
use tranship_format::{ByteRange, Digest};

use super::server::*;
use crate::registry::{RegistryClient, RegistryError, RegistryFailure, RegistryOptions};
use crate::verdict::Verdict;

const LEN: usize = 300_000;

async fn read(server: &Server, digest: &Digest) -> Result<Bytes, RegistryError> {
    let client = client();
    client.blob_bytes(&server.repo(), digest, LEN as u64).await
}

/// The first `len` bytes of what `response` would send from `bytes`, then a broken connection.
fn cut(bytes: &Bytes, len: usize) -> Response {
    let pieces = [Ok(bytes.slice(..len)), Err(std::io::Error::other("broken"))];
    answer_with(
        200,
        &[("content-length", &bytes.len().to_string())],
        Body::from_stream(stream::iter(pieces)),
    )
}

#[tokio::test]
async fn a_whole_blob_comes_and_is_checked() {
    let (bytes, digest) = blob(LEN);
    let whole = bytes.clone();
    let server = Server::start(move |seen| serve(&bytes, seen)).await;
    assert_eq!(read(&server, &digest).await.unwrap(), whole);
    let stream = client().blob(&server.repo(), &digest).await.unwrap();
    assert_eq!(stream.told_len(), Some(LEN as u64));
    let mut read = Vec::new();
    stream.into_reader().read_to_end(&mut read).await.unwrap();
    assert_eq!(read, whole);
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let (bytes, digest) = blob(0);
    let server = Server::start(move |seen| serve(&bytes, seen)).await;
    assert_eq!(read(&server, &digest).await.unwrap(), Bytes::new());
}

#[tokio::test]
async fn wrong_bytes_do_not_end_well() {
    let (mut bytes, digest) = (blob(LEN).0.to_vec(), blob(LEN).1);
    bytes[LEN / 2] ^= 1;
    let server = Server::start(move |_| answer(200, bytes.clone())).await;
    let error = read(&server, &digest).await.unwrap_err();
    assert!(
        matches!(error.failure(), RegistryFailure::WrongDigest { wanted, .. } if *wanted == digest)
    );
    assert_eq!(error.verdict(), Verdict::Ban);
    assert_eq!(server.seen().len(), 1, "a lie is not asked for twice");
    let reader = client().blob(&server.repo(), &digest).await.unwrap();
    let mut read = Vec::new();
    let error = reader
        .into_reader()
        .read_to_end(&mut read)
        .await
        .unwrap_err();
    let cause = error.get_ref().unwrap().downcast_ref::<RegistryError>();
    assert!(matches!(
        cause.unwrap().failure(),
        RegistryFailure::WrongDigest { .. }
    ));
}

#[tokio::test]
async fn a_stuck_stream_goes_on_where_it_stuck() {
    let (bytes, digest) = blob(LEN);
    let whole = bytes.clone();
    let tries = AtomicUsize::new(0);
    let server = Server::start(move |seen| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => {
            let some = stream::iter([Ok::<_, std::io::Error>(bytes.slice(..100_000))]);
            answer_with(
                200,
                &[("content-length", &LEN.to_string())],
                Body::from_stream(some.chain(stream::pending())),
            )
        }
        1 => answer(503, ""),
        _ => serve(&bytes, seen),
    })
    .await;
    let client = RegistryClient::new(RegistryOptions {
        read_timeout: Duration::from_secs(2),
        ..options()
    })
    .unwrap();
    let read = client.blob_bytes(&server.repo(), &digest, LEN as u64).await;
    assert_eq!(read.unwrap(), whole);
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    for resumed in &seen[1..] {
        assert_eq!(resumed.range(), Some(ByteRange::new(100_000, LEN as u64)));
    }
}

#[tokio::test]
async fn a_server_without_ranges_begins_again_and_nothing_is_read_twice() {
    let (bytes, digest) = blob(LEN);
    let whole = bytes.clone();
    let tries = AtomicUsize::new(0);
    let server = Server::start(move |_| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => cut(&bytes, 100_000),
        1 => cut(&bytes, 50_000),
        _ => answer(200, bytes.clone()),
    })
    .await;
    assert_eq!(read(&server, &digest).await.unwrap(), whole);
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn more_than_the_limit_is_not_kept() {
    let (bytes, digest) = blob(LEN + 1);
    let server = Server::start(move |seen| serve(&bytes, seen)).await;
    let error = read(&server, &digest).await.unwrap_err();
    assert!(matches!(error.failure(), RegistryFailure::LongBody { .. }));
}

#[tokio::test]
async fn a_missing_blob_is_not_there() {
    let (bytes, digest) = blob(10);
    let here = digest.to_string();
    let server = Server::start(move |seen| {
        if seen.path.ends_with(&here) {
            serve(&bytes, seen)
        } else {
            answer(404, "")
        }
    })
    .await;
    let (client, repo) = (client(), server.repo());
    assert_eq!(client.blob_exists(&repo, &digest).await.unwrap(), Some(10));
    let missing = Digest::of(b"missing");
    assert_eq!(client.blob_exists(&repo, &missing).await.unwrap(), None);
    let error = client.blob(&repo, &missing).await.unwrap_err();
    assert!(matches!(error.failure(), RegistryFailure::NotFound(_)));
}
