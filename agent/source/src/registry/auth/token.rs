//! The token service: passwords or identity tokens in, short-lived access tokens out.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use tokio::time::Instant;

use super::pass::basic_value;
use super::{Challenge, Kind, Pass};
use crate::credentials::Credential;
use crate::registry::answer;
use crate::registry::endpoint::{self, Endpoint};
use crate::registry::error::RegistryFailure;
use crate::registry::http::HttpRequest;

/// What we call ourselves towards OAuth 2.
const CLIENT_ID: &str = "tranship";

/// The life of a token that does not say: the specification's number.
const DEFAULT_LIFE: Duration = Duration::from_mins(1);

/// The longest life that is believed, so that no sum of times overflows.
const LIFE_MAX: Duration = Duration::from_hours(24);

/// The most that a token is given up before its end, so that it does not expire on its way.
const MARGIN_MAX: Duration = Duration::from_secs(10);

/// The most that the next one is asked for before a token is given up: enough for a service that has to be asked twice.
const EARLY_MAX: Duration = Duration::from_mins(1);

/// The longest answer of a token service, in bytes; tokens with many grants grow to tens of kilobytes.
const ANSWER_LEN_MAX: u64 = 1 << 20;

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// Gets a token for `scopes` from the service that `challenge` names.
pub(super) async fn fetch(
    endpoint: &Endpoint,
    challenge: &Challenge,
    scopes: &[String],
    credential: &Credential,
) -> Result<Pass, RegistryFailure> {
    let Challenge::Bearer {
        realm,
        service,
        scope,
    } = challenge
    else {
        return Err(RegistryFailure::Malformed("no token service".to_owned()));
    };
    let mut url = Url::parse(realm)
        .map_err(|_| RegistryFailure::Malformed(format!("{realm:?} is no address")))?;
    if !endpoint.allows(&url) {
        return Err(RegistryFailure::BadRedirect {
            to: endpoint::without_secrets(&url),
            why: "credentials would be sent without TLS; allow plain HTTP for that host if it must be",
        });
    }
    // What the registry asks for beyond what we know we need (some have scopes of their own).
    let extra = scope.iter().flat_map(|scope| scope.split(' '));
    let mut wanted: Vec<&str> = scopes.iter().map(String::as_str).collect();
    wanted.extend(extra.filter(|name| !name.is_empty() && !covered(name, scopes)));

    let asked_at = Instant::now();
    let request = match credential {
        Credential::IdentityToken(token) => {
            let mut form = vec![
                ("grant_type", "refresh_token"),
                ("refresh_token", token.reveal()),
                ("client_id", CLIENT_ID),
            ];
            form.extend(service.iter().map(|service| ("service", service.as_str())));
            let all = wanted.join(" ");
            form.push(("scope", &all));
            let mut headers = HeaderMap::new();
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded"),
            );
            HttpRequest {
                headers,
                body: Some(encode_form(&url, &form).into()),
                ..HttpRequest::new(Method::POST, url)
            }
        }
        Credential::Basic { .. } | Credential::Anonymous | Credential::RegistryToken(_) => {
            {
                let mut query = url.query_pairs_mut();
                if let Some(service) = service {
                    query.append_pair("service", service);
                }
                query.extend_pairs(wanted.iter().map(|scope| ("scope", scope)));
            }
            let mut request = HttpRequest::new(Method::GET, url);
            if let Credential::Basic { username, password } = credential {
                let value = basic_value(username, password.reveal());
                let pass = Pass::new(&value, Kind::Secret)?;
                request.headers.insert(AUTHORIZATION, pass.header().clone());
            }
            request
        }
    };
    let response = endpoint.http(&request.url).send(request).await?;
    let response = answer::expect(response, &[200]).await?;
    let bytes = response.collect(ANSWER_LEN_MAX).await?;
    let kind = match credential {
        Credential::Anonymous => Kind::Anonymous,
        _ => Kind::Scoped,
    };
    read(&bytes, kind, asked_at)
}

/// Whether `name` permits nothing that one of `scopes` does not permit.
fn covered(name: &str, scopes: &[String]) -> bool {
    let Some((resource, actions)) = name.rsplit_once(':') else {
        return false;
    };
    scopes
        .iter()
        .filter_map(|scope| scope.rsplit_once(':'))
        .any(|(ours, allowed)| {
            ours == resource
                && actions
                    .split(',')
                    .all(|action| allowed.split(',').any(|ours| ours == action))
        })
}

fn read(bytes: &[u8], kind: Kind, asked_at: Instant) -> Result<Pass, RegistryFailure> {
    // The parser's own words could quote the token.
    let answer: Answer = serde_json::from_slice(bytes)
        .map_err(|_| RegistryFailure::Malformed("the token is not in JSON".to_owned()))?;
    let token = answer
        .token
        .or(answer.access_token)
        .filter(|token| !token.is_empty())
        .ok_or_else(|| RegistryFailure::Malformed("no token in the answer".to_owned()))?;
    let life = answer
        .expires_in
        .map_or(DEFAULT_LIFE, Duration::from_secs)
        .min(LIFE_MAX);
    let margin = (life / 10).min(MARGIN_MAX);
    let stale_at = asked_at + life.saturating_sub(margin);
    let pass = Pass::new(&format!("Bearer {token}"), kind)?;
    Ok(pass.until(stale_at, (life / 5).min(EARLY_MAX)))
}

fn encode_form(base: &Url, pairs: &[(&str, &str)]) -> String {
    // A URL's query has the encoding of forms.
    let mut url = base.clone();
    url.query_pairs_mut().clear().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tokens_go_stale_shortly_before_they_expire() {
        let now = Instant::now();
        for (json, left_for, fresh_for) in [
            (r#"{"token":"t"}"#, 42, 54),
            (r#"{"access_token":"t","expires_in":300}"#, 230, 290),
            (r#"{"token":"t","access_token":"u","expires_in":10}"#, 7, 9),
            (
                r#"{"token":"t","expires_in":18446744073709551615}"#,
                24 * 60 * 60 - 70,
                24 * 60 * 60 - 10,
            ),
        ] {
            let pass = read(json.as_bytes(), Kind::Scoped, now).unwrap();
            assert_eq!(pass.header(), "Bearer t");
            assert!(
                pass.is_fresh(now + Duration::from_secs(fresh_for - 1)),
                "{json}"
            );
            assert!(
                !pass.is_fresh(now + Duration::from_secs(fresh_for)),
                "{json}"
            );
            let is_due = |after| pass.is_due(now + Duration::from_secs(after));
            assert_eq!((is_due(left_for - 1), is_due(left_for)), (false, true));
        }
    }

    #[test]
    fn answers_without_a_usable_token_are_refused() {
        let now = Instant::now();
        for json in [
            "",
            "{}",
            r#"{"token":""}"#,
            r#"{"token":"a\nb"}"#,
            r#"{"token":1}"#,
        ] {
            assert!(read(json.as_bytes(), Kind::Scoped, now).is_err(), "{json}");
        }
    }

    #[test]
    fn scopes_that_are_covered_are_not_asked_for_twice() {
        let ours = ["repository:a/b:pull,push".to_owned()];
        assert!(covered("repository:a/b:pull", &ours));
        assert!(covered("repository:a/b:push,pull", &ours));
        assert!(!covered("repository:a/b:delete", &ours));
        assert!(!covered("repository:a/c:pull", &ours));
        assert!(!covered("aws", &ours));
    }

    #[test]
    fn forms_are_encoded() {
        let url = Url::parse("https://h/token?x=1").unwrap();
        assert_eq!(
            encode_form(&url, &[("a", "b c&d"), ("e", "")]),
            "a=b+c%26d&e="
        );
    }
}
