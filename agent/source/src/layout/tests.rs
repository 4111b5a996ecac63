//! Layouts that are written and read again, that others wrote, and that are broken.

use std::fs;
use std::io::Write;

use tempfile::TempDir;
use tokio::io::AsyncReadExt;

use super::*;
use crate::manifest::{ImageManifest, media_type};

fn scratch() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn tag(name: &str) -> ManifestSelector {
    ManifestSelector::Tag(name.into())
}

fn an_index(text: &str) -> Manifest {
    let text = format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"text":"{text}"}}}}"#);
    Manifest::new(Bytes::from(text), None)
}

async fn push(layout: &OciLayout, bytes: &'static [u8]) -> Digest {
    let digest = Digest::of(bytes);
    let body = BlobBody::bytes(bytes);
    layout
        .push_blob(&digest, bytes.len() as u64, body)
        .await
        .unwrap();
    digest
}

fn failure(error: LayoutError) -> LayoutFailure {
    *error.failure
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Writes the same small layout to any place.
async fn fill(layout: &OciLayout) -> Digest {
    let digest = push(layout, b"0123456789").await;
    layout
        .push_image(&an_index("one"), Some("one"))
        .await
        .unwrap();
    layout
        .push_image(&an_index("two"), Some("two"))
        .await
        .unwrap();
    digest
}

async fn check_filled(layout: &OciLayout, digest: &Digest) {
    assert_eq!(
        layout.manifest(Some(&tag("two"))).await.unwrap(),
        an_index("two")
    );
    let by_digest = layout
        .manifest(Some(&an_index("one").digest().into()))
        .await;
    assert_eq!(by_digest.unwrap().media_type(), media_type::OCI_INDEX);
    assert_eq!(layout.blob_exists(digest).await.unwrap(), Some(10));
    assert_eq!(layout.blob_exists(&Digest::of(b"no")).await.unwrap(), None);
    let part = layout.blob_range(digest, ByteRange::new(3, 7)).await;
    assert_eq!(part.unwrap(), "3456");
    let mut read = String::new();
    let mut reader = layout.blob(digest).await.unwrap();
    reader.read_to_string(&mut read).await.unwrap();
    assert_eq!(read, "0123456789");
    assert_eq!(layout.blob_bytes(digest, 10).await.unwrap(), "0123456789");
    assert!(matches!(
        failure(layout.blob_bytes(digest, 9).await.unwrap_err()),
        LayoutFailure::TooLong { limit: 9 }
    ));
    assert!(matches!(
        failure(
            layout
                .blob_range(digest, ByteRange::new(5, 11))
                .await
                .unwrap_err()
        ),
        LayoutFailure::BeyondEnd { len: 10, .. }
    ));
}

#[tokio::test]
async fn a_directory_gives_back_what_was_put_in() {
    let scratch = scratch();
    let path = scratch.path().join("new/layout");
    let layout = OciLayout::create_dir(&path).await.unwrap();
    let digest = fill(&layout).await;
    check_filled(&layout, &digest).await;
    check_filled(&OciLayout::open_dir(&path).await.unwrap(), &digest).await;
    assert_eq!(files(&path), ["blobs", "index.json", "oci-layout"]);
    assert_eq!(files(&path.join("blobs/sha256")).len(), 3, "no leftovers");
    let again = OciLayout::create_dir(&path).await.unwrap();
    assert_eq!(
        again.images().await.unwrap().len(),
        2,
        "creating what is there keeps it"
    );
}

#[tokio::test]
async fn an_archive_gives_back_what_was_put_in_and_is_the_same_each_time() {
    let scratch = scratch();
    let mut archives = Vec::new();
    for name in ["a.tar", "b.tar"] {
        let path = scratch.path().join(name);
        let layout = OciLayout::create_archive(&path).await.unwrap();
        let digest = fill(&layout).await;
        check_filled(&layout, &digest).await;
        assert!(!path.exists(), "nothing is there before it is whole");
        layout.finish().await.unwrap();
        let opened = OciLayout::open_archive(&path).await.unwrap();
        check_filled(&opened, &digest).await;
        let body = BlobBody::bytes("more");
        let error = opened.push_blob(&Digest::of(b"more"), 4, body).await;
        assert!(matches!(
            failure(error.unwrap_err()),
            LayoutFailure::ReadOnly
        ));
        archives.push(fs::read(path).unwrap());
    }
    assert!(archives[0] == archives[1]);
    assert_eq!(files(scratch.path()), ["a.tar", "b.tar"]);
}

#[tokio::test]
async fn archives_of_others_are_read() {
    let scratch = scratch();
    let dir = scratch.path().join("layout");
    let digest = fill(&OciLayout::create_dir(&dir).await.unwrap()).await;
    // As `tar -C layout -c .` writes it: names begin with a dot, the order is the disk's.
    let path = scratch.path().join("other.tar");
    let mut tar = tar::Builder::new(fs::File::create(&path).unwrap());
    tar.append_dir_all(".", &dir).unwrap();
    tar.finish().unwrap();
    check_filled(&OciLayout::open_archive(&path).await.unwrap(), &digest).await;
}

#[tokio::test]
async fn wrong_bytes_are_not_kept() {
    let scratch = scratch();
    let layout = OciLayout::create_dir(scratch.path()).await.unwrap();
    let digest = Digest::of(b"good");
    for (bytes, len) in [
        ("evil", 4),
        ("good", 5),
        ("good", 3),
        ("goodness", 4),
        ("", 4),
    ] {
        let error = layout.push_blob(&digest, len, BlobBody::bytes(bytes)).await;
        assert!(
            matches!(
                failure(error.unwrap_err()),
                LayoutFailure::WrongDigest { .. }
                    | LayoutFailure::WrongLength { .. }
                    | LayoutFailure::TooLong { .. }
            ),
            "{bytes}"
        );
        assert_eq!(layout.blob_exists(&digest).await.unwrap(), None);
    }
    assert!(files(&scratch.path().join("blobs/sha256")).is_empty());
}

#[tokio::test]
async fn a_file_whose_digest_is_known_is_taken_over_whole() {
    let scratch = scratch();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), b"good").unwrap();
    let layout = OciLayout::create_dir(scratch.path()).await.unwrap();
    let digest = Digest::of(b"good");
    let body = || BlobBody::hashed_file(file.path());
    let short = layout.push_blob(&digest, 5, body()).await;
    assert!(matches!(
        failure(short.unwrap_err()),
        LayoutFailure::WrongLength { wanted: 5, got: 4 }
    ));
    assert_eq!(layout.blob_exists(&digest).await.unwrap(), None);
    layout.push_blob(&digest, 4, body()).await.unwrap();
    assert_eq!(layout.blob_exists(&digest).await.unwrap(), Some(4));
    let kept = scratch.path().join("blobs/sha256").join(digest.hex());
    assert_eq!(fs::read(kept).unwrap(), b"good");
}

#[tokio::test]
async fn damaged_blobs_do_not_end_well() {
    let scratch = scratch();
    let layout = OciLayout::create_dir(scratch.path()).await.unwrap();
    let digest = push(&layout, b"0123456789").await;
    let manifest = an_index("one");
    layout.push_image(&manifest, None).await.unwrap();
    let blob_path = |digest: &Digest| scratch.path().join("blobs/sha256").join(digest.hex());
    fs::write(blob_path(&digest), b"0123456780").unwrap();
    fs::write(blob_path(&manifest.digest()), b"{}").unwrap();
    let mut read = Vec::new();
    let mut reader = layout.blob(&digest).await.unwrap();
    let error = reader.read_to_end(&mut read).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    for error in [
        layout.blob_bytes(&digest, 10).await.unwrap_err(),
        layout.manifest(None).await.unwrap_err(),
    ] {
        assert!(matches!(failure(error), LayoutFailure::WrongDigest { .. }));
    }
}

#[tokio::test]
async fn a_name_means_one_image() {
    let scratch = scratch();
    let layout = OciLayout::create_dir(scratch.path()).await.unwrap();
    let none = layout.manifest(None).await.unwrap_err();
    assert!(matches!(failure(none), LayoutFailure::NoSuchImage { .. }));
    layout
        .push_image(&an_index("old"), Some("v1"))
        .await
        .unwrap();
    assert_eq!(layout.manifest(None).await.unwrap(), an_index("old"));
    layout
        .push_image(&an_index("new"), Some("v1"))
        .await
        .unwrap();
    assert_eq!(
        layout.manifest(Some(&tag("v1"))).await.unwrap(),
        an_index("new")
    );
    assert_eq!(layout.images().await.unwrap().len(), 1);
    layout.push_image(&an_index("third"), None).await.unwrap();
    layout.push_image(&an_index("third"), None).await.unwrap();
    assert_eq!(layout.images().await.unwrap().len(), 2);
    let which = layout.manifest(None).await.unwrap_err();
    let text = std::error::Error::source(&which).unwrap().to_string();
    assert!(
        text.contains(&format!("v1, @{}", an_index("third").digest())),
        "{text}"
    );
    let missing = layout.manifest(Some(&tag("v2"))).await.unwrap_err();
    let cause = std::error::Error::source(&missing).unwrap();
    assert!(cause.is::<LayoutFailure>());
    assert!(
        matches!(failure(missing), LayoutFailure::NoSuchImage { wanted, .. } if wanted == "v2")
    );
}

#[tokio::test]
async fn names_that_containerd_writes_are_found() {
    let scratch = scratch();
    let layout = OciLayout::create_dir(scratch.path()).await.unwrap();
    layout
        .push_image(&an_index("one"), Some("1.36"))
        .await
        .unwrap();
    let path = scratch.path().join("index.json");
    let text = fs::read_to_string(&path).unwrap();
    let whole = "docker.io/library/busybox:1.36";
    let named = text.replace(
        r#""org.opencontainers"#,
        &format!(r#""io.containerd.image.name":"{whole}","org.opencontainers"#),
    );
    fs::write(path, named).unwrap();
    for name in ["1.36", whole] {
        assert_eq!(
            layout.manifest(Some(&tag(name))).await.unwrap(),
            an_index("one")
        );
    }
}

#[tokio::test]
async fn pushes_at_the_same_time_lose_nothing() {
    let scratch = scratch();
    let layout = OciLayout::create_dir(scratch.path()).await.unwrap();
    let pushes = (0..20).map(|number| {
        let layout = layout.clone();
        async move {
            let name = format!("v{number}");
            layout
                .push_image(&an_index(&name), Some(&name))
                .await
                .unwrap();
        }
    });
    futures::future::join_all(pushes).await;
    assert_eq!(layout.images().await.unwrap().len(), 20);
}

#[tokio::test]
async fn what_is_no_layout_is_told() {
    let scratch = scratch();
    let open = |path: &Path| {
        let path = path.to_owned();
        async move { failure(OciLayout::open_dir(&path).await.unwrap_err()) }
    };
    assert!(matches!(
        open(&scratch.path().join("no")).await,
        LayoutFailure::Io(_)
    ));
    assert!(matches!(
        open(scratch.path()).await,
        LayoutFailure::NotALayout
    ));
    let mark = scratch.path().join("oci-layout");
    for content in ["", "{}", r#"{"imageLayoutVersion":"2.0.0"}"#] {
        fs::write(&mark, content).unwrap();
        assert!(matches!(
            open(scratch.path()).await,
            LayoutFailure::NotALayout
        ));
    }
    fs::remove_file(mark).unwrap();
    fs::write(scratch.path().join("photo.jpg"), "x").unwrap();
    let error = OciLayout::create_dir(scratch.path()).await.unwrap_err();
    assert!(matches!(failure(error), LayoutFailure::NotEmpty));
    assert_eq!(files(scratch.path()), ["photo.jpg"]);
}

#[tokio::test]
async fn what_is_no_archive_is_told() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let open = async |path: &Path| failure(OciLayout::open_archive(path).await.unwrap_err());
    assert!(matches!(open(file.path()).await, LayoutFailure::NotALayout));
    file.write_all(&[b'x'; 2048]).unwrap();
    assert!(matches!(open(file.path()).await, LayoutFailure::Tar(_)));
    fs::write(file.path(), [0x1f, 0x8b, 8, 0, 0]).unwrap();
    assert!(matches!(open(file.path()).await, LayoutFailure::Compressed));
    let mut tar = tar::Builder::new(fs::File::create(file.path()).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    tar.append_data(&mut header, "index.json", b"{}".as_slice())
        .unwrap();
    tar.finish().unwrap();
    assert!(matches!(open(file.path()).await, LayoutFailure::NotALayout));
}

#[tokio::test]
async fn what_refers_to_an_image_is_found_and_does_not_hide_it() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = OciLayout::create_dir(scratch.path()).await.unwrap();
    let config = Descriptor::new(media_type::OCI_CONFIG, Digest::of(b"{}"), 2);
    let mut image = ImageManifest::new(config, Vec::new());
    let original = Manifest::from_image(&image).unwrap();
    layout.push_image(&original, None).await.unwrap();
    image.subject = Some(original.descriptor());
    image.artifact_type = Some("application/vnd.example".to_owned());
    let referrer = Manifest::from_image(&image).unwrap();
    for name in [None, Some("named"), None] {
        layout.push_referrer(&referrer, name).await.unwrap();
    }
    let found = layout.referrers(&original.digest()).await.unwrap();
    assert_eq!(found, [referrer.referrer_descriptor()]);
    assert_eq!(layout.referrers(&referrer.digest()).await.unwrap(), []);
    assert_eq!(layout.manifest(None).await.unwrap(), original);
    let named = ManifestSelector::Tag("named".to_owned());
    assert_eq!(layout.manifest(Some(&named)).await.unwrap(), referrer);
}
