//! What an answer's status means, and what the registry has to say about it.

use std::time::Duration;

use serde::Deserialize;

use super::error::{Detail, RegistryFailure};
use super::http::Response;
use super::http_date;

/// The most that is read of an error's body, in bytes.
const ERROR_LEN_MAX: u64 = 64 << 10;

/// How much of it is repeated, in characters.
const DETAIL_LEN_MAX: usize = 300;

/// The longest pause a registry may ask for; more is taken as this.
const PAUSE_MAX: Duration = Duration::from_hours(1);

/// The specification's error document.
#[derive(Deserialize)]
struct ErrorDocument {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: Option<String>,
}

/// The answer itself if it has one of the statuses that are wanted, else what went wrong.
pub(super) async fn expect(
    response: Response,
    wanted: &[u16],
) -> Result<Response, RegistryFailure> {
    if wanted.contains(&response.status().as_u16()) {
        Ok(response)
    } else {
        Err(failure(response).await)
    }
}

/// What an answer that nobody wanted means.
pub(super) async fn failure(response: Response) -> RegistryFailure {
    let status = response.status().as_u16();
    let retry_after = retry_after(&response);
    let detail = detail(response).await;
    match status {
        401 => RegistryFailure::Unauthorized(detail),
        403 => RegistryFailure::Denied(detail),
        404 => RegistryFailure::NotFound(detail),
        416 => RegistryFailure::RangeNotSatisfiable,
        429 => RegistryFailure::TooManyRequests {
            retry_after,
            detail,
        },
        500..=599 => RegistryFailure::Server {
            status,
            retry_after,
            detail,
        },
        _ => RegistryFailure::UnexpectedStatus { status, detail },
    }
}

/// How long the answer asks us to wait: seconds, or a date that is counted from the answer's own.
fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.header("retry-after")?.trim();
    let seconds = text.parse().ok().or_else(|| {
        let then = http_date::seconds(text)?;
        let now = http_date::seconds(response.header("date")?)?;
        Some(then.saturating_sub(now))
    })?;
    Some(Duration::from_secs(seconds).min(PAUSE_MAX))
}

/// The registry's own words, as far as they are meant for people. A body that cannot be read says nothing.
async fn detail(response: Response) -> Detail {
    let is_text = response
        .header("content-type")
        .is_some_and(|kind| kind.starts_with("text/plain"));
    let Ok(body) = response.collect(ERROR_LEN_MAX).await else {
        return Detail::default();
    };
    let said = match serde_json::from_slice::<ErrorDocument>(&body) {
        Ok(document) => document
            .errors
            .iter()
            .map(entry_text)
            .collect::<Vec<_>>()
            .join("; "),
        Err(_) if is_text => String::from_utf8_lossy(&body).trim().to_owned(),
        Err(_) => String::new(),
    };
    // Control characters would let a registry write on our terminals.
    let plain: String = said
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(DETAIL_LEN_MAX)
        .collect();
    Detail((!plain.is_empty()).then_some(plain))
}

fn entry_text(entry: &ErrorEntry) -> String {
    match (&entry.message, entry.code.as_str()) {
        (Some(message), "") => message.clone(),
        (Some(message), code) => format!("{code}: {message}"),
        (None, code) => code.to_owned(),
    }
}
