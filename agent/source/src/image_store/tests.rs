//! Images found through indexes, and blobs copied from place to place.

use tempfile::TempDir;
use tokio::io::AsyncReadExt;

use super::*;
use crate::manifest::{ImageIndex, ManifestError, media_type};
use crate::registry::RegistryOptions;

fn client() -> RegistryClient {
    RegistryClient::new(RegistryOptions::default()).unwrap()
}

fn reference(scratch: &TempDir, kind: &str, name: &str) -> ImageReference {
    let path = scratch.path().join(name);
    format!("{kind}:{}:v1", path.display()).parse().unwrap()
}

async fn create(reference: &ImageReference) -> ImageStore {
    ImageStore::create(reference, &client()).await.unwrap()
}

async fn push(store: &ImageStore, media_type: &str, content: &'static str) -> Descriptor {
    let digest = Digest::of(content.as_bytes());
    let blob = Descriptor::new(media_type, digest, content.len() as u64);
    let body = BlobBody::bytes(content);
    store.push_blob(&digest, blob.size, body).await.unwrap();
    blob
}

async fn push_image(store: &ImageStore) -> Manifest {
    let config = push(store, media_type::OCI_CONFIG, "{}").await;
    let layer = push(store, media_type::OCI_LAYER, "layer").await;
    let manifest = Manifest::from_image(&ImageManifest::new(config, vec![layer])).unwrap();
    store.push_manifest(&manifest).await.unwrap();
    manifest
}

/// An index whose only entry, for arm64, is `manifest`.
async fn push_index(store: &ImageStore, manifest: &Manifest) -> Manifest {
    let entry = Descriptor {
        platform: Some(Platform::linux("arm64")),
        ..manifest.descriptor()
    };
    let index = Manifest::from_index(&ImageIndex::new(vec![entry])).unwrap();
    store.push_manifest(&index).await.unwrap();
    index
}

#[tokio::test]
async fn an_image_is_found_through_indexes_but_not_through_too_many() {
    let scratch = tempfile::tempdir().unwrap();
    let store = create(&reference(&scratch, "oci", "dir")).await;
    let arm64 = Platform::linux("arm64");
    let manifest = push_image(&store).await;
    let mut root = manifest.clone();
    for levels in 0..=NESTING_MAX {
        store.push_root(&root).await.unwrap();
        let found = store.image(&arm64).await.unwrap();
        assert_eq!(found.manifest, manifest, "{levels} levels");
        assert_eq!(found.root, root);
        assert_eq!(store.config(&found.image).await.unwrap(), "{}");
        root = push_index(&store, &root).await;
    }
    store.push_root(&root).await.unwrap();
    let error = store.image(&arm64).await.unwrap_err();
    assert!(matches!(error, ImageStoreError::TooDeep(_)), "{error:?}");
    let error = store.image(&Platform::linux("amd64")).await.unwrap_err();
    assert!(matches!(
        error,
        ImageStoreError::Manifest(ManifestError::NoSuchPlatform { .. })
    ));
    assert!(error.is_not_found());
}

#[tokio::test]
async fn blobs_are_copied_between_places() {
    let scratch = tempfile::tempdir().unwrap();
    let from = create(&reference(&scratch, "oci", "dir")).await;
    let to_reference = reference(&scratch, "oci-archive", "archive.tar");
    let to = create(&to_reference).await;
    let blob = push(&from, media_type::OCI_LAYER, "layer").await;
    for _ in 0..2 {
        to.copy_blob(&from, &blob).await.unwrap();
    }
    let absent = Descriptor::new("", Digest::of(b"absent"), 6);
    let error = to.copy_blob(&from, &absent).await.unwrap_err();
    assert!(error.is_not_found());
    let other = push(&from, media_type::OCI_LAYER, "other").await;
    let longer = Descriptor { size: 6, ..other };
    let error = to.copy_blob(&from, &longer).await.unwrap_err();
    assert!(
        matches!(
            error,
            ImageStoreError::WrongLength {
                wanted: 6,
                got: 5,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(to.blob_exists(&longer.digest).await.unwrap(), None);

    to.finish().await.unwrap();
    let opened = ImageStore::open(&to_reference, &client()).await.unwrap();
    let mut read = String::new();
    let mut reader = opened.blob(&blob.digest).await.unwrap();
    reader.read_to_string(&mut read).await.unwrap();
    assert_eq!(read, "layer");
    let part = opened.blob_range(&blob.digest, ByteRange::new(1, 3)).await;
    assert_eq!(part.unwrap(), "ay");
    assert!(opened.root().await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn what_is_not_there_cannot_be_opened() {
    let scratch = tempfile::tempdir().unwrap();
    for kind in ["oci", "oci-archive"] {
        let missing = reference(&scratch, kind, "missing");
        let error = ImageStore::open(&missing, &client()).await.unwrap_err();
        assert!(matches!(error, ImageStoreError::Layout(_)), "{error:?}");
    }
}

#[tokio::test]
async fn an_index_is_copied_byte_by_byte_with_all_it_lists() {
    let scratch = tempfile::tempdir().unwrap();
    let from = create(&reference(&scratch, "oci", "from")).await;
    let to = create(&reference(&scratch, "oci", "to")).await;
    let image = push_image(&from).await;
    let inner = push_index(&from, &image).await;
    let outer = push_index(&from, &inner).await;
    to.copy_manifest(&from, &outer).await.unwrap();
    for manifest in [&outer, &inner, &image] {
        let copied = to.manifest(&manifest.digest()).await.unwrap();
        assert_eq!(copied.bytes(), manifest.bytes());
    }
    for content in ["{}", "layer"] {
        let digest = Digest::of(content.as_bytes());
        assert_eq!(to.blob_bytes(&digest, 9).await.unwrap(), content);
    }
    let mut deep = outer;
    for _ in 0..NESTING_MAX {
        deep = push_index(&from, &deep).await;
    }
    let error = to.copy_manifest(&from, &deep).await.unwrap_err();
    assert!(matches!(error, ImageStoreError::TooDeep(_)), "{error:?}");
}

#[tokio::test]
async fn layers_that_stay_with_their_maker_are_not_missed() {
    let scratch = tempfile::tempdir().unwrap();
    let from = create(&reference(&scratch, "oci", "from")).await;
    let to = create(&reference(&scratch, "oci", "to")).await;
    let config = push(&from, media_type::OCI_CONFIG, "{}").await;
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    for (kind, is_fine) in [(foreign, true), (media_type::OCI_LAYER, false)] {
        let layer = Descriptor::new(kind, Digest::of(b"elsewhere"), 9);
        let image = ImageManifest::new(config.clone(), vec![layer]);
        let manifest = Manifest::from_image(&image).unwrap();
        assert_eq!(to.copy_manifest(&from, &manifest).await.is_ok(), is_fine);
    }
}

#[tokio::test]
async fn all_that_has_a_name_is_listed_and_the_references_own_first() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("dir");
    let at = |tag: &str| format!("oci:{}:{tag}", path.display()).parse().unwrap();
    let mut expected = Vec::new();
    for tag in ["a", "b", "c"] {
        let store = create(&at(tag)).await;
        let config = push(&store, media_type::OCI_CONFIG, "{}").await;
        let mut image = ImageManifest::new(config, Vec::new());
        image.annotations.insert("tag".into(), tag.into());
        let manifest = Manifest::from_image(&image).unwrap();
        store.push_root(&manifest).await.unwrap();
        expected.push(manifest.digest());
    }
    let [a, b, c] = expected.try_into().unwrap();
    let store = create(&at("b")).await;
    let found = store.roots(9).await.unwrap();
    let found: Vec<Digest> = found.iter().map(Manifest::digest).collect();
    assert_eq!(found, [b, c, a]);
    assert_eq!(store.roots(2).await.unwrap().len(), 2);
    let empty = create(&reference(&scratch, "oci", "empty")).await;
    assert!(empty.roots(9).await.unwrap().is_empty());
}
