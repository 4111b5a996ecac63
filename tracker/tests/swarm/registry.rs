//! A registry in this process that serves one image by ranges and counts what it sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
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
    /// Answers wait for this.
    gate: RwLock<()>,
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
        let shelf = Arc::new(Shelf {
            image: image.clone(),
            sent_len: AtomicU64::new(0),
            request_count: AtomicU64::new(0),
            is_down: AtomicBool::new(false),
            gate: RwLock::new(()),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let router = Router::new()
            .route("/v2/team/app/manifests/{which}", get(manifest))
            .route("/v2/team/app/blobs/{digest}", get(blob))
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

async fn manifest(State(shelf): State<Arc<Shelf>>, Path(which): Path<String>) -> Response {
    let manifest = &shelf.image.manifest;
    if shelf.is_down.load(SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
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
    if digest != shelf.image.digest.to_string() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let range = headers.get(header::RANGE).unwrap().to_str().unwrap();
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
