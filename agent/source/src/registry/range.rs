//! Ranges of a blob: exactly the bytes that were asked for, or an error that says why not.
//!
//! A server may ignore `Range` and send everything with 200. Taking the first bytes of that for the range would be
//! wrong bytes; reading on to the range would be a whole blob for a chunk. So it is told apart, and the caller decides.

use bytes::Bytes;
use reqwest::header::{HeaderValue, RANGE};
use reqwest::{Method, Url};
use tokio::time::Instant;
use tranship_format::{ByteRange, Digest};

use super::auth::{Access, Scope};
use super::endpoint::Endpoint;
use super::error::{RegistryError, RegistryFailure, Request};
use super::exchange::{Ask, exchange};
use super::hosts::Need;
use super::http::{HttpRequest, Response};
use super::redirect::Route;
use super::{Inner, RegistryClient, answer};
use crate::reference::RepoRef;

/// Statuses by which storage says that a signed address is not good any more.
const REFUSALS: [u16; 5] = [400, 401, 403, 404, 410];

/// One try to read `range`, which is not empty.
pub(super) async fn read(
    inner: &Inner,
    repo: &RepoRef,
    digest: &Digest,
    range: ByteRange,
) -> Result<Bytes, RegistryFailure> {
    let len = range.len();
    let body = open(inner, repo, digest, range).await?.collect(len).await;
    let body = match body {
        Ok(body) if body.len() as u64 != len => Err(RegistryFailure::ShortBody {
            got: body.len() as u64,
            wanted: len,
        }),
        body => body,
    };
    body.inspect_err(|failure| inner.mirrors.disappointed(digest, failure))
}

/// One try to open `range`, which is not empty: its bytes are the answer's body. Mirrors come first.
pub(super) async fn open(
    inner: &Inner,
    repo: &RepoRef,
    digest: &Digest,
    range: ByteRange,
) -> Result<Response, RegistryFailure> {
    let asked = inner.asked(repo, Need::Pull, Some(digest)).await?;
    let mut failed = None;
    for mirror in &asked.mirrors {
        let opening = Box::pin(open_at(inner, mirror, digest, range));
        match inner.patiently(mirror, opening).await {
            Ok(response) => {
                inner.mirrors.answers(digest, Some(mirror));
                return Ok(response);
            }
            Err(failure) => failed = Some(inner.mirrors.failed(mirror, Some(digest), failure)),
        }
    }
    inner.mirrors.answers(digest, None);
    open_at(inner, &asked.registry(failed)?, digest, range).await
}

/// The same at one place.
async fn open_at(
    inner: &Inner,
    endpoint: &Endpoint,
    digest: &Digest,
    range: ByteRange,
) -> Result<Response, RegistryFailure> {
    let response = request(inner, endpoint, digest, range).await?;
    match response.status().as_u16() {
        206 => {
            check_content_range(&response, range)?;
            Ok(response)
        }
        // Some servers answer so when the range is the whole blob, and then it is no different.
        200 if range.start == 0 && response.told_len() == Some(range.len()) => Ok(response),
        200 => Err(RegistryFailure::RangeIgnored),
        _ => Err(answer::failure(response).await),
    }
}

/// A range on its way, unverified and tried once.
#[derive(Debug)]
pub(super) struct RangeRead {
    client: RegistryClient,
    request: Request,
    digest: Digest,
    range: ByteRange,
    response: Option<Response>,
    /// Bytes still to come.
    left: u64,
}

impl RangeRead {
    pub(super) fn new(
        client: RegistryClient,
        request: Request,
        digest: Digest,
        range: ByteRange,
    ) -> Self {
        Self {
            client,
            request,
            digest,
            range,
            response: None,
            left: range.len(),
        }
    }

    /// The next bytes, and the rest of the read; `None` after the last.
    pub(super) async fn next(mut self) -> Result<Option<(Bytes, Self)>, RegistryError> {
        if self.left == 0 {
            return Ok(None);
        }
        let bytes = self.step().await.and_then(|bytes| match bytes {
            None => Err(RegistryFailure::ShortBody {
                got: self.range.len().saturating_sub(self.left),
                wanted: self.range.len(),
            }),
            some => Ok(some),
        });
        let bytes = bytes.map_err(|failure| {
            if self.response.is_some() {
                let mirrors = &self.client.inner.mirrors;
                mirrors.disappointed(&self.digest, &failure);
            }
            RegistryError::new(&self.request, failure)
        })?;
        Ok(bytes.map(|bytes| {
            self.left = self.left.saturating_sub(bytes.len() as u64);
            (bytes, self)
        }))
    }

    async fn step(&mut self) -> Result<Option<Bytes>, RegistryFailure> {
        let response = match &mut self.response {
            Some(response) => response,
            none => {
                let inner = &self.client.inner;
                let opening = open(inner, &self.request.repo, &self.digest, self.range);
                none.insert(opening.await?)
            }
        };
        response.next().await
    }
}

/// Asks along the known route, and the registry if there is none or it does not hold.
async fn request(
    inner: &Inner,
    endpoint: &Endpoint,
    digest: &Digest,
    range: ByteRange,
) -> Result<Response, RegistryFailure> {
    let url = endpoint.blob_url(digest);
    let shared = inner.routes.of(&url);
    let mut refused = None;
    // First the known route, then the one that somebody else may have learnt since.
    for _ in 0..2 {
        let mut route = shared.lock().await;
        match &*route {
            Route::Via(via, until) if Instant::now() < *until && refused.as_ref() != Some(via) => {
                let via = via.clone();
                drop(route);
                let mut request = HttpRequest::new(Method::GET, via.clone());
                request.headers.insert(RANGE, header(range)?);
                let response = endpoint.http(&via).send(request).await?;
                if !REFUSALS.contains(&response.status().as_u16()) {
                    return Ok(response);
                }
                tracing::debug!(status = %response.status(), %digest, "redirect target refused, asking the registry again");
                refused = Some(via);
            }
            Route::Direct => break,
            Route::Unknown | Route::Via(..) => {
                let response = from_registry(inner, endpoint, url.clone(), range).await?;
                *route = inner.routes.learnt(&url, response.url());
                return Ok(response);
            }
        }
    }
    from_registry(inner, endpoint, url, range).await
}

async fn from_registry(
    inner: &Inner,
    endpoint: &Endpoint,
    url: Url,
    range: ByteRange,
) -> Result<Response, RegistryFailure> {
    let scope = Scope::new(endpoint.repo(), Access::Pull);
    let mut ask = Ask::new(Method::GET, url, &scope);
    ask.headers.insert(RANGE, header(range)?);
    exchange(endpoint, &inner.auth, ask).await
}

/// The `Range` header for a range that is not empty; HTTP names the last byte and not the one behind it.
pub(super) fn header(range: ByteRange) -> Result<HeaderValue, RegistryFailure> {
    let last = range.end.saturating_sub(1);
    HeaderValue::from_str(&format!("bytes={}-{last}", range.start))
        .map_err(|error| RegistryFailure::Malformed(error.to_string()))
}

/// A 206 must say that it is the range that was asked for; the start alone is not enough.
pub(super) fn check_content_range(
    response: &Response,
    range: ByteRange,
) -> Result<(), RegistryFailure> {
    let text = response.header("content-range").unwrap_or_default();
    match parse_content_range(text) {
        Some((sent, _)) if sent == range => Ok(()),
        // The blob ends within the range.
        Some((sent, Some(total)))
            if sent.start == range.start && sent.end == total && total < range.end =>
        {
            Err(RegistryFailure::RangeNotSatisfiable)
        }
        _ => Err(RegistryFailure::Malformed(format!(
            "{range} were asked for, the answer holds {text:?}"
        ))),
    }
}

/// `bytes FIRST-LAST/TOTAL` or `bytes FIRST-LAST/*`.
fn parse_content_range(text: &str) -> Option<(ByteRange, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    (first <= last).then_some(())?;
    Some((ByteRange::new(first, last.checked_add(1)?), total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_half_open_here() {
        assert_eq!(
            parse_content_range("bytes 10-19/100"),
            Some((ByteRange::new(10, 20), Some(100)))
        );
        assert_eq!(
            parse_content_range("bytes 0-0/*"),
            Some((ByteRange::new(0, 1), None))
        );
        for text in [
            "",
            "bytes",
            "bytes */100",
            "bytes 5-4/10",
            "bytes 1-2",
            "octets 1-2/3",
            "bytes -1-2/3",
            "bytes 0-18446744073709551615/*",
        ] {
            assert_eq!(parse_content_range(text), None, "{text}");
        }
    }

    #[test]
    fn the_header_names_the_last_byte() {
        assert_eq!(header(ByteRange::new(5, 10)).unwrap(), "bytes=5-9");
    }
}
