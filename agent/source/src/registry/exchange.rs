//! One request with all that the protocol puts around it: showing a pass, renewing it, following redirects.
//!
//! Redirects are followed by hand because a blob's leads to someone else's storage: the pass is for the registry
//! alone and must not travel there.

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, LOCATION};
use reqwest::{Method, Url};

use super::auth::{Auth, Challenge, OTHERS_MAX, Scope};
use super::endpoint::{Endpoint, without_secrets};
use super::error::RegistryFailure;
use super::http::{HttpRequest, Response};
use super::upload::Upload;

/// How many redirects are followed: registries use one or two.
const HOPS_MAX: u32 = 5;

/// What a request carries. It may be sent more than once.
#[derive(Debug)]
pub(super) enum AskBody<'a> {
    None,
    Bytes(Bytes),
    Upload(&'a mut Upload),
}

/// A request to a registry.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) scope: &'a Scope,
    pub(super) body: AskBody<'a>,
}

impl<'a> Ask<'a> {
    pub(super) fn new(method: Method, url: Url, scope: &'a Scope) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            scope,
            body: AskBody::None,
        }
    }
}

/// Asks, and returns the last answer whatever its status; only `endpoint` itself may see the pass and its headers.
pub(super) async fn exchange(
    endpoint: &Endpoint,
    auth: &Auth,
    mut ask: Ask<'_>,
) -> Result<Response, RegistryFailure> {
    let mut url = ask.url.clone();
    let (mut shown, mut renewals) = (Vec::new(), 0);
    let mut hops = 0;
    loop {
        let shows_pass = endpoint.is_at(&url);
        let pass = if shows_pass {
            auth.pass(endpoint, ask.scope).await?
        } else {
            None
        };
        let mut request = HttpRequest::new(ask.method.clone(), url.clone());
        request.headers = ask.headers.clone();
        if shows_pass {
            request.headers.extend(endpoint.headers().clone());
        }
        if let Some(pass) = &pass {
            request.headers.insert(AUTHORIZATION, pass.header().clone());
        }
        request.body = match &mut ask.body {
            AskBody::None => None,
            AskBody::Bytes(bytes) => Some(bytes.clone().into()),
            AskBody::Upload(upload) => Some(upload.body(&request.progress).await?),
        };
        let response = endpoint.http(&url).send(request).await?;
        match response.status().as_u16() {
            401 | 403 if shows_pass && renewals <= OTHERS_MAX => {
                shown.extend(pass);
                let challenge = Challenge::of(response.headers());
                if !auth
                    .renew(endpoint, ask.scope, challenge, &shown, renewals)
                    .await?
                {
                    return Ok(response);
                }
                renewals += 1;
            }
            301 | 302 | 303 | 307 | 308 if is_read(&ask.method) => {
                hops += 1;
                url = target(endpoint, &response)?;
                if hops > HOPS_MAX {
                    return Err(refused(&url, "too many redirects"));
                }
            }
            _ => return Ok(response),
        }
    }
}

fn is_read(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

/// Where an answer's `Location` leads, if one may go there.
pub(super) fn target(endpoint: &Endpoint, response: &Response) -> Result<Url, RegistryFailure> {
    let location = response
        .header(LOCATION.as_str())
        .ok_or_else(|| RegistryFailure::Malformed("it names no location".to_owned()))?;
    target_of(endpoint, response, location)
}

/// Where `location`, as an answer wrote it, leads, if one may go there.
pub(super) fn target_of(
    endpoint: &Endpoint,
    response: &Response,
    location: &str,
) -> Result<Url, RegistryFailure> {
    let url = response.url().join(location).map_err(|error| {
        RegistryFailure::Malformed(format!("its location is no address: {error}"))
    })?;
    if endpoint.allows(&url) {
        Ok(url)
    } else {
        Err(refused(
            &url,
            "it leaves TLS; allow plain HTTP for that host if it must be",
        ))
    }
}

fn refused(url: &Url, why: &'static str) -> RegistryFailure {
    RegistryFailure::BadRedirect {
        to: without_secrets(url),
        why,
    }
}
