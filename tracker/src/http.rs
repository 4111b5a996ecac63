//! The tracker's HTTP side: a page for people, JSON for programs, metrics, health, and the operator's orders.
//!
//! Each answer is asked of the server's task, so that all of them agree and none can hold up a decision.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{delete, get, post};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tranship_format::Digest;
use tranship_format::wire::PeerId;
use tranship_source::net::certificate::wire_peer;

use crate::message::{BanList, BanRequest, ImageDetail, SeedJob, SeedRequest};
use crate::metrics;
use crate::page;
use crate::secret::Secret;
use crate::seed::Seed;
use crate::server::Question;
use crate::service::Ready;
use crate::status::{ImageStatus, MemberStatus, Status};
use refusal::Refusal;
use rights::{Operator, Reader};

mod refusal;
mod rights;

/// The server answers within this, or is taken for stuck.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest order to the seed, in bytes: the trace of an image with two million chunks.
const MAX_ORDER_LEN: usize = 16 << 20;
/// The content type that Prometheus asks for.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the HTTP side may look at, and who may look.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    ask: mpsc::Sender<Question>,
    seed: Option<Arc<Seed>>,
    peer_id: String,
    listen: Vec<String>,
    operator: Secret,
    /// Only this machine can ask.
    is_local: bool,
}

type Answer<T> = Result<Json<T>, Refusal>;

impl Shown {
    pub(crate) fn new(
        ask: mpsc::Sender<Question>,
        seed: Option<Arc<Seed>>,
        ready: &Ready,
        operator: Secret,
        is_local: bool,
    ) -> Self {
        Self {
            ask,
            seed,
            peer_id: ready.peer_id.clone(),
            listen: ready.listen.clone(),
            operator,
            is_local,
        }
    }

    /// Asks the server.
    async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Question,
    ) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        let asking = async {
            self.ask.send(question(answer)).await.ok()?;
            answered.await.ok()
        };
        let answered = tokio::time::timeout(PATIENCE, asking).await;
        answered.ok().flatten().ok_or_else(Refusal::stuck)
    }

    /// The status now.
    async fn status(&self) -> Result<Status, Refusal> {
        let status = self.ask(Question::Status).await?;
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            peer_id: self.peer_id.clone(),
            listen: self.listen.clone(),
            seed: self.seed.as_ref().map(|seed| seed.status()),
            ..status
        })
    }

    fn seed(&self) -> Result<&Arc<Seed>, Refusal> {
        self.seed.as_ref().ok_or_else(|| {
            Refusal::new(
                StatusCode::NOT_IMPLEMENTED,
                "this tracker has no seed",
                "set seed.mode to on-open or on-request",
            )
        })
    }
}

/// Serves until told to stop.
pub(crate) async fn serve(listener: TcpListener, shown: Shown, stop: CancellationToken) {
    let router = Router::new()
        .route("/", get(front_page))
        .route("/v1/status", get(status))
        .route("/v1/members", get(members))
        .route("/v1/images", get(images))
        .route("/v1/images/{manifest}", get(image))
        .route(
            "/v1/seed",
            get(seed_jobs)
                .post(seed_image)
                .layer(DefaultBodyLimit::max(MAX_ORDER_LEN)),
        )
        .route("/v1/seed/{manifest}", get(seed_job).delete(unseed))
        .route("/v1/bans", get(bans))
        .route("/v1/bans", post(ban))
        .route("/v1/bans/{peer}", delete(unban))
        .route("/metrics", get(scrape))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "there is no such call", "") })
        .with_state(shown);
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = serving.await {
        tracing::error!(%error, "the HTTP side has ended");
    }
}

async fn front_page(_: Reader, State(shown): State<Shown>) -> Result<Html<String>, Refusal> {
    Ok(Html(page::render(&shown.status().await?)))
}

async fn status(_: Reader, State(shown): State<Shown>) -> Answer<Status> {
    Ok(Json(shown.status().await?))
}

async fn members(_: Reader, State(shown): State<Shown>) -> Answer<Vec<MemberStatus>> {
    Ok(Json(shown.status().await?.members))
}

async fn images(_: Reader, State(shown): State<Shown>) -> Answer<Vec<ImageStatus>> {
    Ok(Json(shown.status().await?.images))
}

async fn image(
    _: Reader,
    State(shown): State<Shown>,
    Path(manifest): Path<String>,
) -> Answer<ImageDetail> {
    let manifest = digest(&manifest)?;
    let image = shown
        .ask(|answer| Question::Image { manifest, answer })
        .await?;
    let mut image = image.ok_or_else(|| {
        let error = format!("nobody opened {manifest} since the tracker started");
        Refusal::new(
            StatusCode::NOT_FOUND,
            error,
            "GET /v1/images lists what is known",
        )
    })?;
    image.seeding = shown.seed.as_ref().and_then(|seed| seed.job(&manifest));
    Ok(Json(image))
}

async fn seed_jobs(_: Reader, State(shown): State<Shown>) -> Answer<Vec<SeedJob>> {
    Ok(Json(shown.seed()?.jobs()))
}

async fn seed_job(
    _: Reader,
    State(shown): State<Shown>,
    Path(manifest): Path<String>,
) -> Answer<SeedJob> {
    let manifest = digest(&manifest)?;
    shown
        .seed()?
        .job(&manifest)
        .map(Json)
        .ok_or_else(|| no_order(&manifest))
}

async fn seed_image(
    _: Operator,
    State(shown): State<Shown>,
    request: Result<Json<SeedRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<SeedJob>), Refusal> {
    let Json(request) = request?;
    let seed = shown.seed()?;
    let job = seed
        .order(&request.reference, request.trace.as_ref())
        .await?;
    Ok((StatusCode::ACCEPTED, Json(job)))
}

async fn unseed(
    _: Operator,
    State(shown): State<Shown>,
    Path(manifest): Path<String>,
) -> Answer<SeedJob> {
    let manifest = digest(&manifest)?;
    let job = shown.seed()?.take_back(&manifest).await;
    job.map(Json).ok_or_else(|| no_order(&manifest))
}

async fn bans(_: Reader, State(shown): State<Shown>) -> Answer<BanList> {
    Ok(Json(shown.ask(Question::Bans).await?))
}

async fn ban(
    _: Operator,
    State(shown): State<Shown>,
    request: Result<Json<BanRequest>, JsonRejection>,
) -> Answer<BanList> {
    let Json(request) = request?;
    let peer = peer(&request.peer_id)?;
    Ok(Json(
        shown.ask(|answer| Question::Ban { peer, answer }).await?,
    ))
}

async fn unban(
    _: Operator,
    State(shown): State<Shown>,
    Path(text): Path<String>,
) -> Answer<BanList> {
    let peer = peer(&text)?;
    let list = shown.ask(|answer| Question::Unban { peer, answer }).await?;
    list.map(Json).ok_or_else(|| {
        let error = format!("{text} is not banned");
        Refusal::new(StatusCode::NOT_FOUND, error, "GET /v1/bans lists who is")
    })
}

async fn scrape(State(shown): State<Shown>) -> Result<Response, Refusal> {
    let text = metrics::render(shown.status().await?)
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), ""))?;
    Ok(([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response())
}

async fn ready(State(shown): State<Shown>) -> Result<&'static str, Refusal> {
    shown.status().await.map(|_| "ready\n")
}

fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|_| {
        let error = format!("{text:?} is no digest");
        Refusal::new(
            StatusCode::BAD_REQUEST,
            error,
            "write sha256: and 64 hexadecimal digits",
        )
    })
}

fn peer(text: &str) -> Result<PeerId, Refusal> {
    let parsed = text.parse().ok().and_then(wire_peer);
    parsed.ok_or_else(|| {
        let error = format!("{text:?} is no peer id");
        Refusal::new(
            StatusCode::BAD_REQUEST,
            error,
            "write it as GET /v1/members has it: 12D3Koo…",
        )
    })
}

fn no_order(manifest: &Digest) -> Refusal {
    let error = format!("the seed was not ordered to fetch {manifest}");
    Refusal::new(
        StatusCode::NOT_FOUND,
        error,
        "GET /v1/seed lists its orders",
    )
}
