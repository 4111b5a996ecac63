//! Manifests and tags of a repository.

use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use serde::Deserialize;
use tranship_format::Digest;

use super::auth::{Access, Scope};
use super::endpoint::Endpoint;
use super::error::RegistryFailure;
use super::exchange::{Ask, AskBody, exchange, target_of};
use super::hosts::Need;
use super::http::Response;
use super::push::{check_told_digest, told_digest};
use super::{Inner, answer};
use crate::manifest::{Descriptor, MANIFEST_LEN_MAX, Manifest, media_type};
use crate::reference::{ManifestSelector, RepoRef};

/// How many tags are asked for at a time.
const TAGS_A_PAGE: &str = "1000";

/// How many pages of tags are read: a registry that pages in circles must not hold us for ever.
const PAGES_MAX: u32 = 1000;

/// The longest page of tags, in bytes.
const PAGE_LEN_MAX: u64 = 4 << 20;

#[derive(Deserialize)]
struct TagPage {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// One try to read a manifest. One that is named by its digest may come from any mirror, one that is named by a tag from
/// those that may say what it means.
pub(super) async fn read(
    inner: &Inner,
    repo: &RepoRef,
    which: &ManifestSelector,
) -> Result<Manifest, RegistryFailure> {
    let (need, digest) = match which {
        ManifestSelector::Digest(digest) => (Need::Pull, Some(digest)),
        ManifestSelector::Tag(_) => (Need::Resolve, None),
    };
    let asked = inner.asked(repo, need, digest).await?;
    let mut failed = None;
    for mirror in &asked.mirrors {
        let reading = Box::pin(read_at(inner, mirror, which));
        match inner.patiently(mirror, reading).await {
            Ok(manifest) => return Ok(manifest),
            Err(failure) => failed = Some(inner.mirrors.failed(mirror, digest, failure)),
        }
    }
    read_at(inner, &asked.registry(failed)?, which).await
}

/// The same at one place; the manifest's digest is checked against the selector, or against what the registry told.
pub(super) async fn read_at(
    inner: &Inner,
    endpoint: &Endpoint,
    which: &ManifestSelector,
) -> Result<Manifest, RegistryFailure> {
    let response = ask(inner, Method::GET, endpoint, which).await?;
    let response = answer::expect(response, &[200]).await?;
    let told = told_digest(&response);
    let media_type = told_media_type(&response);
    let bytes = response.collect(MANIFEST_LEN_MAX).await?;
    let manifest = Manifest::new(bytes, media_type.as_deref());
    let wanted = match which {
        ManifestSelector::Digest(digest) => Some(*digest),
        ManifestSelector::Tag(_) => told,
    };
    match wanted {
        Some(wanted) if wanted != manifest.digest() => Err(RegistryFailure::WrongDigest {
            wanted,
            got: manifest.digest(),
        }),
        _ => Ok(manifest),
    }
}

/// Looks whether a manifest is there, without reading it where the registry tells its digest.
pub(super) async fn find(
    inner: &Inner,
    repo: &RepoRef,
    which: &ManifestSelector,
) -> Result<Option<Descriptor>, RegistryFailure> {
    let need = match which {
        ManifestSelector::Digest(_) => Need::Pull,
        ManifestSelector::Tag(_) => Need::Resolve,
    };
    let endpoint = inner.registry(repo, need).await?;
    let response = ask(inner, Method::HEAD, &endpoint, which).await?;
    if response.status().as_u16() == 404 {
        return Ok(None);
    }
    let response = answer::expect(response, &[200]).await?;
    let told = (
        told_digest(&response),
        told_media_type(&response),
        response.told_len(),
    );
    match (told, which) {
        ((Some(got), ..), ManifestSelector::Digest(wanted)) if got != *wanted => {
            Err(RegistryFailure::WrongDigest {
                wanted: *wanted,
                got,
            })
        }
        ((Some(digest), Some(media_type), Some(len)), _) => {
            Ok(Some(Descriptor::new(&media_type, digest, len)))
        }
        _ => Ok(Some(read(inner, repo, which).await?.descriptor())),
    }
}

/// One try to put a manifest.
pub(super) async fn put(
    inner: &Inner,
    repo: &RepoRef,
    which: &ManifestSelector,
    manifest: &Manifest,
) -> Result<Digest, RegistryFailure> {
    let endpoint = inner.registry(repo, Need::Push).await?;
    send(inner, &endpoint, which, manifest).await?;
    Ok(manifest.digest())
}

/// The same; comes back with the registry's answer.
pub(super) async fn send(
    inner: &Inner,
    endpoint: &Endpoint,
    which: &ManifestSelector,
    manifest: &Manifest,
) -> Result<Response, RegistryFailure> {
    if let ManifestSelector::Digest(wanted) = which
        && *wanted != manifest.digest()
    {
        return Err(RegistryFailure::WrongDigest {
            wanted: *wanted,
            got: manifest.digest(),
        });
    }
    let scope = Scope::new(endpoint.repo(), Access::PullAndPush);
    let url = endpoint.url(&format!("manifests/{which}"));
    let mut ask = Ask::new(Method::PUT, url, &scope);
    let media_type = HeaderValue::from_str(manifest.media_type()).map_err(|_| {
        RegistryFailure::Malformed("the manifest's media type has forbidden characters".to_owned())
    })?;
    ask.headers.insert(CONTENT_TYPE, media_type);
    ask.body = AskBody::Bytes(manifest.bytes().clone());
    let response = exchange(endpoint, &inner.auth, ask).await?;
    let response = answer::expect(response, &[201, 200]).await?;
    check_told_digest(&response, &manifest.digest())?;
    Ok(response)
}

/// All tags of a repository, in the registry's order.
pub(super) async fn tags(inner: &Inner, repo: &RepoRef) -> Result<Vec<String>, RegistryFailure> {
    let endpoint = inner.registry(repo, Need::Resolve).await?;
    let scope = Scope::new(endpoint.repo(), Access::Pull);
    let mut url = endpoint.url("tags/list");
    url.query_pairs_mut().append_pair("n", TAGS_A_PAGE);
    let mut tags = Vec::new();
    for _ in 0..PAGES_MAX {
        let ask = Ask::new(Method::GET, url.clone(), &scope);
        let response = exchange(&endpoint, &inner.auth, ask).await?;
        let response = answer::expect(response, &[200]).await?;
        let next = next_page(&response).map(str::to_owned);
        let next = next
            .map(|link| target_of(&endpoint, &response, &link))
            .transpose()?;
        let page = response.collect(PAGE_LEN_MAX).await?;
        let page: TagPage = serde_json::from_slice(&page)
            .map_err(|error| RegistryFailure::Malformed(format!("its list of tags: {error}")))?;
        tags.extend(page.tags.unwrap_or_default());
        match next {
            Some(next) => url = next,
            None => return Ok(tags),
        }
    }
    Err(RegistryFailure::Malformed(format!(
        "its list of tags has more than {PAGES_MAX} pages"
    )))
}

async fn ask(
    inner: &Inner,
    method: Method,
    endpoint: &Endpoint,
    which: &ManifestSelector,
) -> Result<Response, RegistryFailure> {
    let scope = Scope::new(endpoint.repo(), Access::Pull);
    let mut ask = Ask::new(method, endpoint.url(&format!("manifests/{which}")), &scope);
    let accepted = media_type::ACCEPTED_MANIFESTS.join(", ");
    if let Ok(accepted) = HeaderValue::from_str(&accepted) {
        ask.headers.insert(ACCEPT, accepted);
    }
    exchange(endpoint, &inner.auth, ask).await
}

/// The `Content-Type` without its parameters.
fn told_media_type(response: &Response) -> Option<String> {
    let value = response.header("content-type")?;
    let kind = value.split(';').next().unwrap_or(value).trim();
    // What servers say when they do not know says nothing.
    let says_something = !matches!(
        kind,
        "" | "application/json" | "application/octet-stream" | "text/plain"
    );
    says_something.then(|| kind.to_owned())
}

/// The address in `Link: </v2/…>; rel="next"`.
pub(super) fn next_page(response: &Response) -> Option<&str> {
    let (link, rest) = response
        .header("link")?
        .strip_prefix('<')?
        .split_once('>')?;
    rest.contains("next").then_some(link)
}
