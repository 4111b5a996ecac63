//! An HTTP server on a free port of this machine whose every answer a test decides.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::serve::Listener;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tranship_format::{ByteRange, Digest};

use crate::credentials::{Credential, Credentials, Secret};
use crate::reference::RepoRef;
use crate::registry::{RegistryClient, RegistryOptions};

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(super) fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }

    /// The range that was asked for, half open.
    pub(super) fn range(&self) -> Option<ByteRange> {
        let (first, last) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        let last: u64 = last.parse().unwrap();
        Some(ByteRange::new(first.parse().unwrap(), last + 1))
    }
}

/// What the server does with a request.
pub(super) enum Play {
    Answer(Response),
    /// Says nothing for ever.
    Hang,
}

impl From<Response> for Play {
    fn from(response: Response) -> Self {
        Self::Answer(response)
    }
}

pub(super) struct Server {
    pub(super) host: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(super) async fn start<P: Into<Play>>(
        play: impl Fn(&Seen) -> P + Send + Sync + 'static,
    ) -> Self {
        Self::start_knowing_host(move |_, seen| play(seen)).await
    }

    /// The play is also told the host that it runs on.
    pub(super) async fn start_knowing_host<P: Into<Play>>(
        play: impl Fn(&str, &Seen) -> P + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        Self::start_on(listener, host, play)
    }

    pub(super) fn start_on<P: Into<Play>>(
        listener: impl Listener<Addr: std::fmt::Debug>,
        host: String,
        play: impl Fn(&str, &Seen) -> P + Send + Sync + 'static,
    ) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let play = Arc::new(play);
        let (log, own_host) = (Arc::clone(&seen), host.clone());
        let router = Router::new().fallback(move |request: Request| {
            let (log, play, host) = (Arc::clone(&log), Arc::clone(&play), own_host.clone());
            async move {
                let (head, body) = request.into_parts();
                let Ok(body) = to_bytes(body, usize::MAX).await else {
                    return answer(400, "broken body");
                };
                let request = Seen {
                    method: head.method.to_string(),
                    path: head.uri.path().to_owned(),
                    query: head.uri.query().unwrap_or_default().to_owned(),
                    headers: head.headers,
                    body,
                };
                log.lock().unwrap().push(request.clone());
                match play(&host, &request).into() {
                    Play::Answer(response) => response,
                    Play::Hang => std::future::pending().await,
                }
            }
        });
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { host, seen, task }
    }

    pub(super) fn repo(&self) -> RepoRef {
        format!("{}/team/app", self.host).parse().unwrap()
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests had a path with `part` in it.
    pub(super) fn count(&self, part: &str) -> usize {
        self.seen()
            .iter()
            .filter(|seen| seen.path.contains(part))
            .count()
    }
}

/// Options for a busy machine: whoever answers is waited for, and pauses are short.
pub(super) fn options() -> RegistryOptions {
    RegistryOptions {
        connect_timeout: Duration::from_secs(20),
        read_timeout: Duration::from_secs(20),
        deadline: Duration::from_secs(20),
        first_pause: Duration::from_millis(1),
        ..RegistryOptions::default()
    }
}

pub(super) fn client() -> RegistryClient {
    RegistryClient::new(options()).unwrap()
}

/// A client that gives up at the first failure.
pub(super) fn impatient() -> RegistryClient {
    RegistryClient::new(RegistryOptions {
        deadline: Duration::ZERO,
        ..options()
    })
    .unwrap()
}

/// A client that also does not wait for long; for tests in which somebody is silent.
pub(super) fn short_of_time() -> RegistryClient {
    RegistryClient::new(RegistryOptions {
        deadline: Duration::ZERO,
        connect_timeout: Duration::from_secs(1),
        read_timeout: Duration::from_secs(1),
        ..options()
    })
    .unwrap()
}

pub(super) fn client_with(server: &Server, credential: Credential) -> RegistryClient {
    RegistryClient::new(RegistryOptions {
        credentials: Credentials::anonymous().with(&server.host, credential),
        ..options()
    })
    .unwrap()
}

/// User `u` with password `p`: `Basic dTpw`.
pub(super) fn user() -> Credential {
    Credential::Basic {
        username: "u".into(),
        password: Secret::new("p"),
    }
}

pub(super) fn answer(status: u16, body: impl Into<Body>) -> Response {
    answer_with(status, &[], body)
}

pub(super) fn answer_with(
    status: u16,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}

/// Answers a read of `blob` as a good registry does.
pub(super) fn serve(blob: &Bytes, seen: &Seen) -> Response {
    let Some(range) = seen.range() else {
        return answer(200, blob.clone());
    };
    let len = blob.len() as u64;
    if range.start >= len {
        return answer(416, "");
    }
    let end = range.end.min(len);
    let content_range = format!("bytes {}-{}/{len}", range.start, end - 1);
    let part = blob.slice(usize::try_from(range.start).unwrap()..usize::try_from(end).unwrap());
    answer_with(206, &[("content-range", &content_range)], part)
}

/// A blob of `len` bytes, none of which is its neighbour's.
pub(super) fn blob(len: usize) -> (Bytes, Digest) {
    let bytes: Bytes = (0..251).cycle().take(len).collect();
    let digest = Digest::of(&bytes);
    (bytes, digest)
}

/// An error and its causes, as people read them.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
