//! Mirrors: asked first, in order, with their own credentials, and left alone once they fail.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use tokio::sync::Notify;
use tranship_format::{ByteRange, Digest};

use super::server::*;
use crate::credentials::Credentials;
use crate::manifest::Manifest;
use crate::reference::ManifestSelector;
use crate::registry::{Mirrors, RegistryClient, RegistryOptions};

const RANGE: ByteRange = ByteRange { start: 10, end: 20 };

fn mirrored_with(
    registry: &Server,
    mirrors: &[&Server],
    options: RegistryOptions,
) -> RegistryClient {
    let hosts = mirrors.iter().map(|mirror| mirror.host.clone()).collect();
    RegistryClient::new(RegistryOptions {
        mirrors: Mirrors::new([(registry.host.clone(), hosts)]).unwrap(),
        ..options
    })
    .unwrap()
}

fn mirrored(registry: &Server, mirrors: &[&Server]) -> RegistryClient {
    mirrored_with(registry, mirrors, options())
}

async fn good(bytes: &Bytes) -> Server {
    let bytes = bytes.clone();
    Server::start(move |seen| serve(&bytes, seen)).await
}

async fn always(status: u16) -> Server {
    Server::start(move |_| answer(status, "")).await
}

async fn read(client: &RegistryClient, registry: &Server, digest: &Digest) -> Bytes {
    let read = client.blob_range(&registry.repo(), digest, RANGE).await;
    read.unwrap()
}

#[tokio::test]
async fn the_first_mirror_that_can_answers_and_the_registry_is_left_in_peace() {
    let (bytes, digest) = blob(100);
    let (first, second, registry) = (always(503).await, good(&bytes).await, good(&bytes).await);
    let client = mirrored(&registry, &[&first, &second]);
    for _ in 0..3 {
        assert_eq!(read(&client, &registry, &digest).await, bytes.slice(10..20));
    }
    let whole = client.blob_bytes(&registry.repo(), &digest, 100).await;
    assert_eq!(whole.unwrap(), bytes);
    assert_eq!(first.count("/blobs/"), 1, "one that fails is left alone");
    assert_eq!(second.count("/blobs/"), 4);
    assert_eq!(registry.count("/"), 0);
}

#[tokio::test]
async fn a_mirror_that_lacks_one_blob_is_asked_for_others() {
    let (bytes, there) = blob(100);
    let (other, lacking) = blob(90);
    let (mirror_bytes, name) = (bytes.clone(), lacking.to_string());
    let mirror = Server::start(move |seen| {
        if seen.path.ends_with(&name) {
            answer(404, "")
        } else {
            serve(&mirror_bytes, seen)
        }
    })
    .await;
    let registry = good(&other).await;
    let client = mirrored(&registry, &[&mirror]);
    for _ in 0..2 {
        assert_eq!(
            read(&client, &registry, &lacking).await,
            other.slice(10..20)
        );
        assert_eq!(read(&client, &registry, &there).await, bytes.slice(10..20));
    }
    assert_eq!(mirror.count(&lacking.to_string()), 1);
    assert_eq!(mirror.count(&there.to_string()), 2);
    assert_eq!(registry.count("/blobs/"), 2);
}

#[tokio::test]
async fn the_registrys_password_is_never_shown_to_a_mirror() {
    let (bytes, digest) = blob(100);
    let mirror =
        Server::start(|_| answer_with(401, &[("www-authenticate", "Basic realm=\"mirror\"")], ""))
            .await;
    let registry_bytes = bytes.clone();
    let registry = Server::start(move |seen| match seen.authorization() {
        Some("Basic dTpw") => serve(&registry_bytes, seen),
        _ => answer_with(401, &[("www-authenticate", "Basic realm=\"registry\"")], ""),
    })
    .await;
    let credentials = Credentials::anonymous().with(&registry.host, user());
    let client = mirrored_with(
        &registry,
        &[&mirror],
        RegistryOptions {
            credentials,
            ..options()
        },
    );
    assert_eq!(read(&client, &registry, &digest).await, bytes.slice(10..20));
    assert!(mirror.count("/blobs/") >= 1);
    let shown = mirror.seen();
    assert!(shown.iter().all(|seen| seen.authorization().is_none()));
}

#[tokio::test]
async fn a_mirror_whose_bytes_were_wrong_is_left_alone() {
    let (bytes, digest) = blob(100);
    let mirror = good(&Bytes::from(vec![7; 100])).await;
    let registry = good(&bytes).await;
    let client = mirrored(&registry, &[&mirror]);
    assert_eq!(read(&client, &registry, &digest).await, vec![7; 10]);
    client.refuse(&digest);
    assert_eq!(read(&client, &registry, &digest).await, bytes.slice(10..20));
    // The registry is no mirror: there is nobody else to ask.
    client.refuse(&digest);
    assert_eq!(read(&client, &registry, &digest).await, bytes.slice(10..20));
    assert_eq!(mirror.count("/blobs/"), 1);
}

#[tokio::test]
async fn a_whole_blob_that_is_wrong_at_a_mirror_is_right_the_next_time() {
    let (bytes, digest) = blob(100);
    let mirror = good(&Bytes::from(vec![7; 100])).await;
    let registry = good(&bytes).await;
    let client = mirrored(&registry, &[&mirror]);
    let repo = registry.repo();
    client.blob_bytes(&repo, &digest, 100).await.unwrap_err();
    assert_eq!(client.blob_bytes(&repo, &digest, 100).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_silent_mirror_costs_its_patience_once() {
    let (bytes, digest) = blob(100);
    let mirror = Server::start(|_| Play::Hang).await;
    let registry = good(&bytes).await;
    let options = RegistryOptions {
        mirror_patience: Duration::from_millis(200),
        ..options()
    };
    let client = mirrored_with(&registry, &[&mirror], options);
    for _ in 0..3 {
        assert_eq!(read(&client, &registry, &digest).await, bytes.slice(10..20));
    }
    assert_eq!(mirror.count("/blobs/"), 1);
}

#[tokio::test]
async fn a_mirror_that_breaks_off_is_left_alone() {
    let (bytes, digest) = blob(100);
    let came = Arc::new(Notify::new());
    let (mirror_bytes, breaks) = (bytes.clone(), Arc::clone(&came));
    let mirror = Server::start(move |seen| {
        let (begin, breaks) = (mirror_bytes.slice(10..12), Arc::clone(&breaks));
        let rest = async move {
            breaks.notified().await;
            Err(std::io::Error::other("broken"))
        };
        let body = stream::iter([Ok(begin)]).chain(stream::once(rest));
        let range = seen.range().unwrap();
        let shown = format!("bytes {}-{}/100", range.start, range.end - 1);
        answer_with(206, &[("content-range", &shown)], Body::from_stream(body))
    })
    .await;
    let registry = good(&bytes).await;
    let client = mirrored(&registry, &[&mirror]);
    let repo = registry.repo();
    let mut first = Box::pin(client.blob_range_stream(&repo, digest, RANGE));
    assert_eq!(first.next().await.unwrap().unwrap(), bytes.slice(10..12));
    came.notify_one();
    assert!(first.next().await.unwrap().is_err());
    let second = client.blob_range_stream(&repo, digest, RANGE);
    let second: Vec<_> = Box::pin(second).collect().await;
    let second: Vec<u8> = second.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(second, bytes.slice(10..20));
    assert_eq!(mirror.count("/blobs/"), 1);
}

#[tokio::test]
async fn tags_are_the_registrys_word_and_digests_anyones() {
    let manifest = Bytes::from_static(
        br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
    );
    let digest = Digest::of(&manifest);
    let kind = ("content-type", "application/vnd.oci.image.index.v1+json");
    let (at_mirror, at_registry) = (manifest.clone(), manifest.clone());
    let mirror = Server::start(move |_| answer_with(200, &[kind], at_mirror.clone())).await;
    let registry = Server::start(move |_| answer_with(200, &[kind], at_registry.clone())).await;
    let client = mirrored(&registry, &[&mirror]);
    let repo = registry.repo();
    let by_tag = ManifestSelector::Tag("latest".parse().unwrap());
    let found: Manifest = client.manifest(&repo, &by_tag).await.unwrap();
    assert_eq!((mirror.count("/"), registry.count("/manifests/")), (0, 1));
    let by_digest = ManifestSelector::Digest(digest);
    let same = client.manifest(&repo, &by_digest).await.unwrap();
    assert_eq!(found.digest(), same.digest());
    assert_eq!((mirror.count("/manifests/"), registry.count("/")), (1, 1));
}

#[tokio::test]
async fn a_manifest_that_is_wrong_at_a_mirror_is_read_from_the_registry() {
    let manifest = Bytes::from_static(br#"{"schemaVersion":2,"manifests":[]}"#);
    let digest = Digest::of(&manifest);
    let mirror = Server::start(|_| answer(200, "{}")).await;
    let registry = Server::start(move |_| answer(200, manifest.clone())).await;
    let client = mirrored(&registry, &[&mirror]);
    let which = ManifestSelector::Digest(digest);
    let read = client.manifest(&registry.repo(), &which).await.unwrap();
    assert_eq!(read.digest(), digest);
}
