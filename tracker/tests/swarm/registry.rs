//! A registry in this process that serves one image by ranges and counts what it sends.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::net::TcpListener;
use tokio::sync::RwLock;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::cluster::PATIENCE;
use crate::image::Image;

/// The repository that the image is in.
pub(crate) const REPOSITORY: &str = "team/app";

#[derive(Debug)]
struct Shelf {
    image: Image,
    sent_len: AtomicU64,
    request_count: AtomicU64,
    is_down: AtomicBool,
    /// Until then it asks to be left alone.
    busy_until: Mutex<Option<Instant>>,
    busy_count: AtomicU64,
    /// Who is let in, if not everybody.
    door: Option<Mutex<Door>>,
    /// Tokens that were shown, good or not.
    shown: Mutex<BTreeSet<String>>,
    /// Answers wait for this.
    gate: RwLock<()>,
}

/// A token service: whoever knows the password gets a token for pulling.
#[derive(Debug, Default)]
struct Door {
    host: String,
    is_shut: bool,
    given_count: u64,
    good: BTreeSet<String>,
}

/// The password of the user `reader`, who may pull.
pub(crate) const PASSWORD: &str = "a password for tests";

/// What `docker login` would have written for that user.
pub(crate) fn docker_config(registry: &Registry) -> String {
    let auth = STANDARD.encode(format!("reader:{PASSWORD}"));
    serde_json::json!({ "auths": { registry.host(): { "auth": auth } } }).to_string()
}

/// A registry, until it is dropped.
#[derive(Debug)]
pub(crate) struct Registry {
    shelf: Arc<Shelf>,
    host: String,
    serving: JoinHandle<()>,
}

impl Registry {
    pub(crate) async fn start(image: &Image) -> Self {
        Self::start_with(image, false).await
    }

    /// A registry that only lets `reader` in.
    pub(crate) async fn start_private(image: &Image) -> Self {
        Self::start_with(image, true).await
    }

    async fn start_with(image: &Image, is_private: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let door = Door {
            host: host.clone(),
            ..Door::default()
        };
        let shelf = Arc::new(Shelf {
            image: image.clone(),
            sent_len: AtomicU64::new(0),
            request_count: AtomicU64::new(0),
            is_down: AtomicBool::new(false),
            busy_until: Mutex::default(),
            busy_count: AtomicU64::new(0),
            door: is_private.then(|| Mutex::new(door)),
            shown: Mutex::default(),
            gate: RwLock::new(()),
        });
        let router = Router::new()
            .route("/v2/team/app/manifests/{which}", get(manifest))
            .route("/v2/team/app/blobs/{digest}", get(blob))
            .route("/token", get(token))
            .with_state(Arc::clone(&shelf));
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        });
        Self {
            shelf,
            host,
            serving,
        }
    }

    /// `host:port`.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Bytes of blobs sent so far.
    pub(crate) fn sent_len(&self) -> u64 {
        self.shelf.sent_len.load(SeqCst)
    }

    /// Requests for blobs so far.
    pub(crate) fn request_count(&self) -> u64 {
        self.shelf.request_count.load(SeqCst)
    }

    /// Holds all answers back until what this gives is dropped.
    pub(crate) async fn hold(&self) -> impl Drop + '_ {
        self.shelf.gate.write().await
    }

    /// Waits for the request with this number.
    pub(crate) async fn until_requests(&self, count: u64) {
        let requested = async {
            while self.request_count() < count {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, requested)
            .await
            .expect("a request in time");
    }

    /// From now on nobody is let in: passwords and tokens are good no more.
    pub(crate) fn shut(&self) {
        let mut door = self.shelf.door.as_ref().unwrap().lock().unwrap();
        door.is_shut = true;
        door.good.clear();
    }

    /// Tokens that were shown to it.
    pub(crate) fn shown(&self) -> BTreeSet<String> {
        self.shelf.shown.lock().unwrap().clone()
    }

    /// For so long requests for blobs are answered with how long to wait.
    pub(crate) fn be_busy(&self, time: Duration) {
        *self.shelf.busy_until.lock().unwrap() = Some(Instant::now() + time);
    }

    /// Requests that were answered so.
    pub(crate) fn busy_count(&self) -> u64 {
        self.shelf.busy_count.load(SeqCst)
    }

    /// From now on every request fails.
    pub(crate) fn go_down(&self) {
        self.shelf.is_down.store(true, SeqCst);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shelf {
    /// The answer to whoever comes too often.
    fn put_off(&self) -> Option<Response> {
        let until = (*self.busy_until.lock().unwrap())?;
        let left = until.checked_duration_since(Instant::now())?;
        let count = self.busy_count.fetch_add(1, SeqCst);
        // Registries say the one or the other.
        let status = if count.is_multiple_of(2) {
            StatusCode::TOO_MANY_REQUESTS
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let headers = [(header::RETRY_AFTER, (left.as_secs() + 1).to_string())];
        Some((status, headers).into_response())
    }

    /// The answer to whoever may not come in.
    fn keep_out(&self, headers: &HeaderMap) -> Option<Response> {
        let door = self.door.as_ref()?.lock().unwrap();
        let shown = headers.get(header::AUTHORIZATION);
        let token = shown.and_then(|shown| shown.to_str().unwrap().strip_prefix("Bearer "));
        if let Some(token) = token {
            self.shown.lock().unwrap().insert(token.to_owned());
            if door.good.contains(token) {
                return None;
            }
        }
        let challenge = format!(
            "Bearer realm=\"http://{}/token\",service=\"test\",scope=\"repository:{REPOSITORY}:pull\"",
            door.host
        );
        let headers = [(header::WWW_AUTHENTICATE, challenge)];
        Some((StatusCode::UNAUTHORIZED, headers).into_response())
    }
}

/// Anybody gets a token; it is good for those who know the password.
async fn token(State(shelf): State<Arc<Shelf>>, headers: HeaderMap) -> Response {
    if shelf.is_down.load(SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let mut door = shelf.door.as_ref().unwrap().lock().unwrap();
    door.given_count += 1;
    let token = format!("token-{}", door.given_count);
    let known = format!("Basic {}", STANDARD.encode(format!("reader:{PASSWORD}")));
    let shown = headers.get(header::AUTHORIZATION);
    if !door.is_shut && shown.is_some_and(|shown| shown.to_str().unwrap() == known) {
        door.good.insert(token.clone());
    }
    axum::Json(serde_json::json!({ "token": token, "expires_in": 300 })).into_response()
}

async fn manifest(
    State(shelf): State<Arc<Shelf>>,
    Path(which): Path<String>,
    headers: HeaderMap,
) -> Response {
    let manifest = &shelf.image.manifest;
    if shelf.is_down.load(SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if let Some(refusal) = shelf.keep_out(&headers) {
        return refusal;
    }
    if which != manifest.digest().to_string() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let kind = [(header::CONTENT_TYPE, manifest.media_type().to_owned())];
    (kind, manifest.bytes().clone()).into_response()
}

async fn blob(
    State(shelf): State<Arc<Shelf>>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Response {
    let blob = &shelf.image.blob;
    if shelf.is_down.load(SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if let Some(refusal) = shelf.keep_out(&headers).or_else(|| shelf.put_off()) {
        return refusal;
    }
    if digest != shelf.image.digest.to_string() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let Some(range) = headers.get(header::RANGE) else {
        shelf.request_count.fetch_add(1, SeqCst);
        let _open = shelf.gate.read().await;
        shelf.sent_len.fetch_add(blob.len() as u64, SeqCst);
        return Body::from(blob.clone()).into_response();
    };
    let range = range.to_str().unwrap();
    let (first, last) = range
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
        .unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let part = blob.slice(first..=last);
    shelf.request_count.fetch_add(1, SeqCst);
    let _open = shelf.gate.read().await;
    shelf.sent_len.fetch_add(part.len() as u64, SeqCst);
    let said = format!("bytes {first}-{last}/{}", blob.len());
    let headers = [(header::CONTENT_RANGE, said)];
    (StatusCode::PARTIAL_CONTENT, headers, Body::from(part)).into_response()
}
