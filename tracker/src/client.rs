//! The asking side of the HTTP API: what `tranship swarm` calls.
//!
//! The operator token goes to the one address that was given: no redirect and no proxy sees it.

use std::time::Duration;

use reqwest::{Method, StatusCode, Url, redirect};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tranship_source::net::JoinToken;

use crate::message::{BanList, BanRequest, ErrorReply, ImageDetail, SeedJob, SeedRequest};
use crate::status::Status;

/// Where a tracker listens for HTTP unless it is told otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:9476";
/// Where a tracker keeps the operator token unless it is told otherwise.
pub const DEFAULT_OPERATOR_TOKEN: &str = "/var/lib/tranship-tracker/operator-token";

/// Longest answer: the status of a full tracker has some megabytes.
const MAX_BODY_LEN: usize = 64 << 20;
/// A connection stands within this.
const CONNECT: Duration = Duration::from_secs(5);
/// Whether it is ready is said within this.
const READY: Duration = Duration::from_secs(10);
/// An answer comes within this; an order to the seed waits for the registry.
const ANSWER: Duration = Duration::from_mins(2);

/// Why a call did not succeed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address is none.
    #[error("use {url:?} as the tracker's address")]
    Url {
        /// What was given.
        url: String,
    },
    /// This machine cannot make requests.
    #[error("set up the HTTP client")]
    Setup(#[source] reqwest::Error),
    /// Nobody answers there.
    #[error("cannot reach the tracker at {url}")]
    Unreachable {
        /// Where.
        url: String,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
    /// The tracker refuses.
    #[error("{}", .reply.error)]
    Refused {
        /// The HTTP status, which tells the kind of error.
        status: u16,
        /// What the tracker said, and what to do.
        reply: ErrorReply,
    },
    /// What answered is no tracker, or one of another time.
    #[error("the answer of {url} cannot be read")]
    Answer {
        /// Where.
        url: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// The answer does not end.
    #[error("the answer of {url} is longer than {MAX_BODY_LEN} bytes")]
    TooLong {
        /// Where.
        url: String,
    },
}

impl ClientError {
    /// What to do about it, when there is something to say.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Unreachable { .. } => Some(
                "is tranship-tracker running, and is this where it listens for HTTP (http_listen)?",
            ),
            Self::Answer { .. } | Self::TooLong { .. } => {
                Some("is this the HTTP address of a tracker (http_listen), of the same version?")
            }
            Self::Url { .. } => Some("write http://HOST:PORT"),
            Self::Refused { reply, .. } if !reply.hint.is_empty() => Some(&reply.hint),
            Self::Refused { .. } | Self::Setup(_) => None,
        }
    }
}

/// Calls one tracker.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    operator: Option<JoinToken>,
}

impl Client {
    /// A client of the tracker at `url`, such as `http://127.0.0.1:9476`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Url`] or [`ClientError::Setup`].
    pub fn new(url: &str, operator: Option<JoinToken>) -> Result<Self, ClientError> {
        let wrong = || ClientError::Url {
            url: url.to_owned(),
        };
        let base = Url::parse(url).map_err(|_| wrong())?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(wrong());
        }
        // Another part of the process may have chosen a provider already; either is good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            reqwest::Client::builder()
                // The token is for this tracker alone.
                .redirect(redirect::Policy::none())
                .no_proxy()
                .connect_timeout(CONNECT)
                .timeout(ANSWER)
        };
        let built = if base.scheme() == "http" {
            // A machine without any certificates still reaches a tracker on it.
            builder().tls_certs_only([]).build()
        } else {
            builder().build()
        };
        let http = built.map_err(ClientError::Setup)?;
        Ok(Self {
            http,
            base,
            operator,
        })
    }

    /// Whether it is ready: anybody may ask, and nothing is said but that.
    pub async fn ready(&self) -> Result<(), ClientError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("readyz");
        }
        let unreachable = |source| ClientError::Unreachable {
            url: self.base.to_string(),
            source,
        };
        // The token is for calls that want it.
        let response = self.http.get(url).timeout(READY).send().await;
        let response = response.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        Err(refused(status, &[]))
    }

    /// Everything at one moment.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.call::<(), _>(Method::GET, &["status"], None).await
    }

    /// One image, by the digest of its manifest.
    pub async fn image(&self, manifest: &str) -> Result<ImageDetail, ClientError> {
        self.call::<(), _>(Method::GET, &["images", manifest], None)
            .await
    }

    /// Lets the seed fetch an image whole.
    pub async fn seed(&self, request: &SeedRequest) -> Result<SeedJob, ClientError> {
        self.call(Method::POST, &["seed"], Some(request)).await
    }

    /// How an order to the seed fares, by the digest of the manifest.
    pub async fn seed_job(&self, manifest: &str) -> Result<SeedJob, ClientError> {
        self.call::<(), _>(Method::GET, &["seed", manifest], None)
            .await
    }

    /// Takes an order to the seed back.
    pub async fn unseed(&self, manifest: &str) -> Result<SeedJob, ClientError> {
        self.call::<(), _>(Method::DELETE, &["seed", manifest], None)
            .await
    }

    /// Bans a peer; gives all who are banned.
    pub async fn ban(&self, peer_id: &str) -> Result<BanList, ClientError> {
        let peer_id = peer_id.to_owned();
        self.call(Method::POST, &["bans"], Some(&BanRequest { peer_id }))
            .await
    }

    /// Takes a ban back; gives all who are still banned.
    pub async fn unban(&self, peer_id: &str) -> Result<BanList, ClientError> {
        self.call::<(), _>(Method::DELETE, &["bans", peer_id], None)
            .await
    }

    async fn call<B: Serialize, A: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&B>,
    ) -> Result<A, ClientError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        let unreachable = |source| ClientError::Unreachable {
            url: self.base.to_string(),
            source,
        };
        let mut request = self.http.request(method, url);
        if let Some(token) = &self.operator {
            request = request.bearer_auth(String::from_utf8_lossy(token.reveal()));
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(more) = response.chunk().await.map_err(unreachable)? {
            if bytes.len() + more.len() > MAX_BODY_LEN {
                let url = self.base.to_string();
                return Err(ClientError::TooLong { url });
            }
            bytes.extend_from_slice(&more);
        }
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|source| ClientError::Answer {
                url: self.base.to_string(),
                source,
            });
        }
        Err(refused(status, &bytes))
    }
}

fn refused(status: StatusCode, body: &[u8]) -> ClientError {
    let reply = serde_json::from_slice(body).unwrap_or_else(|_| ErrorReply {
        error: format!("the tracker answered with status {status}"),
        hint: String::new(),
    });
    ClientError::Refused {
        status: status.as_u16(),
        reply,
    }
}
