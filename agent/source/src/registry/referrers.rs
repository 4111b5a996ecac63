//! Manifests that say something about another one: listing them, and adding one so that it is listed.
//!
//! OCI 1.1 has an API for that; registries without it get the specification's substitute, an index under a tag that
//! is made of the subject's digest. Nobody vouches for what a list holds: whoever may push to the repository may add to
//! it, so a referrer is worth what its pusher is trusted with.

use bytes::Bytes;
use reqwest::header::{ACCEPT, HeaderValue};
use reqwest::{Method, Url};
use tranship_format::Digest;

use super::auth::{Access, Scope};
use super::endpoint::Endpoint;
use super::error::RegistryFailure;
use super::exchange::{Ask, exchange, target_of};
use super::hosts::Need;
use super::manifests::{self, next_page};
use super::{Inner, RegistryClient, RegistryError, Request, Verb, answer, request};
use crate::manifest::{Descriptor, ImageIndex, MANIFEST_LEN_MAX, Manifest, media_type};
use crate::reference::{ManifestSelector, RepoRef};

/// How many pages of referrers are read: a registry that pages in circles must not hold us for ever.
const PAGES_MAX: u32 = 100;

/// Where a registry says that it has understood what a manifest refers to.
const OCI_SUBJECT: &str = "oci-subject";

impl RegistryClient {
    /// The manifests that refer to `subject`; with `artifact_type` only those of that type. None of them is vouched for by
    /// the subject's digest.
    ///
    /// # Errors
    /// If neither the API nor the tag can be asked; a registry that knows of no referrer is no error.
    pub async fn referrers(
        &self,
        repo: &RepoRef,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let found = with_retries!(
            self,
            request(repo, Verb::ListReferrers(*subject)),
            list(&self.inner, repo, subject, artifact_type)
        );
        let mut found = found?;
        if let Some(wanted) = artifact_type {
            found.retain(|entry| entry.artifact_type.as_deref() == Some(wanted));
        }
        Ok(found)
    }

    /// Pushes a manifest by its digest and sees to it that it is listed under its subject. What it points at must be there
    /// already; the subject need not be.
    ///
    /// # Errors
    /// [`RegistryFailure::Malformed`] for a manifest without a subject, and those of a push.
    pub async fn push_referrer(
        &self,
        repo: &RepoRef,
        manifest: &Manifest,
    ) -> Result<(), RegistryError> {
        let which = ManifestSelector::Digest(manifest.digest());
        with_retries!(
            self,
            request(repo, Verb::PushManifest(which.clone())),
            push(&self.inner, repo, &which, manifest)
        )
    }
}

/// The tag under which referrers are listed where the API is not there.
fn substitute(subject: &Digest) -> ManifestSelector {
    ManifestSelector::Tag(format!("sha256-{}", subject.hex()))
}

/// What mirrors list comes first; one that lists nothing may simply not keep lists, and then the next is asked.
async fn list(
    inner: &Inner,
    repo: &RepoRef,
    subject: &Digest,
    artifact_type: Option<&str>,
) -> Result<Vec<Descriptor>, RegistryFailure> {
    let asked = inner.asked(repo, Need::Resolve, None).await?;
    let mut failed = None;
    for mirror in &asked.mirrors {
        let listing = Box::pin(list_at(inner, mirror, subject, artifact_type));
        match inner.patiently(mirror, listing).await {
            Ok(found) if !found.is_empty() || asked.registry.is_none() => return Ok(found),
            Ok(_) => {}
            Err(failure) => failed = Some(inner.mirrors.failed(mirror, None, failure)),
        }
    }
    list_at(inner, &asked.registry(failed)?, subject, artifact_type).await
}

async fn list_at(
    inner: &Inner,
    endpoint: &Endpoint,
    subject: &Digest,
    artifact_type: Option<&str>,
) -> Result<Vec<Descriptor>, RegistryFailure> {
    let mut url = endpoint.url(&format!("referrers/{subject}"));
    if let Some(wanted) = artifact_type {
        url.query_pairs_mut().append_pair("artifactType", wanted);
    }
    let mut found = Vec::new();
    for _ in 0..PAGES_MAX {
        let Some((page, next)) = page(inner, endpoint, url).await? else {
            return listed(inner, endpoint, subject)
                .await
                .map(|index| index.manifests);
        };
        found.extend(page.manifests);
        match next {
            Some(next) => url = next,
            None => return Ok(found),
        }
    }
    Err(RegistryFailure::Malformed(format!(
        "its list of referrers has more than {PAGES_MAX} pages"
    )))
}

/// One page of the API and the address of the next; `None` if the registry has no such API.
async fn page(
    inner: &Inner,
    endpoint: &Endpoint,
    url: Url,
) -> Result<Option<(ImageIndex, Option<Url>)>, RegistryFailure> {
    let scope = Scope::new(endpoint.repo(), Access::Pull);
    let mut ask = Ask::new(Method::GET, url, &scope);
    ask.headers
        .insert(ACCEPT, HeaderValue::from_static(media_type::OCI_INDEX));
    let response = exchange(endpoint, &inner.auth, ask).await?;
    if matches!(response.status().as_u16(), 404 | 405) {
        return Ok(None);
    }
    let response = answer::expect(response, &[200]).await?;
    let next = next_page(&response).map(str::to_owned);
    let next = next
        .map(|link| target_of(endpoint, &response, &link))
        .transpose()?;
    let page = parse(&response.collect(MANIFEST_LEN_MAX).await?)?;
    Ok(Some((page, next)))
}

/// The index under the substitute's tag, an empty one if there is none.
async fn listed(
    inner: &Inner,
    endpoint: &Endpoint,
    subject: &Digest,
) -> Result<ImageIndex, RegistryFailure> {
    match manifests::read_at(inner, endpoint, &substitute(subject)).await {
        Ok(manifest) => parse(manifest.bytes()),
        Err(RegistryFailure::NotFound(_)) => Ok(ImageIndex::new(Vec::new())),
        Err(failure) => Err(failure),
    }
}

fn parse(bytes: &Bytes) -> Result<ImageIndex, RegistryFailure> {
    serde_json::from_slice(bytes)
        .map_err(|error| RegistryFailure::Malformed(format!("its list of referrers: {error}")))
}

async fn push(
    inner: &Inner,
    repo: &RepoRef,
    which: &ManifestSelector,
    manifest: &Manifest,
) -> Result<(), RegistryFailure> {
    let malformed = |why: String| RegistryFailure::Malformed(format!("the referrer: {why}"));
    let image = manifest
        .image()
        .map_err(|error| malformed(error.to_string()))?;
    let subject = image
        .subject
        .ok_or_else(|| malformed("it names no subject".to_owned()))?;
    let endpoint = inner.registry(repo, Need::Push).await?;
    let response = manifests::send(inner, &endpoint, which, manifest).await?;
    if response.header(OCI_SUBJECT).is_some() {
        return Ok(());
    }
    let mut entry = manifest.descriptor();
    entry.artifact_type = Some(image.artifact_type.unwrap_or(image.config.media_type));
    entry.annotations = image.annotations;
    let mut index = listed(inner, &endpoint, &subject.digest).await?;
    if index.manifests.iter().any(|old| old.digest == entry.digest) {
        return Ok(());
    }
    index.manifests.push(entry);
    let index = Manifest::from_index(&index).map_err(|error| malformed(error.to_string()))?;
    manifests::send(inner, &endpoint, &substitute(&subject.digest), &index).await?;
    Ok(())
}
