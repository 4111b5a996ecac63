//! Pushing blobs: look first, take over from a neighbour if one can, upload in one piece otherwise.

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url};
use tranship_format::Digest;

use super::auth::{Access, Scope};
use super::endpoint::Endpoint;
use super::error::RegistryFailure;
use super::exchange::{Ask, AskBody, exchange, target};
use super::hosts::Need;
use super::http::Response;
use super::upload::Upload;
use super::{Inner, answer};
use crate::reference::RepoRef;

/// One try to upload a blob: asks for a place, then puts all bytes there.
pub(super) async fn upload(
    inner: &Inner,
    repo: &RepoRef,
    digest: &Digest,
    upload: &mut Upload,
) -> Result<(), RegistryFailure> {
    let endpoint = inner.registry(repo, Need::Push).await?;
    let scope = Scope::new(endpoint.repo(), Access::PullAndPush);
    let response = begin(inner, &endpoint, endpoint.url("blobs/uploads/"), &scope).await?;
    let response = answer::expect(response, &[202]).await?;
    let mut place = target(&endpoint, &response)?;
    place
        .query_pairs_mut()
        .append_pair("digest", &digest.to_string());

    let mut ask = Ask::new(Method::PUT, place, &scope);
    ask.headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    ask.headers
        .insert(CONTENT_LENGTH, HeaderValue::from(upload.len()));
    ask.body = AskBody::Upload(upload);
    let sent = exchange(&endpoint, &inner.auth, ask).await;
    if let Some(fault) = upload.take_fault() {
        return Err(fault);
    }
    let response = answer::expect(sent?, &[201, 204]).await?;
    check_told_digest(&response, digest)
}

/// Takes a blob over from `from`. False if the registry wants it uploaded instead.
pub(super) async fn mount(
    inner: &Inner,
    repo: &RepoRef,
    from: &RepoRef,
    digest: &Digest,
) -> Result<bool, RegistryFailure> {
    let endpoint = inner.registry(repo, Need::Push).await?;
    let scope = Scope::new(endpoint.repo(), Access::PullAndPush).and_pull(from);
    let mut url = endpoint.url("blobs/uploads/");
    url.query_pairs_mut()
        .append_pair("mount", &digest.to_string())
        .append_pair("from", from.path());
    let response = begin(inner, &endpoint, url, &scope).await?;
    let response = answer::expect(response, &[201, 202]).await?;
    if response.status().as_u16() == 201 {
        check_told_digest(&response, digest)?;
        return Ok(true);
    }
    // The registry has begun an upload that we do not want; it forgets it by itself if this fails.
    if let Ok(place) = target(&endpoint, &response) {
        let cancel = Ask::new(Method::DELETE, place, &scope);
        if let Err(error) = exchange(&endpoint, &inner.auth, cancel).await {
            tracing::debug!(%error, "could not cancel an upload");
        }
    }
    Ok(false)
}

async fn begin(
    inner: &Inner,
    endpoint: &Endpoint,
    url: Url,
    scope: &Scope,
) -> Result<Response, RegistryFailure> {
    let mut ask = Ask::new(Method::POST, url, scope);
    ask.body = AskBody::Bytes(Bytes::new());
    exchange(endpoint, &inner.auth, ask).await
}

/// Where the registry tells the digest of what it keeps, it must be the one that was pushed.
pub(super) fn check_told_digest(
    response: &Response,
    wanted: &Digest,
) -> Result<(), RegistryFailure> {
    match told_digest(response) {
        Some(got) if got != *wanted => Err(RegistryFailure::WrongDigest {
            wanted: *wanted,
            got,
        }),
        _ => Ok(()),
    }
}

/// The digest that a registry tells, if it is of the kind we know.
pub(super) fn told_digest(response: &Response) -> Option<Digest> {
    response.header("docker-content-digest")?.parse().ok()
}
