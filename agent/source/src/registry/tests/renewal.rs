//! Credentials that end while they are in use, and are found anew: once, for all who read.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::response::Response;
use bytes::Bytes;
use tranship_format::ByteRange;

use super::server::*;
use crate::credentials::{Credential, Credentials, Learnt, Plugins, Secret};
use crate::registry::{RegistryClient, RegistryOptions};

const RANGE: ByteRange = ByteRange { start: 10, end: 20 };
/// How long a busy machine may take for what is done behind.
const PATIENCE: Duration = Duration::from_secs(20);

/// A plugin that counts its calls and gives what lies in `password`.
fn plugins(dir: &Path) -> Plugins {
    let config = r#"{"apiVersion":"kubelet.config.k8s.io/v1","kind":"CredentialProviderConfig","providers":[
        {"name":"plugin","matchImages":["*.*.*.*:PORT"],"defaultCacheDuration":"1h",
         "apiVersion":"credentialprovider.kubelet.k8s.io/v1"}]}"#;
    let script = format!(
        r#"#!/bin/sh
cd {}
echo called >>calls
echo "{{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\"cacheKeyType\":\"Global\",\"auth\":{{\"$(cat host)\":{{\"username\":\"u\",\"password\":\"$(cat password)\"}}}}}}"
"#,
        dir.display()
    );
    let host = fs::read_to_string(dir.join("host")).unwrap();
    let port = host.rsplit_once(':').unwrap().1;
    fs::write(dir.join("config.json"), config.replace("PORT", port)).unwrap();
    let program = dir.join("plugin");
    crate::credentials::write_program(&program, &script);
    Plugins::read(&dir.join("config.json"), dir).unwrap()
}

/// Lets in whoever shows the password of the day; the old one is answered as some clouds do, with 403.
fn play(bytes: &Bytes, is_new: &AtomicBool, seen: &Seen) -> Response {
    // u:old and u:new
    let wanted = if is_new.load(Ordering::Relaxed) {
        "Basic dTpuZXc="
    } else {
        "Basic dTpvbGQ="
    };
    match seen.authorization() {
        Some(shown) if shown == wanted => serve(bytes, seen),
        Some(_) => answer(403, ""),
        None => answer_with(401, &[("www-authenticate", "Basic realm=\"registry\"")], ""),
    }
}

fn client_with(credentials: Credentials) -> RegistryClient {
    RegistryClient::new(RegistryOptions {
        credentials,
        ..options()
    })
    .unwrap()
}

#[tokio::test]
async fn a_plugin_is_asked_once_for_all_whose_credentials_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = blob(100);
    let is_new = Arc::new(AtomicBool::new(false));
    let (given, day) = (bytes.clone(), Arc::clone(&is_new));
    let server = Server::start(move |seen| play(&given, &day, seen)).await;
    fs::write(dir.path().join("host"), &server.host).unwrap();
    fs::write(dir.path().join("password"), "old").unwrap();
    let client = client_with(Credentials::anonymous().with_plugins(plugins(dir.path())));
    let calls = || {
        let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
        calls.lines().count()
    };
    let read = async || client.blob_range(&server.repo(), &digest, RANGE).await;
    assert_eq!(read().await.unwrap(), bytes.slice(10..20));
    assert_eq!(calls(), 1);

    is_new.store(true, Ordering::Relaxed);
    fs::write(dir.path().join("password"), "new").unwrap();
    later(Duration::from_secs(30)).await;
    let reads = (0..20).map(|_| {
        let (client, repo) = (client.clone(), server.repo());
        tokio::spawn(async move { client.blob_range(&repo, &digest, RANGE).await })
    });
    for read in reads.collect::<Vec<_>>() {
        assert_eq!(read.await.unwrap().unwrap(), bytes.slice(10..20));
    }
    assert_eq!(calls(), 2);
}

#[tokio::test]
async fn where_one_is_refused_the_next_is_shown() {
    let (bytes, digest) = blob(100);
    let is_new = AtomicBool::new(true);
    let server = {
        let bytes = bytes.clone();
        Server::start(move |seen| play(&bytes, &is_new, seen)).await
    };
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret.json");
    let text = format!(
        r#"{{"auths":{{"{}":{{"username":"u","password":"new"}}}}}}"#,
        server.host
    );
    fs::write(&secret, text).unwrap();
    let learnt = Arc::new(Learnt::in_memory());
    let old = Credential::Basic {
        username: "u".to_owned(),
        password: Secret::new("old"),
    };
    learnt.learn(&server.repo(), old);
    let credentials = Credentials::anonymous()
        .with_learnt(learnt)
        .with_pull_secret(secret);
    let client = client_with(credentials);
    for _ in 0..3 {
        let read = client.blob_range(&server.repo(), &digest, RANGE).await;
        assert_eq!(read.unwrap(), bytes.slice(10..20));
    }
    let refused = server.seen().into_iter();
    let refused = refused.filter(|seen| seen.authorization() == Some("Basic dTpvbGQ="));
    assert_eq!(refused.count(), 1);
}

#[tokio::test]
async fn a_redirect_to_another_host_shows_it_nothing() {
    let (bytes, digest) = blob(100);
    let elsewhere = {
        let bytes = bytes.clone();
        Server::start(move |seen| serve(&bytes, seen)).await
    };
    let target = format!("http://{}/storage?signature=s", elsewhere.host);
    let server = Server::start(move |seen| match seen.authorization() {
        Some("Basic dTpuZXc=") => answer_with(307, &[("location", &target)], ""),
        _ => answer_with(401, &[("www-authenticate", "Basic realm=\"registry\"")], ""),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("host"), &server.host).unwrap();
    fs::write(dir.path().join("password"), "new").unwrap();
    let client = client_with(Credentials::anonymous().with_plugins(plugins(dir.path())));
    for _ in 0..2 {
        let read = client.blob_range(&server.repo(), &digest, RANGE).await;
        assert_eq!(read.unwrap(), bytes.slice(10..20));
    }
    let seen = elsewhere.seen();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        assert_eq!((seen.authorization(), seen.header("cookie")), (None, None));
    }
}

/// A token service whose first token is good for a minute, and that keeps whoever asks for another waiting, or not; the registry takes all.
struct Service {
    blob: Bytes,
    issued: AtomicU64,
    keeps_waiting: bool,
}

impl Service {
    async fn start(blob: Bytes, keeps_waiting: bool) -> Server {
        let service = Self {
            blob,
            issued: AtomicU64::new(0),
            keeps_waiting,
        };
        Server::start_knowing_host(move |host, seen| service.play(host, seen)).await
    }

    fn play(&self, host: &str, seen: &Seen) -> Play {
        if seen.path == "/token" {
            let number = self.issued.fetch_add(1, Ordering::SeqCst) + 1;
            if self.keeps_waiting && number > 1 {
                return Play::Hang;
            }
            let token = format!(r#"{{"token":"token-{number}","expires_in":60}}"#);
            return answer(200, token).into();
        }
        let challenge = format!(r#"Bearer realm="http://{host}/token""#);
        match seen.authorization() {
            None => answer_with(401, &[("www-authenticate", &challenge)], "").into(),
            Some(_) => serve(&self.blob, seen).into(),
        }
    }
}

/// What was shown for the blob, in order.
fn shown(server: &Server) -> Vec<Option<String>> {
    let seen = server.seen().into_iter();
    let blobs = seen.filter(|seen| seen.path.contains("/blobs/"));
    blobs
        .map(|seen| seen.authorization().map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn a_token_that_is_about_to_expire_is_renewed_while_nobody_waits() {
    let (bytes, digest) = blob(100);
    let server = Service::start(bytes, true).await;
    let client = client_with(Credentials::anonymous().with(&server.host, user()));
    let read = async || {
        let part = client.blob_range(&server.repo(), &digest, RANGE).await;
        part.unwrap();
    };
    read().await;
    later(Duration::from_secs(40)).await;
    read().await;
    assert_eq!(server.count("/token"), 1, "it is good for long enough");
    // From the 42nd second on the next one is asked for, and the service says nothing: nobody notices, and nobody asks again.
    later(Duration::from_secs(4)).await;
    let begun = Instant::now();
    while server.count("/token") < 2 {
        assert!(begun.elapsed() < PATIENCE);
        read().await;
    }
    futures::future::join_all((0..20).map(|_| read())).await;
    assert_eq!(server.count("/token"), 2);
    let old = Some("Bearer token-1".to_owned());
    assert!(shown(&server).iter().skip(1).all(|shown| *shown == old));
}

#[tokio::test]
async fn the_next_token_takes_the_place_of_the_old_one_before_that_expires() {
    let (bytes, digest) = blob(100);
    let server = Service::start(bytes, false).await;
    let client = client_with(Credentials::anonymous().with(&server.host, user()));
    for number in 1..5 {
        let token = Some(format!("Bearer token-{number}"));
        let begun = Instant::now();
        while shown(&server).last() != Some(&token) {
            assert!(begun.elapsed() < PATIENCE, "{token:?}");
            let part = client.blob_range(&server.repo(), &digest, RANGE).await;
            part.unwrap();
        }
        later(Duration::from_secs(45)).await;
    }
    assert_eq!(server.count("/token"), 4);
    let none = shown(&server).into_iter().filter(Option::is_none);
    assert_eq!(
        none.count(),
        1,
        "the first alone had to be told what to show"
    );
}

#[tokio::test]
async fn what_a_plugin_gave_is_renewed_before_a_registry_refuses_it() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, digest) = blob(100);
    let server = Server::start(move |seen| match seen.authorization() {
        Some(_) => serve(&bytes, seen),
        None => answer_with(401, &[("www-authenticate", "Basic realm=\"registry\"")], ""),
    })
    .await;
    fs::write(dir.path().join("host"), &server.host).unwrap();
    fs::write(dir.path().join("password"), "old").unwrap();
    let client = client_with(Credentials::anonymous().with_plugins(plugins(dir.path())));
    let read = async || {
        let part = client.blob_range(&server.repo(), &digest, RANGE).await;
        part.unwrap();
    };
    read().await;
    fs::write(dir.path().join("password"), "new").unwrap();
    later(Duration::from_mins(54)).await;
    read().await;
    // An hour, less the five minutes that it is asked before.
    later(Duration::from_mins(2)).await;
    let new = Some("Basic dTpuZXc=".to_owned());
    let begun = Instant::now();
    while shown(&server).last() != Some(&new) {
        assert!(begun.elapsed() < PATIENCE);
        read().await;
    }
    let calls = fs::read_to_string(dir.path().join("calls")).unwrap();
    assert_eq!(calls.lines().count(), 2);
}

async fn later(after: Duration) {
    tokio::time::pause();
    tokio::time::advance(after).await;
    tokio::time::resume();
}
