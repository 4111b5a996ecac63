//! A small OCI distribution registry on loopback, inside the demo's process, so that nothing has to be installed.
//!
//! It does what tranship and common clients use: blobs with ranges, uploads in pieces or at once, mounts, manifests by
//! tag and digest, tag lists. Lists of referrers it leaves to those who push, as registries before specification 1.1 do.
//! It counts what it serves, as the one witness of how often the registry was read.

mod blobs;
mod storage;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::storage::Storage;

/// Manifests are small; a larger body is an attack or a mistake.
const MANIFEST_LIMIT: usize = 4 << 20;
const DIGEST_HEADER: &str = "docker-content-digest";

/// A registry that serves until it is stopped.
#[derive(Debug)]
pub(crate) struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    server: JoinHandle<io::Result<()>>,
}

#[derive(Debug)]
struct Shared {
    storage: Storage,
    blob_bytes: AtomicU64,
}

impl Registry {
    /// Starts on a free loopback port, keeping everything under `dir`.
    ///
    /// # Errors
    /// The directory cannot be made or no port can be bound.
    pub(crate) async fn start(dir: &Path) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            storage: Storage::open(dir)?,
            blob_bytes: AtomicU64::new(0),
        });
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let stopped = stop.clone().cancelled_owned();
        let server = tokio::spawn(async move {
            axum::serve(listener, router)
                .with_graceful_shutdown(stopped)
                .await
        });
        Ok(Self {
            address,
            shared,
            stop,
            server,
        })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes of blobs that it has served so far.
    pub(crate) fn served(&self) -> u64 {
        self.shared.blob_bytes.load(Ordering::Relaxed)
    }

    /// Stops serving. Connections that clients keep open are cut: nobody needs an answer any more.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.server.abort();
        let _ended = self.server.await;
    }
}

/// The parts of a path under `/v2/`.
enum Place<'a> {
    Root,
    Manifest(&'a str, &'a str),
    Blob(&'a str),
    Uploads(&'a str),
    Upload(&'a str, &'a str),
    Tags(&'a str),
    Nowhere,
}

impl<'a> Place<'a> {
    fn of(path: &'a str) -> Self {
        let Some(path) = path.strip_prefix("/v2") else {
            return Self::Nowhere;
        };
        let path = path.trim_start_matches('/');
        if path.is_empty() {
            return Self::Root;
        }
        if let Some(name) = path.strip_suffix("/tags/list") {
            return Self::Tags(name);
        }
        if let Some((name, id)) = path.split_once("/blobs/uploads") {
            let id = id.trim_start_matches('/');
            return if id.is_empty() {
                Self::Uploads(name)
            } else {
                Self::Upload(name, id)
            };
        }
        match (path.rsplit_once("/blobs/"), path.rsplit_once("/manifests/")) {
            (Some((_, digest)), _) => Self::Blob(digest),
            (_, Some((name, reference))) => Self::Manifest(name, reference),
            _ => Self::Nowhere,
        }
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default();
    let result = match (Place::of(parts.uri.path()), parts.method) {
        (Place::Root, _) => Ok(StatusCode::OK.into_response()),
        (Place::Manifest(name, reference), method @ (Method::GET | Method::HEAD)) => {
            get_manifest(&shared, name, reference, &method)
        }
        (Place::Manifest(name, reference), Method::PUT) => {
            put_manifest(&shared, name, reference, &parts.headers, body).await
        }
        (Place::Blob(digest), method @ (Method::GET | Method::HEAD)) => {
            blobs::get_blob(&shared, digest, &method, &parts.headers).await
        }
        (Place::Uploads(name), Method::POST) => {
            blobs::begin_upload(&shared, name, query, body).await
        }
        (Place::Upload(name, id), Method::PATCH) => {
            blobs::append_upload(&shared, name, id, body).await
        }
        (Place::Upload(name, id), Method::PUT) => {
            blobs::finish_upload(&shared, name, id, query, body).await
        }
        (Place::Tags(name), Method::GET) => Ok(axum::Json(
            json!({"name": name, "tags": shared.storage.tags(name)}),
        )
        .into_response()),
        _ => Err(refusal(
            StatusCode::NOT_FOUND,
            "NAME_UNKNOWN",
            "no such place",
        )),
    };
    result.unwrap_or_else(IntoResponse::into_response)
}

/// An answer, or the refusal that is the answer instead.
type Answer = Result<Response, Refusal>;

/// A refusal in the distribution specification's form.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({"errors": [{"code": self.code, "message": self.message}]});
        (self.status, axum::Json(body)).into_response()
    }
}

fn refusal(status: StatusCode, code: &'static str, message: &str) -> Refusal {
    Refusal {
        status,
        code,
        message: message.to_owned(),
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "map_err hands the error over"
)]
fn broken(error: io::Error) -> Refusal {
    refusal(
        StatusCode::INTERNAL_SERVER_ERROR,
        "UNKNOWN",
        &error.to_string(),
    )
}

fn get_manifest(shared: &Shared, name: &str, reference: &str, method: &Method) -> Answer {
    let unknown = || refusal(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", reference);
    let manifest = shared
        .storage
        .manifest(name, reference)
        .ok_or_else(unknown)?;
    let headers = [
        (header::CONTENT_TYPE.as_str(), manifest.media_type.clone()),
        (DIGEST_HEADER, manifest.digest.to_string()),
        (
            header::CONTENT_LENGTH.as_str(),
            manifest.bytes.len().to_string(),
        ),
    ];
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        Body::from(manifest.bytes)
    };
    Ok((headers, body).into_response())
}

async fn put_manifest(
    shared: &Shared,
    name: &str,
    reference: &str,
    headers: &HeaderMap,
    body: Body,
) -> Answer {
    let bytes = axum::body::to_bytes(body, MANIFEST_LIMIT)
        .await
        .map_err(|error| {
            refusal(
                StatusCode::PAYLOAD_TOO_LARGE,
                "MANIFEST_INVALID",
                &error.to_string(),
            )
        })?;
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let digest = shared
        .storage
        .put_manifest(name, reference, media_type, bytes)
        .ok_or_else(|| refusal(StatusCode::BAD_REQUEST, "DIGEST_INVALID", reference))?;
    let location = format!("/v2/{name}/manifests/{digest}");
    let headers = [
        (header::LOCATION.as_str(), location),
        (DIGEST_HEADER, digest.to_string()),
    ];
    Ok((StatusCode::CREATED, headers).into_response())
}

#[cfg(test)]
mod tests;
