//! An answer that is not a success: a status for programs, a sentence and advice for people.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tranship_source::RegistryFailure;

use crate::message::ErrorReply;
use crate::seed::{OrderError, SeedError};

/// See the module.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    reply: ErrorReply,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>, hint: &str) -> Self {
        let (error, hint) = (error.into(), hint.to_owned());
        Self {
            status,
            reply: ErrorReply { error, hint },
        }
    }

    /// The server does not answer.
    pub(super) fn stuck() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the tracker does not answer",
            "it is stopping, or has far too much to do: look at its log",
        )
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.reply)).into_response()
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text(), "")
    }
}

impl From<OrderError> for Refusal {
    fn from(error: OrderError) -> Self {
        let (status, hint) = match (&error, error.registry()) {
            (OrderError::Reference(_) | OrderError::NoDigest { .. }, _) => (
                StatusCode::BAD_REQUEST,
                "write HOST/REPO@sha256:…, with the digest of one image's manifest",
            ),
            (OrderError::NotConverted { .. }, _) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "`tranship convert` makes an image that can be seeded",
            ),
            (OrderError::OtherTrace { .. } | OrderError::UnknownChunk { .. }, _) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "`tranship trace` on a node that has started this very image makes one",
            ),
            (OrderError::TooMany, _) => (
                StatusCode::TOO_MANY_REQUESTS,
                "wait until some are over, or take some back",
            ),
            (OrderError::Image(SeedError::NotAllowed), _) => (
                StatusCode::FORBIDDEN,
                "name the registry in the setting registry.allow",
            ),
            (OrderError::Image(_), Some(RegistryFailure::NotFound(_))) => {
                (StatusCode::NOT_FOUND, "check the reference")
            }
            (
                OrderError::Image(_),
                Some(
                    RegistryFailure::Unauthorized(_)
                    | RegistryFailure::Denied(_)
                    | RegistryFailure::Credentials(_),
                ),
            ) => (
                StatusCode::FORBIDDEN,
                "give the tracker a login that may pull it: setting registry.docker_config",
            ),
            (OrderError::Image(_), Some(_)) => (
                StatusCode::BAD_GATEWAY,
                "see whether the tracker's machine reaches the registry",
            ),
            (OrderError::Image(_), None) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "`tranship verify` says what is wrong with the image",
            ),
        };
        Self::new(status, sentence(&error), hint)
    }
}

/// An error and its causes in one line.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
