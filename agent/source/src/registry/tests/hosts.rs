//! Directories of hosts, as containerd's `certs.d`: who is asked, where, with which certificates and headers.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tranship_format::{ByteRange, Digest};

use super::server::*;
use super::tls::{Asks, Authority};
use crate::blob::BlobBody;
use crate::reference::{ManifestSelector, RepoRef};
use crate::registry::{RegistryClient, RegistryOptions};

const RANGE: ByteRange = ByteRange { start: 10, end: 20 };
const MANIFEST: &str = r#"{"schemaVersion":2,"manifests":[]}"#;

/// A directory of hosts with a folder for `registry.test`.
fn hosts(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("registry.test")).unwrap();
    for (name, text) in files {
        fs::write(dir.path().join("registry.test").join(name), text).unwrap();
    }
    dir
}

fn client_of(dir: &Path) -> RegistryClient {
    RegistryClient::new(RegistryOptions {
        hosts_dirs: vec![dir.to_owned()],
        deadline: Duration::ZERO,
        ..options()
    })
    .unwrap()
}

fn repo() -> RepoRef {
    "registry.test/team/app".parse().unwrap()
}

async fn read(client: &RegistryClient, digest: &Digest) -> Bytes {
    client.blob_range(&repo(), digest, RANGE).await.unwrap()
}

async fn good(bytes: &Bytes) -> Server {
    let bytes = bytes.clone();
    Server::start(move |seen| serve(&bytes, seen)).await
}

#[tokio::test]
async fn a_private_authority_is_trusted_for_its_host_alone() {
    let authority = Authority::new();
    let (bytes, digest) = blob(100);
    let given = bytes.clone();
    let (server, _) = authority
        .serve(Asks::Never, move |seen| serve(&given, seen))
        .await;
    let named = format!("server = \"https://{}\"\n", server.host);
    let trusting = format!("{named}ca = \"own.pem\"\n");
    let dir = hosts(&[("hosts.toml", &trusting), ("own.pem", &authority.pem())]);
    assert_eq!(
        read(&client_of(dir.path()), &digest).await,
        bytes.slice(10..20)
    );

    let dir = hosts(&[("hosts.toml", &named)]);
    let refused = client_of(dir.path())
        .blob_range(&repo(), &digest, RANGE)
        .await;
    let told = chain(&refused.unwrap_err());
    assert!(told.contains("TLS with"), "{told}");

    let dir = hosts(&[("hosts.toml", &format!("{named}skip_verify = true\n"))]);
    assert_eq!(
        read(&client_of(dir.path()), &digest).await,
        bytes.slice(10..20)
    );
}

#[tokio::test]
async fn dockers_certificates_are_found_by_host_and_port() {
    let authority = Authority::new();
    let (bytes, digest) = blob(100);
    let (server, _) = authority
        .serve(Asks::Never, move |seen| serve(&bytes, seen))
        .await;
    for name in [server.host.clone(), server.host.replace(':', "_") + "_"] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("ca.crt"), authority.pem()).unwrap();
        let client = client_of(dir.path());
        // Without TLS on this machine unless somebody says otherwise: then the server breaks off.
        client
            .blob_range(&server.repo(), &digest, RANGE)
            .await
            .unwrap_err();
        let hosts = format!("server = \"https://{}\"\nca = \"ca.crt\"\n", server.host);
        fs::write(folder.join("hosts.toml"), hosts).unwrap();
        let client = client_of(dir.path());
        client
            .blob_range(&server.repo(), &digest, RANGE)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn hosts_are_asked_in_order_and_one_that_is_down_costs_nothing() {
    let (bytes, digest) = blob(100);
    let (mirror, registry) = (good(&bytes).await, good(&bytes).await);
    // Bound, and nobody listens: connections are refused for as long as the test runs.
    let down = TcpSocket::new_v4().unwrap();
    down.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let dir = hosts(&[(
        "hosts.toml",
        &format!(
            r#"
            server = "http://{registry}"
            [host."http://{down}"]
            [host."http://{mirror}/v2/cached"]
            override_path = true
            [host."http://{mirror}/v2/cached".header]
            x-node = "one"
            "#,
            registry = registry.host,
            down = down.local_addr().unwrap(),
            mirror = mirror.host,
        ),
    )]);
    let client = client_of(dir.path());
    for _ in 0..2 {
        assert_eq!(read(&client, &digest).await, bytes.slice(10..20));
    }
    let whole = client.blob_bytes(&repo(), &digest, 100).await;
    assert_eq!(whole.unwrap(), bytes);
    assert_eq!((mirror.count("/"), registry.count("/")), (3, 0));
    for seen in mirror.seen() {
        assert_eq!(seen.path, format!("/v2/cached/team/app/blobs/{digest}"));
        assert_eq!(seen.query, "ns=registry.test");
        assert_eq!(seen.header("x-node"), Some("one"));
    }
}

#[tokio::test]
async fn a_certificate_of_ours_and_headers_are_for_the_host_alone() {
    let authority = Authority::new();
    let (bytes, digest) = blob(100);
    let (elsewhere, shown_elsewhere) = authority
        .serve(Asks::Politely, {
            let bytes = bytes.clone();
            move |seen| serve(&bytes, seen)
        })
        .await;
    let target = format!("https://{}/storage", elsewhere.host);
    let (server, shown) = authority
        .serve(Asks::Insists, move |_| {
            answer_with(307, &[("location", &target)], "")
        })
        .await;
    let (certificate, key) = authority.client();
    let both = format!("{certificate}{key}");
    for client_key in ["[[\"me.cert\", \"me.key\"]]", "\"both.pem\""] {
        let text = format!(
            r#"
            server = "https://{}"
            ca = "own.pem"
            client = {client_key}
            [header]
            x-secret = "hunter2"
            "#,
            server.host
        );
        let dir = hosts(&[
            ("hosts.toml", &text),
            ("own.pem", &authority.pem()),
            ("me.cert", &certificate),
            ("me.key", &key),
            ("both.pem", &both),
        ]);
        let client = client_of(dir.path());
        assert_eq!(read(&client, &digest).await, bytes.slice(10..20));
    }
    assert!(shown.load(Ordering::Relaxed) >= 2);
    assert_eq!(shown_elsewhere.load(Ordering::Relaxed), 0);
    let with_secret = |server: &Server| {
        let seen = server.seen().into_iter();
        seen.filter(|seen| seen.header("x-secret").is_some())
            .count()
    };
    assert_eq!((with_secret(&server), with_secret(&elsewhere)), (2, 0));
}

#[tokio::test]
async fn hosts_are_asked_for_what_they_may_say() {
    let manifest = |_: &Seen| {
        answer_with(
            200,
            &[("content-type", "application/vnd.oci.image.index.v1+json")],
            MANIFEST,
        )
    };
    let puller = Server::start(manifest).await;
    let resolver = Server::start(manifest).await;
    let (bytes, digest) = blob(10);
    let registry = Server::start(|seen| match seen.method.as_str() {
        "HEAD" => answer(404, ""),
        "POST" => answer_with(202, &[("location", "/upload")], ""),
        _ => answer(201, ""),
    })
    .await;
    let dir = hosts(&[(
        "hosts.toml",
        &format!(
            r#"
            server = "http://{}"
            [host."http://{}"]
            capabilities = ["pull"]
            [host."http://{}"]
            capabilities = ["pull", "resolve"]
            "#,
            registry.host, puller.host, resolver.host
        ),
    )]);
    let client = client_of(dir.path());
    let by_tag = ManifestSelector::Tag("latest".to_owned());
    client.manifest(&repo(), &by_tag).await.unwrap();
    assert_eq!((puller.count("/"), resolver.count("/")), (0, 1));
    let by_digest = ManifestSelector::Digest(Digest::of(MANIFEST.as_bytes()));
    client.manifest(&repo(), &by_digest).await.unwrap();
    assert_eq!((puller.count("/"), resolver.count("/")), (1, 1));
    assert_eq!(registry.count("/"), 0);
    let body = BlobBody::bytes(bytes.clone());
    let pushed = client
        .push_blob(&repo(), &digest, bytes.len() as u64, body)
        .await;
    pushed.unwrap();
    assert_eq!(registry.count("/upload"), 2);
    assert_eq!((puller.count("/"), resolver.count("/")), (1, 1));
}

#[tokio::test]
async fn a_registry_that_may_not_be_asked_is_not() {
    let registry = Server::start(|_| answer(200, MANIFEST)).await;
    let text = format!(
        "server = \"http://{}\"\ncapabilities = [\"push\"]\n",
        registry.host
    );
    let dir = hosts(&[("hosts.toml", &text)]);
    let by_tag = ManifestSelector::Tag("latest".to_owned());
    let refused = client_of(dir.path()).manifest(&repo(), &by_tag).await;
    let told = chain(&refused.unwrap_err());
    assert!(told.contains("none may be asked to resolve"), "{told}");
    assert_eq!(registry.count("/"), 0);
}

#[tokio::test]
async fn a_changed_file_is_seen_and_a_broken_one_is_named() {
    let (bytes, digest) = blob(100);
    let (first, second) = (good(&bytes).await, good(&bytes).await);
    let server = |server: &Server| format!("server = \"http://{}\"\n", server.host);
    let dir = hosts(&[("hosts.toml", &server(&first))]);
    let client = client_of(dir.path());
    let file = dir.path().join("registry.test/hosts.toml");
    read(&client, &digest).await;
    fs::write(&file, server(&second)).unwrap();
    later().await;
    read(&client, &digest).await;
    assert_eq!((first.count("/"), second.count("/")), (1, 1));
    fs::write(&file, "server = ").unwrap();
    later().await;
    let refused = client.blob_range(&repo(), &digest, RANGE).await;
    let told = chain(&refused.unwrap_err());
    assert!(told.contains("hosts.toml is not well formed"), "{told}");
    // Others are none the worse for it.
    let other = client.blob_range(&first.repo(), &digest, RANGE).await;
    assert_eq!(other.unwrap(), bytes.slice(10..20));
}

/// Lets what was read grow old.
async fn later() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(1)).await;
    tokio::time::resume();
}
