//! The client against a registry that others wrote: push, mount, pull, ranges, copies.
//!
//! Where `docker-registry` is not installed these tests say so and pass: what they check is the other side's
//! behaviour, and the client's own is checked everywhere.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where and why by panicking"
)]
#![expect(
    clippy::print_stderr,
    reason = "whoever runs the tests must see what was not run"
)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use tempfile::TempDir;
use tranship_format::{ByteRange, Digest};
use tranship_source::manifest::{ImageIndex, ImageManifest, media_type};
use tranship_source::registry::{Pushed, RegistryOptions};
use tranship_source::{
    BlobBody, Descriptor, ImageReference, ImageStore, Manifest, ManifestSelector, Platform,
    RegistryClient, RegistryFailure, RepoRef,
};

/// Where Debian and others put it; along `PATH` otherwise.
const PROGRAM: &str = "docker-registry";

/// A registry process on a free port, with its storage.
struct Registry {
    process: Child,
    host: String,
    /// Reads on, so that the process never waits for somebody to read its log.
    log: Option<JoinHandle<()>>,
    _storage: TempDir,
}

impl Registry {
    /// `None` if it is not installed.
    fn start() -> Option<Self> {
        let storage = tempfile::tempdir().unwrap();
        let config = storage.path().join("config.yml");
        let root = storage.path().join("storage");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n",
            root.display()
        );
        std::fs::write(&config, text).unwrap();
        let process = spawn(&config)?;
        Some(Self::await_address(process, storage))
    }

    fn await_address(mut process: Child, storage: TempDir) -> Self {
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        let host = loop {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the registry ended");
            if let Some((_, rest)) = line.split_once("listening on ") {
                let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
                break rest.get(..end.unwrap_or(rest.len())).unwrap().to_owned();
            }
        };
        let log = std::thread::spawn(move || {
            let _ = std::io::copy(&mut log, &mut std::io::sink());
        });
        Self {
            process,
            host,
            log: Some(log),
            _storage: storage,
        }
    }

    fn repo(&self, path: &str) -> RepoRef {
        format!("{}/{path}", self.host).parse().unwrap()
    }

    fn reference(&self, image: &str) -> ImageReference {
        format!("docker://{}/{image}", self.host).parse().unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(log) = self.log.take() {
            let _ = log.join();
        }
    }
}

fn spawn(config: &Path) -> Option<Child> {
    let spawned = Command::new(PROGRAM)
        .arg("serve")
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    match spawned {
        Ok(process) => Some(process),
        Err(error) => {
            eprintln!("not run: {PROGRAM} cannot be started: {error}");
            None
        }
    }
}

fn client() -> RegistryClient {
    RegistryClient::new(RegistryOptions::default()).unwrap()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..251).cycle().take(len).collect()
}

#[tokio::test]
async fn blobs_are_pushed_mounted_and_pulled() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (client, repo) = (client(), registry.repo("team/app"));
    client.ping(&repo).await.unwrap();
    // Larger than every buffer on the way.
    let content = bytes(5_000_003);
    let len = content.len() as u64;
    let digest = Digest::of(&content);
    assert_eq!(client.blob_exists(&repo, &digest).await.unwrap(), None);
    let reader = BlobBody::reader(std::io::Cursor::new(content.clone()));
    let pushed = client.push_blob(&repo, &digest, len, reader).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    let again = BlobBody::bytes(content.clone());
    let pushed = client.push_blob(&repo, &digest, len, again).await;
    assert_eq!(pushed.unwrap(), Pushed::AlreadyThere);

    let other = registry.repo("other");
    assert!(client.mount_blob(&other, &repo, &digest).await.unwrap());
    assert_eq!(
        client.blob_exists(&other, &digest).await.unwrap(),
        Some(len)
    );
    let absent = Digest::of(b"absent");
    assert!(!client.mount_blob(&other, &repo, &absent).await.unwrap());

    let whole = client.blob_bytes(&other, &digest, len).await.unwrap();
    assert!(whole == content);
    for (start, end) in [(0, 1), (262_144, 524_288), (len - 1, len), (0, len)] {
        let range = ByteRange::new(start, end);
        let part = client.blob_range(&other, &digest, range).await.unwrap();
        let (start, end) = (
            usize::try_from(start).unwrap(),
            usize::try_from(end).unwrap(),
        );
        assert!(part == content.get(start..end).unwrap(), "{range}");
    }
    for range in [
        ByteRange::new(len, len + 1),
        ByteRange::new(len - 1, len + 1),
    ] {
        let error = client.blob_range(&other, &digest, range).await.unwrap_err();
        assert!(
            matches!(error.failure(), RegistryFailure::RangeNotSatisfiable),
            "{error:?}"
        );
    }
    let error = client.blob(&other, &absent).await.unwrap_err();
    assert!(
        matches!(error.failure(), RegistryFailure::NotFound(_)),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_upload_of_wrong_bytes_leaves_nothing() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (client, repo) = (client(), registry.repo("team/app"));
    let promised = Digest::of(b"something else");
    let content = bytes(1_000_000);
    let body = BlobBody::bytes(content);
    let error = client.push_blob(&repo, &promised, 1_000_000, body).await;
    assert!(matches!(
        error.unwrap_err().failure(),
        RegistryFailure::WrongDigest { .. }
    ));
    assert_eq!(client.blob_exists(&repo, &promised).await.unwrap(), None);
}

#[tokio::test]
async fn manifests_and_tags_are_kept() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (client, repo) = (client(), registry.repo("team/app"));
    let store = ImageStore::create(&registry.reference("team/app:v1"), &client)
        .await
        .unwrap();
    let manifest = push_image(&store, "one").await;
    store.push_root(&manifest).await.unwrap();
    let tag = ManifestSelector::Tag("v1".into());
    assert_eq!(client.manifest(&repo, &tag).await.unwrap(), manifest);
    let by_digest = ManifestSelector::Digest(manifest.digest());
    assert_eq!(client.manifest(&repo, &by_digest).await.unwrap(), manifest);
    let found = client.find_manifest(&repo, &tag).await.unwrap();
    assert_eq!(found, Some(manifest.descriptor()));
    assert_eq!(client.tags(&repo).await.unwrap(), ["v1"]);
    let absent = ManifestSelector::Tag("absent".into());
    assert_eq!(client.find_manifest(&repo, &absent).await.unwrap(), None);
}

#[tokio::test]
async fn an_index_goes_through_every_kind_of_place() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let client = client();
    let scratch = tempfile::tempdir().unwrap();
    let on_disk = |kind: &str, name: &str| -> ImageReference {
        let path = scratch.path().join(name);
        format!("{kind}:{}:v1", path.display()).parse().unwrap()
    };
    let first = ImageStore::create(&registry.reference("first:v1"), &client)
        .await
        .unwrap();
    let amd64 = push_image(&first, "amd64").await;
    let arm64 = push_image(&first, "arm64").await;
    let entries =
        [("amd64", &amd64), ("arm64", &arm64)].map(|(architecture, manifest)| Descriptor {
            platform: Some(Platform::linux(architecture)),
            ..manifest.descriptor()
        });
    let index = Manifest::from_index(&ImageIndex::new(entries.to_vec())).unwrap();
    for manifest in [&amd64, &arm64] {
        first.push_manifest(manifest).await.unwrap();
    }
    first.push_root(&index).await.unwrap();

    let mut from = first;
    for reference in [
        registry.reference("second:v1"),
        on_disk("oci", "dir"),
        on_disk("oci-archive", "archive.tar"),
        registry.reference("third:v1"),
    ] {
        copy(&from, &reference, &client).await;
        from = ImageStore::open(&reference, &client).await.unwrap();
        let found = from.image(&Platform::linux("arm64")).await.unwrap();
        assert_eq!(
            (found.root, found.manifest),
            (index.clone(), arm64.clone()),
            "{reference}"
        );
        let config = from.config(&found.image).await.unwrap();
        assert_eq!(config, "config of arm64");
        let layer = found.image.layers.first().unwrap();
        let part = from.blob_range(&layer.digest, ByteRange::new(9, 14)).await;
        assert_eq!(part.unwrap(), "arm64", "{reference}");
    }
    let missing = ImageStore::open(&on_disk("oci", "dir"), &client)
        .await
        .unwrap();
    let absent = missing.blob(&Digest::of(b"absent")).await.unwrap_err();
    assert!(absent.is_not_found());
}

#[tokio::test]
async fn what_refers_to_an_image_is_found() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (client, repo) = (client(), registry.repo("team/app"));
    let store = ImageStore::create(&registry.reference("team/app:v1"), &client)
        .await
        .unwrap();
    let original = push_image(&store, "one").await;
    store.push_root(&original).await.unwrap();
    let subject = original.digest();
    assert_eq!(store.referrers(&subject, None).await.unwrap(), []);
    let kind = "application/vnd.example";
    for note in ["first", "second"] {
        let mut image = original.image().unwrap();
        image.subject = Some(original.descriptor());
        image.artifact_type = Some(kind.into());
        image.annotations.insert("note".into(), note.into());
        let referrer = Manifest::from_image(&image).unwrap();
        store
            .push_referrer(&referrer, note == "second")
            .await
            .unwrap();
    }
    let found = store.referrers(&subject, Some(kind)).await.unwrap();
    let notes: Vec<&str> = found
        .iter()
        .filter_map(|entry| entry.annotations.get("note").map(String::as_str))
        .collect();
    assert_eq!(notes, ["first", "second"]);
    let tag = ManifestSelector::Tag("v1".into());
    let named = client.manifest(&repo, &tag).await.unwrap();
    assert_eq!(named.subject(), Some(subject));
}

/// Pushes a configuration and a layer, and gives the manifest that is still to be pushed.
async fn push_image(store: &ImageStore, name: &str) -> Manifest {
    let mut descriptors = Vec::new();
    for (kind, media_type) in [
        ("config", media_type::OCI_CONFIG),
        ("layer", media_type::OCI_LAYER),
    ] {
        let content = format!("{kind} of {name}");
        let descriptor = Descriptor::new(
            media_type,
            Digest::of(content.as_bytes()),
            content.len() as u64,
        );
        let body = BlobBody::bytes(content);
        store
            .push_blob(&descriptor.digest, descriptor.size, body)
            .await
            .unwrap();
        descriptors.push(descriptor);
    }
    let layers = descriptors.split_off(1);
    let config = descriptors.pop().unwrap();
    Manifest::from_image(&ImageManifest::new(config, layers)).unwrap()
}

async fn copy(from: &ImageStore, to: &ImageReference, client: &RegistryClient) {
    let to = ImageStore::create(to, client).await.unwrap();
    let root = from.root().await.unwrap();
    to.copy_manifest(from, &root).await.unwrap();
    to.push_root(&root).await.unwrap();
    to.finish().await.unwrap();
}
