//! A registry that does as the test says, and counts what it sends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::{Barrier, oneshot};

#[derive(Default)]
struct Shelf {
    manifests: Mutex<HashMap<String, (String, Vec<u8>)>>,
    blobs: Mutex<HashMap<String, Vec<u8>>>,
    sent: AtomicU64,
    /// Blob, byte, and how many answers that hold it have it flipped.
    flips: Mutex<Vec<(String, u64, u32)>>,
    no_ranges: AtomicBool,
    /// Blob and first byte of each answer's range, in the order of the requests.
    requests: Mutex<Vec<(String, u64)>>,
    /// So many first requests of blobs are answered only when all of them are here.
    together: Mutex<Option<(u64, Arc<Barrier>)>>,
    tickets: AtomicU64,
}

/// A running registry; dropping it closes its port.
pub(crate) struct Registry {
    shelf: Arc<Shelf>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let shelf = Arc::new(Shelf::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let (told, address) = std::sync::mpsc::channel();
        let router = Router::new()
            .route("/v2/", get(|| async { "{}" }))
            .route("/v2/{team}/{name}/manifests/{which}", get(manifest))
            .route("/v2/{team}/{name}/blobs/{digest}", get(blob))
            .with_state(Arc::clone(&shelf));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                told.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    served = async { axum::serve(listener, router).await } => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self {
            shelf,
            address: address.recv().unwrap(),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The name of an image in it.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/team/{name}", self.address)
    }

    pub(crate) fn put_blob(&self, digest: &str, bytes: Vec<u8>) {
        self.shelf
            .blobs
            .lock()
            .unwrap()
            .insert(digest.to_owned(), bytes);
    }

    pub(crate) fn put_manifest(&self, which: &str, media_type: &str, bytes: &[u8]) {
        let entry = (media_type.to_owned(), bytes.to_vec());
        self.shelf
            .manifests
            .lock()
            .unwrap()
            .insert(which.to_owned(), entry);
    }

    /// Flips a bit of byte `at` of the blob in the next `count` answers that hold it.
    pub(crate) fn flip(&self, digest: &str, at: u64, count: u32) {
        self.shelf
            .flips
            .lock()
            .unwrap()
            .push((digest.to_owned(), at, count));
    }

    /// Answers every read of a blob with all of it from now on.
    pub(crate) fn ignore_ranges(&self) {
        self.shelf.no_ranges.store(true, Ordering::SeqCst);
    }

    /// Bytes of manifests and blobs that were sent.
    pub(crate) fn sent_len(&self) -> u64 {
        self.shelf.sent.load(Ordering::SeqCst)
    }

    /// Answers the next `count` requests of blobs only when all of them are here at once.
    pub(crate) fn answer_together(&self, count: u32) {
        let barrier = Arc::new(Barrier::new(usize::try_from(count).unwrap()));
        *self.shelf.together.lock().unwrap() = Some((u64::from(count), barrier));
        self.shelf.tickets.store(0, Ordering::SeqCst);
    }

    /// Blob and first byte of each request for a blob so far.
    pub(crate) fn requests(&self) -> Vec<(String, u64)> {
        self.shelf.requests.lock().unwrap().clone()
    }

    /// Closes the port for good.
    pub(crate) fn close(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn manifest(
    State(shelf): State<Arc<Shelf>>,
    Path((_, _, which)): Path<(String, String, String)>,
) -> Response {
    let found = shelf.manifests.lock().unwrap().get(&which).cloned();
    let Some((media_type, bytes)) = found else {
        return StatusCode::NOT_FOUND.into_response();
    };
    shelf.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
    ([(header::CONTENT_TYPE, media_type)], bytes).into_response()
}

async fn blob(
    State(shelf): State<Arc<Shelf>>,
    Path((_, _, digest)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let found = shelf.blobs.lock().unwrap().get(&digest).cloned();
    let Some(mut bytes) = found else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let whole = bytes.len() as u64;
    let asked = headers.get(header::RANGE);
    let range = asked
        .filter(|_| !shelf.no_ranges.load(Ordering::SeqCst))
        .map(|value| parse_range(value.to_str().unwrap(), whole));
    let wanted = range.clone().unwrap_or(0..whole);
    let request = (digest.clone(), wanted.start);
    shelf.requests.lock().unwrap().push(request);
    let ticket = shelf.tickets.fetch_add(1, Ordering::SeqCst);
    let together = shelf.together.lock().unwrap().clone();
    if let Some((_, barrier)) = together.filter(|(count, _)| ticket < *count) {
        barrier.wait().await;
    }
    for (name, at, count) in shelf.flips.lock().unwrap().iter_mut() {
        if *name == digest && wanted.contains(at) && *count > 0 {
            *count -= 1;
            bytes[usize::try_from(*at).unwrap()] ^= 1;
        }
    }
    let bytes = bytes[usize::try_from(wanted.start).unwrap()..usize::try_from(wanted.end).unwrap()]
        .to_vec();
    shelf.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
    let status = if range.is_some() {
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    let mut response = Response::builder().status(status);
    if range.is_some() {
        response = response.header(
            header::CONTENT_RANGE,
            format!("bytes {}-{}/{whole}", wanted.start, wanted.end - 1),
        );
    }
    response.body(Body::from(bytes)).unwrap()
}

fn parse_range(text: &str, whole: u64) -> Range<u64> {
    let (start, end) = text
        .strip_prefix("bytes=")
        .unwrap()
        .split_once('-')
        .unwrap();
    let start: u64 = start.parse().unwrap();
    let end = end
        .parse::<u64>()
        .map_or(whole, |last| (last + 1).min(whole));
    start..end
}
