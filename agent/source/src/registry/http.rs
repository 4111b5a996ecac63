//! One HTTP request, one answer: with time-outs, without redirects, without credentials of its own.
//!
//! The client library's own time limits are left alone, because they count total time or only waits for answers. What matters
//! is progress: a slow link may take an hour for a layer, but nobody may be silent for longer than the limit.
//! HTTP/1.1 only: each request has a connection to itself, so a demand read never queues behind a bulk read's
//! bytes in a shared HTTP/2 connection.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, StatusCode, Url, redirect};

use super::endpoint::{host_and_port, is_loopback};
use super::error::RegistryFailure;
use super::hosts::Tls;
use super::{PlainHttp, RegistryOptions};

/// How we introduce ourselves.
const USER_AGENT: &str = concat!("tranship/", env!("CARGO_PKG_VERSION"));

/// Where a buffer for an answer starts at most, whatever length the answer claims.
const FIRST_CAPACITY_MAX: u64 = 1 << 20;

/// Counts bytes that left in a request's body, so that an upload which moves is not taken for a hang.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<AtomicU64>);

impl Progress {
    pub(super) fn add(&self, len: usize) {
        self.0.fetch_add(len as u64, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A request, as it goes out.
#[derive(Debug)]
pub(super) struct HttpRequest {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<reqwest::Body>,
    pub(super) progress: Progress,
}

impl HttpRequest {
    pub(super) fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            body: None,
            progress: Progress::default(),
        }
    }
}

/// Connections to registries.
#[derive(Debug)]
pub(super) struct Http {
    /// Goes through the proxy that the environment names, if it names one.
    outside: Client,
    /// This machine is not behind a proxy.
    loopback: Client,
    plain: PlainHttp,
    connect_timeout: Duration,
    read_timeout: Duration,
}

impl Http {
    pub(super) fn new(options: &RegistryOptions) -> Result<Self, RegistryFailure> {
        Self::with_tls(options, &Tls::default())
    }

    /// With what a host's TLS needs besides.
    pub(super) fn with_tls(options: &RegistryOptions, tls: &Tls) -> Result<Self, RegistryFailure> {
        // Another part of the process may have chosen a provider already; either is good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut roots = Vec::new();
        for pem in options.extra_roots.iter().chain(&tls.roots) {
            let bundle =
                reqwest::Certificate::from_pem_bundle(pem).map_err(RegistryFailure::Setup)?;
            roots.extend(bundle);
        }
        let identity = tls.identity.as_deref().map(reqwest::Identity::from_pem);
        let identity = identity.transpose().map_err(RegistryFailure::Setup)?;
        let builder = || {
            let builder = Client::builder()
                .user_agent(USER_AGENT)
                .redirect(redirect::Policy::none())
                .referer(false)
                .http1_only()
                .tls_danger_accept_invalid_certs(tls.skip_verify)
                .connect_timeout(options.connect_timeout);
            match &identity {
                Some(identity) => builder.identity(identity.clone()),
                None => builder,
            }
        };
        let outside = builder()
            .tls_certs_merge(roots.clone())
            .build()
            .or_else(|error| {
                // A machine without any certificates still reaches plain and explicitly trusted registries.
                tracing::warn!(%error, "this machine has no certificates: only those given are trusted");
                builder().tls_certs_only(roots.clone()).build()
            })
            .map_err(RegistryFailure::Setup)?;
        let loopback = builder()
            .no_proxy()
            .tls_certs_only(roots)
            .build()
            .map_err(RegistryFailure::Setup)?;
        Ok(Self {
            outside,
            loopback,
            plain: options.plain_http.clone(),
            connect_timeout: options.connect_timeout,
            read_timeout: options.read_timeout,
        })
    }

    pub(super) fn plain_http(&self) -> &PlainHttp {
        &self.plain
    }

    /// Sends a request and waits for the head of the answer, whatever its status.
    pub(super) async fn send(&self, request: HttpRequest) -> Result<Response, RegistryFailure> {
        let HttpRequest {
            method,
            url,
            headers,
            body,
            progress,
        } = request;
        let host = host_and_port(&url);
        let client = if is_loopback(&host) {
            &self.loopback
        } else {
            &self.outside
        };
        let mut builder = client.request(method, url).headers(headers);
        if let Some(body) = body {
            builder = builder.body(body);
        }
        let failed = |error| self.failure(&host, error);
        let response = tokio::select! {
            response = builder.send() => response.map_err(failed)?,
            () = self.stalled(&progress) => return Err(self.timed_out(&host, "its answer")),
        };
        Ok(Response {
            inner: response,
            host,
            read_timeout: self.read_timeout,
        })
    }

    /// Ends when nothing was sent for the time limit.
    async fn stalled(&self, progress: &Progress) {
        let mut limit = self.connect_timeout.saturating_add(self.read_timeout);
        loop {
            let before = progress.count();
            tokio::time::sleep(limit).await;
            if progress.count() == before {
                return;
            }
            limit = self.read_timeout;
        }
    }

    fn timed_out(&self, host: &str, what: &'static str) -> RegistryFailure {
        RegistryFailure::TimedOut {
            host: host.to_owned(),
            what,
            waited: self.read_timeout,
        }
    }

    fn failure(&self, host: &str, error: reqwest::Error) -> RegistryFailure {
        let source = error.without_url();
        let host = host.to_owned();
        if source.is_timeout() {
            return RegistryFailure::TimedOut {
                host,
                what: "a connection",
                waited: self.connect_timeout,
            };
        }
        if is_tls(&source) {
            return RegistryFailure::Tls { host, source };
        }
        RegistryFailure::Transport { host, source }
    }
}

/// Whether TLS itself refused, which no second try changes.
fn is_tls(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if error.is::<rustls::Error>() {
            return true;
        }
        let inside = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        cause = match inside {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    false
}

/// The head of an answer, with its body still to come.
#[derive(Debug)]
pub(super) struct Response {
    inner: reqwest::Response,
    host: String,
    read_timeout: Duration,
}

impl Response {
    pub(super) fn status(&self) -> StatusCode {
        self.inner.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// A header's text, if it is there and is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// The body's length in bytes as the head tells it, also where there is no body (HEAD).
    pub(super) fn told_len(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// The address that was asked.
    pub(super) fn url(&self) -> &Url {
        self.inner.url()
    }

    /// The next bytes of the body.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, RegistryFailure> {
        match tokio::time::timeout(self.read_timeout, self.inner.chunk()).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(RegistryFailure::Transport {
                host: self.host.clone(),
                source: error.without_url(),
            }),
            Err(_) => Err(RegistryFailure::TimedOut {
                host: self.host.clone(),
                what: "the next bytes",
                waited: self.read_timeout,
            }),
        }
    }

    /// The whole body, which must not be longer than `limit` bytes.
    pub(super) async fn collect(mut self, limit: u64) -> Result<Bytes, RegistryFailure> {
        let too_long = RegistryFailure::LongBody { limit };
        let told_len = self.told_len().unwrap_or(0);
        if told_len > limit {
            return Err(too_long);
        }
        let capacity = told_len.min(FIRST_CAPACITY_MAX);
        let mut body = BytesMut::with_capacity(usize::try_from(capacity).unwrap_or(0));
        while let Some(bytes) = self.next().await? {
            if (body.len() as u64).saturating_add(bytes.len() as u64) > limit {
                return Err(too_long);
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body.freeze())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_moves_is_not_stalled() {
        let second = Duration::from_secs(1);
        let options = RegistryOptions {
            connect_timeout: 10 * second,
            read_timeout: 30 * second,
            ..RegistryOptions::default()
        };
        let http = Http::new(&options).unwrap();
        let progress = Progress::default();
        let start = Instant::now();
        let moving = async {
            for _ in 0..10 {
                tokio::time::sleep(25 * second).await;
                progress.add(1);
            }
        };
        tokio::join!(http.stalled(&progress), moving);
        let stalled_after = start.elapsed();
        assert!(stalled_after > 280 * second, "{stalled_after:?}");
        assert!(stalled_after < 320 * second, "{stalled_after:?}");
    }
}
