//! Who may ask what of the HTTP side.
//!
//! Health and metrics name nobody and are open. The page and the JSON name images and nodes: they are open where only
//! this machine can ask, and want the operator token elsewhere, because whoever may not pull an image shall not learn
//! here that it exists. What changes something wants the token everywhere, and as a bearer's: a browser sends that of
//! its own accord to nobody, so no other page can give orders through it.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Shown;
use super::refusal::Refusal;
use crate::secret::Secret;

/// How a browser is asked for the token: as the password, under any name.
const CHALLENGE: &str = "Basic realm=\"tranship tracker: the operator token is the password\"";
/// What to do without the token.
const HINT: &str =
    "give the operator token, which is in `operator-token` in the tracker's state directory";

/// The right to look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader;

/// The right to give orders.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operator;

impl FromRequestParts<Shown> for Reader {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, shown: &Shown) -> Result<Self, Response> {
        if shown.is_local || is_operator(&parts.headers, &shown.operator, true) {
            return Ok(Self);
        }
        let mut refused = denied("this tracker shows itself to its operator alone");
        if let Ok(challenge) = CHALLENGE.parse() {
            refused
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
        }
        Err(refused)
    }
}

impl FromRequestParts<Shown> for Operator {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, shown: &Shown) -> Result<Self, Response> {
        if is_operator(&parts.headers, &shown.operator, false) {
            return Ok(Self);
        }
        Err(denied("this tracker takes orders from its operator alone"))
    }
}

fn denied(error: &str) -> Response {
    Refusal::new(StatusCode::UNAUTHORIZED, error, HINT).into_response()
}

fn is_operator(headers: &HeaderMap, operator: &Secret, from_a_browser: bool) -> bool {
    let Some(given) = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    if let Some(token) = given.strip_prefix("Bearer ") {
        return operator.is(token.trim().as_bytes());
    }
    let Some(encoded) = given.strip_prefix("Basic ").filter(|_| from_a_browser) else {
        return false;
    };
    let Ok(pair) = STANDARD.decode(encoded.trim()) else {
        return false;
    };
    let mut halves = pair.splitn(2, |&byte| byte == b':');
    let password = halves.nth(1);
    password.is_some_and(|password| operator.is(password))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tranship_source::net::JoinToken;

    fn headers(authorization: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, authorization.parse().unwrap())])
    }

    #[test]
    fn orders_want_a_bearers_token_and_looking_takes_a_password_too() {
        let operator = Secret::new(&JoinToken::new("s:e"));
        let basic = format!("Basic {}", STANDARD.encode("anybody:s:e"));
        for (given, may_look, may_order) in [
            ("Bearer s:e", true, true),
            (basic.as_str(), true, false),
            ("Bearer other", false, false),
            ("Basic s:e", false, false),
            ("s:e", false, false),
        ] {
            let headers = headers(given);
            assert_eq!(is_operator(&headers, &operator, true), may_look, "{given}");
            assert_eq!(
                is_operator(&headers, &operator, false),
                may_order,
                "{given}"
            );
        }
        assert!(!is_operator(&HeaderMap::new(), &operator, true));
    }
}
