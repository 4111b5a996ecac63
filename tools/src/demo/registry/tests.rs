//! The embedded registry does what clients rely on.

use tranship_source::{
    BlobBody, ImageReference, ImageStore, Manifest, RegistryClient, RegistryOptions,
};

use axum::body::Bytes;
use tranship_format::Digest;

use super::blobs::range_of;
use super::*;
use tranship_format::ByteRange;

async fn store(registry: &Registry, tag: &str) -> ImageStore {
    let reference = format!("docker://{}/team/app:{tag}", registry.address());
    let reference: ImageReference = reference.parse().unwrap();
    let client = RegistryClient::new(RegistryOptions::default()).unwrap();
    ImageStore::create(&reference, &client).await.unwrap()
}

#[tokio::test]
async fn what_is_pushed_is_pulled_whole_and_in_ranges() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).await.unwrap();
    let store = store(&registry, "v1").await;
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    let digest = Digest::of(&bytes);
    let len = bytes.len() as u64;
    assert_eq!(store.blob_exists(&digest).await.unwrap(), None);
    store
        .push_blob(&digest, len, BlobBody::bytes(bytes.clone()))
        .await
        .unwrap();
    assert_eq!(store.blob_exists(&digest).await.unwrap(), Some(len));

    let before = registry.served();
    let range = ByteRange::new(777, 7_777);
    assert_eq!(
        store.blob_range(&digest, range).await.unwrap(),
        bytes[777..7_777]
    );
    assert_eq!(registry.served() - before, 7_000);
    assert_eq!(store.blob_bytes(&digest, len).await.unwrap(), bytes);
    let beyond = ByteRange::new(len, len + 1);
    assert!(store.blob_range(&digest, beyond).await.is_err());
    registry.stop().await;
}

#[tokio::test]
async fn manifests_are_found_by_tag_and_digest_and_tags_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).await.unwrap();
    let text = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let manifest = Manifest::new(Bytes::from(text), None);
    let store = store(&registry, "v1").await;
    store.push_root(&manifest).await.unwrap();
    assert_eq!(store.root().await.unwrap(), manifest);
    assert_eq!(store.manifest(&manifest.digest()).await.unwrap(), manifest);
    assert_eq!(registry.shared.storage.tags("team/app"), ["v1"]);
    assert!(store.manifest(&Digest::of(b"other")).await.is_err());
    registry.stop().await;
}

#[test]
fn ranges_are_read_as_http_says() {
    let range = |text: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, text.parse().unwrap());
        range_of(&headers, 100)
    };
    assert_eq!(range("bytes=0-9"), Some(Ok((0, 10))));
    assert_eq!(range("bytes=90-"), Some(Ok((90, 100))));
    assert_eq!(range("bytes=90-200"), Some(Ok((90, 100))));
    assert_eq!(range("bytes=-10"), Some(Ok((90, 100))));
    assert_eq!(range("bytes=100-"), Some(Err(())));
    assert_eq!(range("lines=0-9"), None);
}

#[test]
fn uploads_are_named_by_numbers_only() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(dir.path()).unwrap();
    let id = storage.begin_upload().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let append = |id: &str| runtime.block_on(storage.append(id, Body::from("x")));
    assert!(append(&id).is_ok());
    assert!(append("../blobs/x").is_err());
}
