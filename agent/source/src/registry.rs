//! A client of OCI registries: reads manifests, blobs and ranges of blobs, and pushes them.
//!
//! It is ours, because the hot path needs what general clients lack: ranges that are really ranges, redirects
//! that are remembered and refreshed, tokens renewed in mid-use by one request for all, and errors that say
//! what to do next. A registry is trusted for nothing but availability: every byte that has a digest is checked.

use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use reqwest::Method;
use tranship_format::{ByteRange, Digest};

use crate::blob::BlobBody;
use crate::credentials::Credentials;
use crate::manifest::{Descriptor, Manifest};
use crate::reference::{ManifestSelector, RepoRef};

mod answer;
mod auth;
mod endpoint;
mod endpoints;
mod error;
mod exchange;
mod hosts;
mod http;
mod http_date;
mod manifests;
mod mirrors;
mod options;
mod pull_proof;
mod push;
mod range;
mod redirect;
mod retry;
mod stream;
mod upload;

pub use error::{Detail, RegistryError, RegistryFailure, Request, TokenError, Verb};
pub use hosts::{HOSTS_DIRS, HostsError};
pub use mirrors::{BadMirror, Mirrors};
pub use options::{PlainHttp, RegistryOptions};
pub use stream::BlobStream;

use auth::{Access, Auth, Scope};
use endpoint::Endpoint;
use endpoints::{Asked, Endpoints};
use exchange::{Ask, exchange};
use hosts::Need;
use mirrors::Experience;
use redirect::Routes;
use retry::Retry;
use upload::Upload;

/// What a push of a blob came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there already; nothing was sent.
    AlreadyThere,
    /// It was uploaded.
    Uploaded,
}

/// A client of all registries that its credentials reach. Cloning is cheap and shares tokens, connections and
/// known redirects.
///
/// All requests may be dropped at any time. Those that read are tried again within
/// [`deadline`](RegistryOptions::deadline).
#[derive(Clone, Debug)]
pub struct RegistryClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoints: Arc<Endpoints>,
    auth: Auth,
    routes: Routes,
    mirrors: Experience,
    options: RegistryOptions,
}

impl Inner {
    /// Who is asked for something of `repo`; mirrors that failed lately are left out.
    async fn asked(
        &self,
        repo: &RepoRef,
        need: Need,
        digest: Option<&Digest>,
    ) -> Result<Asked, RegistryFailure> {
        let mut asked = self.endpoints.of(repo, need).await?;
        if asked.registry.is_some() {
            let mirrors = &mut asked.mirrors;
            mirrors.retain(|mirror| self.mirrors.is_willing(mirror, digest));
        }
        Ok(asked)
    }

    /// The one place where the registry's own word counts: itself, or a mirror where a file of hosts says that it does not do that.
    async fn registry(&self, repo: &RepoRef, need: Need) -> Result<Endpoint, RegistryFailure> {
        let asked = self.endpoints.of(repo, need).await?;
        let first = asked.mirrors.first().cloned();
        asked.registry(None).or_else(|none| first.ok_or(none))
    }

    /// Waits for a mirror's answer to begin, not for long: there are others.
    async fn patiently<T>(
        &self,
        mirror: &Endpoint,
        opening: impl Future<Output = Result<T, RegistryFailure>>,
    ) -> Result<T, RegistryFailure> {
        let waited = self.options.mirror_patience;
        match tokio::time::timeout(waited, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(RegistryFailure::TimedOut {
                host: mirror.host(),
                what: "its answer",
                waited,
            }),
        }
    }

    fn retry(&self) -> Retry {
        Retry::new(self.options.first_pause, self.options.deadline)
    }
}

/// Tries `$once` until it succeeds or there is no use in going on.
///
/// A loop and not a function with a closure: each try borrows what the one before it borrowed.
macro_rules! with_retries {
    ($self:ident, $request:expr, $once:expr) => {{
        let request: Request = $request;
        let mut retry = $self.inner.retry();
        loop {
            match $once.await {
                Ok(value) => break Ok(value),
                Err(failure) => {
                    if let Err(failure) = retry.pause(failure).await {
                        break Err(RegistryError::new(&request, failure));
                    }
                }
            }
        }
    }};
}

// Behind the macro, which it uses.
mod referrers;

impl RegistryClient {
    /// Sets up a client; no connection is made yet.
    pub fn new(options: RegistryOptions) -> Result<Self, RegistryFailure> {
        Ok(Self {
            inner: Arc::new(Inner {
                endpoints: Arc::new(Endpoints::new(&options)?),
                auth: Auth::new(options.credentials.clone()),
                routes: Routes::new(options.redirect_life),
                mirrors: Experience::default(),
                options,
            }),
        })
    }

    /// A client with other credentials that shares this one's connections, and no token of it.
    #[must_use]
    pub fn with_credentials(&self, credentials: Credentials) -> Self {
        let options = RegistryOptions {
            credentials: credentials.clone(),
            ..self.inner.options.clone()
        };
        Self {
            inner: Arc::new(Inner {
                endpoints: Arc::clone(&self.inner.endpoints),
                auth: Auth::new(credentials),
                routes: Routes::new(options.redirect_life),
                mirrors: Experience::default(),
                options,
            }),
        }
    }

    /// Whether the registry of `repo` speaks the protocol and lets us in.
    pub async fn ping(&self, repo: &RepoRef) -> Result<(), RegistryError> {
        with_retries!(self, request(repo, Verb::Ping), self.ping_once(repo))
    }

    async fn ping_once(&self, repo: &RepoRef) -> Result<(), RegistryFailure> {
        let endpoint = self.inner.registry(repo, Need::Resolve).await?;
        let scope = Scope::new(endpoint.repo(), Access::Pull);
        let ask = Ask::new(Method::GET, endpoint.ping_url(), &scope);
        let response = exchange(&endpoint, &self.inner.auth, ask).await?;
        answer::expect(response, &[200]).await.map(|_| ())
    }

    /// Reads a manifest or an index, of at most [`MANIFEST_LEN_MAX`](crate::manifest::MANIFEST_LEN_MAX) bytes.
    ///
    /// Asked for by digest it is verified; by tag it is what the registry says the tag means today.
    pub async fn manifest(
        &self,
        repo: &RepoRef,
        which: &ManifestSelector,
    ) -> Result<Manifest, RegistryError> {
        with_retries!(
            self,
            request(repo, Verb::ReadManifest(which.clone())),
            manifests::read(&self.inner, repo, which)
        )
    }

    /// Looks for a manifest; `None` if it is not there. A way to ask whether our credentials permit to pull.
    pub async fn find_manifest(
        &self,
        repo: &RepoRef,
        which: &ManifestSelector,
    ) -> Result<Option<Descriptor>, RegistryError> {
        with_retries!(
            self,
            request(repo, Verb::FindManifest(which.clone())),
            manifests::find(&self.inner, repo, which)
        )
    }

    /// Reads a whole blob as a stream that is verified when it ends.
    pub async fn blob(&self, repo: &RepoRef, digest: &Digest) -> Result<BlobStream, RegistryError> {
        let request = request(repo, Verb::ReadBlob(*digest));
        BlobStream::open(self.clone(), request, *digest).await
    }

    /// Reads a whole blob of at most `limit` bytes into memory, verified.
    pub async fn blob_bytes(
        &self,
        repo: &RepoRef,
        digest: &Digest,
        limit: u64,
    ) -> Result<Bytes, RegistryError> {
        self.blob(repo, digest).await?.collect(limit).await
    }

    /// Reads exactly `range` of a blob. The bytes are **not** verified: a digest covers the whole blob only.
    ///
    /// [`RegistryFailure::RangeIgnored`] means that the blob can be had as a whole only, and
    /// [`RegistryFailure::RangeNotSatisfiable`] that it is shorter.
    pub async fn blob_range(
        &self,
        repo: &RepoRef,
        digest: &Digest,
        range: ByteRange,
    ) -> Result<Bytes, RegistryError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        with_retries!(
            self,
            request(repo, Verb::ReadRange(*digest, range)),
            range::read(&self.inner, repo, digest, range)
        )
    }

    /// Reads `range` of a blob as its bytes come in. They are **not** verified, and nothing is tried again: this is
    /// for callers that have other sources, and that can use the beginning of an answer without its end.
    ///
    /// A stream that ends early ends with an error.
    pub fn blob_range_stream(
        &self,
        repo: &RepoRef,
        digest: Digest,
        range: ByteRange,
    ) -> impl Stream<Item = Result<Bytes, RegistryError>> + Send + use<> {
        let request = request(repo, Verb::ReadRange(digest, range));
        let read = range::RangeRead::new(self.clone(), request, digest, range);
        futures::stream::try_unfold(read, range::RangeRead::next)
    }

    /// What came of a blob was not what was promised: if it came from a mirror, that one is left alone for a while.
    pub fn refuse(&self, digest: &Digest) {
        let failure = RegistryFailure::WrongDigest {
            wanted: *digest,
            // Nobody hashed it as a whole.
            got: *digest,
        };
        self.inner.mirrors.disappointed(digest, &failure);
    }

    /// Looks for a blob: its length in bytes, or `None` if it is not there.
    pub async fn blob_exists(
        &self,
        repo: &RepoRef,
        digest: &Digest,
    ) -> Result<Option<u64>, RegistryError> {
        with_retries!(
            self,
            request(repo, Verb::FindBlob(*digest)),
            self.blob_exists_once(repo, digest, Need::Pull)
        )
    }

    async fn blob_exists_once(
        &self,
        repo: &RepoRef,
        digest: &Digest,
        need: Need,
    ) -> Result<Option<u64>, RegistryFailure> {
        let endpoint = self.inner.registry(repo, need).await?;
        let scope = Scope::new(endpoint.repo(), Access::Pull);
        let ask = Ask::new(Method::HEAD, endpoint.blob_url(digest), &scope);
        let response = exchange(&endpoint, &self.inner.auth, ask).await?;
        if response.status().as_u16() == 404 {
            return Ok(None);
        }
        let response = answer::expect(response, &[200]).await?;
        let len = response.told_len().ok_or_else(|| {
            RegistryFailure::Malformed("it does not tell the blob's length".to_owned())
        })?;
        Ok(Some(len))
    }

    /// Pushes a blob of `len` bytes, unless it is there. Memory is bounded whatever its length.
    pub async fn push_blob(
        &self,
        repo: &RepoRef,
        digest: &Digest,
        len: u64,
        body: BlobBody,
    ) -> Result<Pushed, RegistryError> {
        let there = with_retries!(
            self,
            request(repo, Verb::FindBlob(*digest)),
            self.blob_exists_once(repo, digest, Need::Push)
        );
        if there?.is_some() {
            return Ok(Pushed::AlreadyThere);
        }
        let request = request(repo, Verb::PushBlob(*digest));
        let mut upload = Upload::new(body, *digest, len);
        let mut retry = self.inner.retry();
        loop {
            let failure = match push::upload(&self.inner, repo, digest, &mut upload).await {
                Ok(()) => return Ok(Pushed::Uploaded),
                Err(failure) => failure,
            };
            let paused = if upload.is_repeatable() {
                retry.pause(failure).await
            } else {
                Err(failure)
            };
            paused.map_err(|failure| RegistryError::new(&request, failure))?;
        }
    }

    /// Makes a blob of another repository of the same registry appear in this one, without sending it.
    /// False if the registry cannot, and then it must be pushed.
    pub async fn mount_blob(
        &self,
        repo: &RepoRef,
        from: &RepoRef,
        digest: &Digest,
    ) -> Result<bool, RegistryError> {
        if repo.host() != from.host() {
            return Ok(false);
        }
        with_retries!(
            self,
            request(repo, Verb::MountBlob(*digest, from.clone())),
            push::mount(&self.inner, repo, from, digest)
        )
    }

    /// Pushes a manifest under a tag or under its own digest. What it points at must be there already.
    pub async fn push_manifest(
        &self,
        repo: &RepoRef,
        which: &ManifestSelector,
        manifest: &Manifest,
    ) -> Result<Digest, RegistryError> {
        with_retries!(
            self,
            request(repo, Verb::PushManifest(which.clone())),
            manifests::put(&self.inner, repo, which, manifest)
        )
    }

    /// All tags of a repository, in the registry's order.
    pub async fn tags(&self, repo: &RepoRef) -> Result<Vec<String>, RegistryError> {
        with_retries!(
            self,
            request(repo, Verb::ListTags),
            manifests::tags(&self.inner, repo)
        )
    }
}

fn request(repo: &RepoRef, verb: Verb) -> Request {
    Request {
        repo: repo.clone(),
        verb,
    }
}

#[cfg(test)]
mod tests;
