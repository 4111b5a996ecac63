//! The tracker's HTTP side: a page for people, JSON for programs, metrics, health.
//!
//! It only reads. Each answer is made of one status, asked of the server's task,
//! so that all of them agree and none can hold up a decision.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::metrics;
use crate::page;
use crate::seed::Seed;
use crate::server::StatusRequest;
use crate::service::Ready;
use crate::status::Status;

/// The server answers within this, or is taken for stuck.
const PATIENCE: Duration = Duration::from_secs(2);
/// The content type that Prometheus asks for.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the HTTP side may look at.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    ask: mpsc::Sender<StatusRequest>,
    seed: Option<Arc<Seed>>,
    peer_id: String,
    listen: Vec<String>,
}

impl Shown {
    pub(crate) fn new(
        ask: mpsc::Sender<StatusRequest>,
        seed: Option<Arc<Seed>>,
        ready: &Ready,
    ) -> Self {
        Self {
            ask,
            seed,
            peer_id: ready.peer_id.clone(),
            listen: ready.listen.clone(),
        }
    }

    /// The status now; `None` when the server does not answer.
    async fn status(&self) -> Option<Status> {
        let (answer, answered) = oneshot::channel();
        let asking = async {
            self.ask.send(answer).await.ok()?;
            answered.await.ok()
        };
        let status = tokio::time::timeout(PATIENCE, asking).await.ok()??;
        Some(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            peer_id: self.peer_id.clone(),
            listen: self.listen.clone(),
            seed: self.seed.as_ref().map(|seed| seed.status()),
            ..status
        })
    }
}

/// Serves until told to stop.
pub(crate) async fn serve(listener: TcpListener, shown: Shown, stop: CancellationToken) {
    let router = Router::new()
        .route("/", get(front_page))
        .route("/v1/status", get(status))
        .route("/metrics", get(scrape))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .with_state(shown);
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = serving.await {
        tracing::error!(%error, "the HTTP side has ended");
    }
}

async fn front_page(State(shown): State<Shown>) -> Response {
    match shown.status().await {
        Some(status) => Html(page::render(&status)).into_response(),
        None => stuck(),
    }
}

async fn status(State(shown): State<Shown>) -> Response {
    match shown.status().await {
        Some(status) => Json(status).into_response(),
        None => stuck(),
    }
}

async fn scrape(State(shown): State<Shown>) -> Response {
    let Some(status) = shown.status().await else {
        return stuck();
    };
    match metrics::render(status) {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(shown): State<Shown>) -> Response {
    match shown.status().await {
        Some(_) => "ready\n".into_response(),
        None => stuck(),
    }
}

fn stuck() -> Response {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "the tracker does not answer\n",
    )
        .into_response()
}
