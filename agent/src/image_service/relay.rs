//! Each call as it came to containerd, each answer as it came back.
//!
//! Calls are not taken apart, so that fields and calls that we do not know pass; of a pull a copy is read, and of an answer about filesystems our part is
//! told as it is now. Nothing of it is logged.

use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body_util::{BodyExt, Full, Limited};
use tranship_containerd::tonic::Status;
use tranship_containerd::tonic::body::Body;
use tranship_containerd::tonic::codegen::http::{HeaderMap, Request, Response};
use tranship_containerd::tonic::codegen::{BoxFuture, Service};
use tranship_containerd::tonic::server::NamedService;
use tranship_containerd::tonic::transport::Channel;
use tranship_source::Learnt;

use super::accounts::Accounts;
use super::login;

/// The call that brings credentials, in each version of the interface: their messages are the same.
const PULLS: [&str; 2] = [
    "/runtime.v1.ImageService/PullImage",
    "/runtime.v1alpha2.ImageService/PullImage",
];

/// The call that asks what images take.
const FILESYSTEMS: [&str; 2] = [
    "/runtime.v1.ImageService/ImageFsInfo",
    "/runtime.v1alpha2.ImageService/ImageFsInfo",
];

/// The longest pull, or answer to one, in bytes: the kubelet's own bound.
const PULL_LEN_MAX: usize = 16 << 20;

/// Passes calls on.
#[derive(Clone, Debug)]
pub(super) struct Relay {
    containerd: Channel,
    learnt: Arc<Learnt>,
    accounts: Option<Accounts>,
}

impl Relay {
    pub(super) fn new(
        containerd: Channel,
        learnt: Arc<Learnt>,
        accounts: Option<Accounts>,
    ) -> Self {
        Self {
            containerd,
            learnt,
            accounts,
        }
    }

    async fn answer(mut self, request: Request<Body>) -> Result<Response<Body>, Status> {
        if PULLS.contains(&request.uri().path()) {
            return self.pull(request).await;
        }
        if FILESYSTEMS.contains(&request.uri().path())
            && let Some(accounts) = self.accounts.clone()
        {
            let (head, body) = self.pass_on(request).await?.into_parts();
            let (body, trailers) = collect(body, "containerd's answer").await?;
            let body = accounts.correct(body).await;
            return Ok(Response::from_parts(head, whole(body, trailers)));
        }
        self.pass_on(request).await
    }

    async fn pass_on(&mut self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let containerd = &mut self.containerd;
        let passed = async {
            poll_fn(|context| containerd.poll_ready(context)).await?;
            containerd.call(request).await
        };
        passed.await.map_err(|error| {
            Status::unavailable(format!(
                "containerd does not answer: {}",
                crate::sentence::sentence(&error)
            ))
        })
    }

    async fn pull(mut self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (head, body) = request.into_parts();
        let (body, trailers) = collect(body, "a call about a pull").await?;
        let login = login::of_pull(body.clone());
        if let Some((repo, credential)) = &login {
            // Before containerd has it: our snapshotter is asked about the image while it is pulled.
            self.learnt.learn(repo, credential.clone());
        }
        let request = Request::from_parts(head, whole(body, trailers));
        let response = self.pass_on(request).await;
        let Some((repo, credential)) = login else {
            return response;
        };
        let learnt = Arc::clone(&self.learnt);
        let failed = |status| {
            self.learnt.failed(&repo, &credential);
            status
        };
        let (head, body) = response.map_err(failed)?.into_parts();
        let (body, trailers) = collect(body, "containerd's answer").await.map_err(failed)?;
        let told = Status::from_header_map(&head.headers);
        let told = told.or_else(|| trailers.as_ref().and_then(Status::from_header_map));
        let is_good =
            told.is_none_or(|status| status.code() == tranship_containerd::tonic::Code::Ok);
        if is_good {
            // It writes to disk.
            let kept = tokio::task::spawn_blocking(move || {
                if let Err(error) = learnt.proved(&repo, &credential) {
                    tracing::warn!(
                        error = &error as &dyn Error,
                        "credentials of a pull are not kept for the next start"
                    );
                }
            });
            // A pull that succeeded is not to fail for it.
            let _ = kept.await;
        } else {
            learnt.failed(&repo, &credential);
        }
        Ok(Response::from_parts(head, whole(body, trailers)))
    }
}

/// A whole body with what follows it.
async fn collect(
    body: Body,
    what: &'static str,
) -> Result<(bytes::Bytes, Option<HeaderMap>), Status> {
    let collected = Limited::new(body, PULL_LEN_MAX).collect().await;
    let collected = collected
        .map_err(|error| Status::internal(format!("{what} does not come whole: {error}")))?;
    let trailers = collected.trailers().cloned();
    Ok((collected.to_bytes(), trailers))
}

fn whole(body: bytes::Bytes, trailers: Option<HeaderMap>) -> Body {
    Body::new(Full::new(body).with_trailers(async move { trailers.map(Ok::<_, Infallible>) }))
}

/// The relay under the interface's name.
#[derive(Clone, Debug)]
pub(super) struct Current(pub(super) Relay);

/// The same under the name that kubelets before 1.26 may ask for.
#[derive(Clone, Debug)]
pub(super) struct Before(pub(super) Relay);

impl NamedService for Current {
    const NAME: &'static str = "runtime.v1.ImageService";
}

impl NamedService for Before {
    const NAME: &'static str = "runtime.v1alpha2.ImageService";
}

impl Service<Request<Body>> for Current {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // containerd is waited for by each call on its own.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let relay = self.0.clone();
        Box::pin(async move {
            let answer = relay.answer(request).await;
            Ok(answer.unwrap_or_else(Status::into_http))
        })
    }
}

impl Service<Request<Body>> for Before {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Current(self.0.clone()).call(request)
    }
}
