//! Blobs of the embedded registry: given whole and in ranges, taken in one request or in pieces.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;
use tranship_format::Digest;

use super::{Answer, DIGEST_HEADER, Refusal, Shared, broken, refusal};

fn parse_digest(text: &str) -> Result<Digest, Refusal> {
    text.parse()
        .map_err(|_| refusal(StatusCode::BAD_REQUEST, "DIGEST_INVALID", text))
}

/// A `Range: bytes=a-b` header against a blob's length: `None` = whole, `Some(Err)` = outside.
pub(super) fn range_of(headers: &HeaderMap, len: u64) -> Option<Result<(u64, u64), ()>> {
    let (start, end) = headers
        .get(header::RANGE)?
        .to_str()
        .ok()?
        .strip_prefix("bytes=")?
        .split_once('-')?;
    if start.is_empty() {
        let tail = end.parse::<u64>().ok()?.min(len);
        return Some(if tail == 0 {
            Err(())
        } else {
            Ok((len - tail, len))
        });
    }
    let start: u64 = start.parse().ok()?;
    let end = if end.is_empty() {
        len
    } else {
        end.parse::<u64>().ok()?.saturating_add(1).min(len)
    };
    Some(if start < end {
        Ok((start, end))
    } else {
        Err(())
    })
}

pub(super) async fn get_blob(
    shared: &Arc<Shared>,
    digest: &str,
    method: &Method,
    headers: &HeaderMap,
) -> Answer {
    let digest = parse_digest(digest)?;
    let unknown = |_| refusal(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", &digest.to_string());
    let mut file = tokio::fs::File::open(shared.storage.blob_path(&digest))
        .await
        .map_err(unknown)?;
    let len = file.metadata().await.map_err(broken)?.len();
    let (status, start, end) = match range_of(headers, len) {
        None => (StatusCode::OK, 0, len),
        Some(Ok((start, end))) => (StatusCode::PARTIAL_CONTENT, start, end),
        Some(Err(())) => {
            return Err(refusal(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "SIZE_INVALID",
                "no such range",
            ));
        }
    };
    let mut response = if method == Method::HEAD {
        Body::empty().into_response()
    } else {
        file.seek(io::SeekFrom::Start(start))
            .await
            .map_err(broken)?;
        let counted = Arc::clone(shared);
        let bytes =
            ReaderStream::with_capacity(file.take(end - start), 64 << 10).inspect(move |piece| {
                let len = piece.as_ref().map_or(0, |piece: &Bytes| piece.len());
                counted
                    .blob_bytes
                    .fetch_add(u64::try_from(len).unwrap_or(0), Ordering::Relaxed);
            });
        Body::from_stream(bytes).into_response()
    };
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(end - start));
    if let Ok(value) = HeaderValue::from_str(&digest.to_string()) {
        fields.insert(DIGEST_HEADER, value);
    }
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(value) = HeaderValue::from_str(&format!("bytes {start}-{}/{len}", end - 1))
    {
        fields.insert(header::CONTENT_RANGE, value);
    }
    Ok(response)
}

fn query_value(query: &str, key: &str) -> Option<String> {
    let value = query
        .split('&')
        .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))?;
    // Digests and repository names need no more of percent-encoding than this.
    Some(
        value
            .replace("%3A", ":")
            .replace("%3a", ":")
            .replace("%2F", "/")
            .replace("%2f", "/"),
    )
}

fn created(name: &str, digest: &Digest) -> Response {
    let location = format!("/v2/{name}/blobs/{digest}");
    let headers = [
        (header::LOCATION.as_str(), location),
        (DIGEST_HEADER, digest.to_string()),
    ];
    (StatusCode::CREATED, headers).into_response()
}

fn accepted(name: &str, id: &str, len: u64) -> Response {
    let headers = [
        (
            header::LOCATION.as_str(),
            format!("/v2/{name}/blobs/uploads/{id}"),
        ),
        ("docker-upload-uuid", id.to_owned()),
        (
            header::RANGE.as_str(),
            format!("0-{}", len.saturating_sub(1)),
        ),
    ];
    (StatusCode::ACCEPTED, headers).into_response()
}

pub(super) async fn begin_upload(shared: &Shared, name: &str, query: &str, body: Body) -> Answer {
    if let Some(mount) = query_value(query, "mount") {
        let digest = parse_digest(&mount)?;
        if tokio::fs::try_exists(shared.storage.blob_path(&digest))
            .await
            .unwrap_or(false)
        {
            return Ok(created(name, &digest));
        }
    }
    let id = shared.storage.begin_upload().map_err(broken)?;
    if query_value(query, "digest").is_some() {
        return finish_upload(shared, name, &id, query, body).await;
    }
    Ok(accepted(name, &id, 0))
}

pub(super) async fn append_upload(shared: &Shared, name: &str, id: &str, body: Body) -> Answer {
    let len = shared.storage.append(id, body).await.map_err(broken)?;
    Ok(accepted(name, id, len))
}

pub(super) async fn finish_upload(
    shared: &Shared,
    name: &str,
    id: &str,
    query: &str,
    body: Body,
) -> Answer {
    let missing = || refusal(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "no digest given");
    let digest = parse_digest(&query_value(query, "digest").ok_or_else(missing)?)?;
    shared.storage.append(id, body).await.map_err(broken)?;
    if shared
        .storage
        .finish_upload(id, digest)
        .await
        .map_err(broken)?
    {
        Ok(created(name, &digest))
    } else {
        Err(refusal(
            StatusCode::BAD_REQUEST,
            "DIGEST_INVALID",
            "the bytes have another digest",
        ))
    }
}
