//! The answering side of the control API.
//!
//! The socket is made under another name, closed to everybody but its owner, and only then given its own: there is no
//! moment at which others could connect, and the socket of a daemon that died is replaced in the same step.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tranship_source::Trace;

use super::message::{
    AttachRequest, DetachReply, DeviceInfo, ErrorReply, MountInfo, MountRequest, Status,
};
use super::waiting::OrphanInfo;
use crate::devices::{DeviceError, Devices};
use crate::metrics::Numbers;
use crate::sentence::sentence;

/// What the API's calls need.
#[derive(Clone)]
pub(crate) struct Control {
    pub(crate) devices: Arc<Devices>,
    pub(crate) numbers: Arc<dyn Numbers>,
}

/// Listens at `path` for its owner alone. Refused while another daemon answers there.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another agent answers on this control socket",
        ));
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

/// Answers calls until `stop`; those under way are finished.
pub(crate) async fn serve(
    listener: UnixListener,
    control: Control,
    stop: CancellationToken,
) -> io::Result<()> {
    axum::serve(listener, router(control))
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await
}

fn router(control: Control) -> Router {
    Router::new()
        .route("/v1/devices", post(attach).get(devices))
        .route("/v1/devices/{id}", delete(detach))
        .route("/v1/orphans", get(orphans))
        .route("/v1/devices/{id}/mounts", post(mount))
        .route("/v1/devices/{id}/trace", get(trace))
        .route("/v1/mounts", delete(unmount))
        .route("/v1/status", get(status))
        .fallback(|| async {
            Refusal::new(
                StatusCode::NOT_FOUND,
                "there is no such call".to_owned(),
                String::new(),
            )
        })
        .with_state(control)
}

/// An answer that is not a success.
struct Refusal {
    status: StatusCode,
    reply: ErrorReply,
}

impl Refusal {
    fn new(status: StatusCode, error: String, hint: String) -> Self {
        Self {
            status,
            reply: ErrorReply { error, hint },
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.reply)).into_response()
    }
}

impl From<DeviceError> for Refusal {
    fn from(error: DeviceError) -> Self {
        let status =
            StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let hint = error.hint();
        Self::new(status, sentence(&error), hint)
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text(), String::new())
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text(), String::new())
    }
}

async fn attach(
    State(control): State<Control>,
    request: Result<Json<AttachRequest>, JsonRejection>,
) -> Result<Json<DeviceInfo>, Refusal> {
    let Json(request) = request?;
    Ok(Json(control.devices.attach(request).await?))
}

async fn devices(State(control): State<Control>) -> Json<Vec<DeviceInfo>> {
    Json(control.devices.list())
}

async fn orphans(State(control): State<Control>) -> Result<Json<Vec<OrphanInfo>>, Refusal> {
    Ok(Json(control.devices.orphans().await?))
}

#[derive(Deserialize)]
struct Detach {
    #[serde(default)]
    force: bool,
}

async fn detach(
    State(control): State<Control>,
    UrlPath(id): UrlPath<String>,
    query: Result<Query<Detach>, QueryRejection>,
) -> Result<Json<DetachReply>, Refusal> {
    let Query(Detach { force }) = query?;
    Ok(Json(control.devices.detach(&id, force).await?))
}

async fn trace(
    State(control): State<Control>,
    UrlPath(id): UrlPath<String>,
) -> Result<Json<Trace>, Refusal> {
    Ok(Json(control.devices.trace(&id)?))
}

async fn mount(
    State(control): State<Control>,
    UrlPath(id): UrlPath<String>,
    request: Result<Json<MountRequest>, JsonRejection>,
) -> Result<Json<MountInfo>, Refusal> {
    let Json(request) = request?;
    Ok(Json(control.devices.mount(&id, request).await?))
}

#[derive(Deserialize)]
struct Unmount {
    target: PathBuf,
}

async fn unmount(
    State(control): State<Control>,
    query: Result<Query<Unmount>, QueryRejection>,
) -> Result<Json<MountInfo>, Refusal> {
    let Query(Unmount { target }) = query?;
    Ok(Json(control.devices.unmount(&target).await?))
}

async fn status(State(control): State<Control>) -> Json<Status> {
    Json(control.numbers.status())
}
