//! How we are let in, how often we ask, and to whom we never show what we have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::response::Response;
use bytes::Bytes;
use tranship_format::ByteRange;

use super::server::*;
use crate::credentials::{Credential, Secret};
use crate::registry::RegistryFailure;
use crate::verdict::Verdict;

/// A registry whose token service hands out `token-1`, `token-2`, …, of which only the newest is good.
struct TokenRegistry {
    blob: Bytes,
    /// The number of the newest token.
    issued: AtomicU64,
    /// The number of the only token that is let in; 0 is the newest.
    only: AtomicU64,
    expires_in: u64,
    /// What is answered to a token that is not good.
    refusal: u16,
}

impl TokenRegistry {
    fn new(blob: Bytes) -> Self {
        Self {
            blob,
            issued: AtomicU64::new(0),
            only: AtomicU64::new(0),
            expires_in: 300,
            refusal: 401,
        }
    }

    fn play(&self, host: &str, seen: &Seen) -> Response {
        if seen.path == "/token" {
            let number = self.issued.fetch_add(1, Ordering::SeqCst) + 1;
            let expires_in = self.expires_in;
            return answer(
                200,
                format!(r#"{{"token":"token-{number}","expires_in":{expires_in}}}"#),
            );
        }
        let challenge = format!(r#"Bearer realm="http://{host}/token",service="the registry""#);
        let challenge = [("www-authenticate", challenge.as_str())];
        let only = match self.only.load(Ordering::SeqCst) {
            0 => self.issued.load(Ordering::SeqCst),
            only => only,
        };
        match seen.authorization() {
            None => answer_with(401, &challenge, ""),
            Some(shown) if shown == format!("Bearer token-{only}") => serve(&self.blob, seen),
            Some(_) if self.refusal == 401 => answer_with(401, &challenge, ""),
            Some(_) => answer(self.refusal, ""),
        }
    }

    async fn start(self) -> (Arc<Self>, Server) {
        let registry = Arc::new(self);
        let played = Arc::clone(&registry);
        let server = Server::start_knowing_host(move |host, seen| played.play(host, seen)).await;
        (registry, server)
    }
}

const RANGE: ByteRange = ByteRange { start: 10, end: 20 };

#[tokio::test]
async fn a_token_is_fetched_once_and_shown_from_then_on() {
    let (bytes, digest) = blob(100);
    let (_, server) = TokenRegistry::new(bytes.clone()).start().await;
    let client = client_with(&server, user());
    for _ in 0..3 {
        let part = client.blob_range(&server.repo(), &digest, RANGE).await;
        assert_eq!(part.unwrap(), bytes.slice(10..20));
    }
    assert_eq!((server.count("/token"), server.count("/blobs/")), (1, 4));
    let token_request = &server.seen()[1];
    assert_eq!(token_request.authorization(), Some("Basic dTpw"));
    assert_eq!(
        token_request.query,
        "service=the+registry&scope=repository%3Ateam%2Fapp%3Apull"
    );
}

#[tokio::test]
async fn tokens_are_had_without_an_account_too() {
    let (bytes, digest) = blob(100);
    let (_, server) = TokenRegistry::new(bytes).start().await;
    let part = client().blob_range(&server.repo(), &digest, RANGE).await;
    part.unwrap();
    assert_eq!(server.seen()[1].authorization(), None);
}

#[tokio::test]
async fn an_expired_token_is_renewed_before_it_is_shown() {
    let (bytes, digest) = blob(100);
    let mut registry = TokenRegistry::new(bytes);
    registry.expires_in = 0;
    let (_, server) = registry.start().await;
    let client = client_with(&server, user());
    for _ in 0..3 {
        let part = client.blob_range(&server.repo(), &digest, RANGE).await;
        part.unwrap();
    }
    // The first token serves the request that asked for it; the two others found it expired.
    let blob_requests: Vec<_> = server
        .seen()
        .iter()
        .filter(|seen| seen.path.contains("/blobs/"))
        .map(|seen| seen.authorization().map(str::to_owned))
        .collect();
    assert_eq!(
        blob_requests.iter().filter(|shown| shown.is_none()).count(),
        1
    );
    assert_eq!(blob_requests.len(), 4);
    assert!(server.count("/token") >= 3);
}

#[tokio::test]
async fn many_readers_renew_a_token_once() {
    for refusal in [401, 403] {
        let (bytes, digest) = blob(100);
        let mut registry = TokenRegistry::new(bytes);
        registry.refusal = refusal;
        let (registry, server) = registry.start().await;
        let client = client_with(&server, user());
        let read = || async {
            let part = client.blob_range(&server.repo(), &digest, RANGE).await;
            part.unwrap();
        };
        read().await;
        // The registry forgets the first token before it has expired.
        registry.issued.store(7, Ordering::SeqCst);
        futures::future::join_all((0..20).map(|_| read())).await;
        assert_eq!(server.count("/token"), 2, "after {refusal}");
    }
}

#[tokio::test]
async fn a_fresh_token_that_is_refused_is_a_no() {
    for refusal in [401, 403] {
        let (bytes, digest) = blob(100);
        let mut registry = TokenRegistry::new(bytes);
        registry.refusal = refusal;
        let (registry, server) = registry.start().await;
        registry.only.store(99, Ordering::SeqCst);
        let client = client_with(&server, user());
        let error = client.blob_range(&server.repo(), &digest, RANGE).await;
        let error = error.unwrap_err();
        match (refusal, error.failure()) {
            (401, RegistryFailure::Unauthorized(_)) | (403, RegistryFailure::Denied(_)) => {}
            (_, other) => panic!("{other:?}"),
        }
        assert_eq!(error.verdict(), Verdict::TryElsewhere);
        assert_eq!((server.count("/token"), server.count("/blobs/")), (1, 2));
    }
}

#[tokio::test]
async fn a_refusal_of_a_kept_token_is_answered_with_one_new_one() {
    let (bytes, digest) = blob(100);
    let mut registry = TokenRegistry::new(bytes);
    registry.refusal = 403;
    let (registry, server) = registry.start().await;
    let client = client_with(&server, user());
    let part = client.blob_range(&server.repo(), &digest, RANGE).await;
    part.unwrap();
    registry.only.store(99, Ordering::SeqCst);
    let error = client.blob_range(&server.repo(), &digest, RANGE).await;
    assert!(matches!(
        error.unwrap_err().failure(),
        RegistryFailure::Denied(_)
    ));
    assert_eq!((server.count("/token"), server.count("/blobs/")), (2, 4));
}

#[tokio::test]
async fn passwords_are_shown_where_the_registry_wants_them() {
    let (bytes, digest) = blob(100);
    let server = Server::start(move |seen| match seen.authorization() {
        Some("Basic dTpw") => serve(&bytes, seen),
        _ => answer_with(401, &[("www-authenticate", "Basic realm=\"x\"")], ""),
    })
    .await;
    let known = client_with(&server, user());
    for _ in 0..2 {
        let part = known.blob_range(&server.repo(), &digest, RANGE).await;
        part.unwrap();
    }
    assert_eq!(server.seen().len(), 3);
    let unknown = client().blob_range(&server.repo(), &digest, RANGE).await;
    assert!(matches!(
        unknown.unwrap_err().failure(),
        RegistryFailure::Unauthorized(_)
    ));
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn identity_tokens_are_exchanged() {
    let (bytes, digest) = blob(100);
    let (_, server) = TokenRegistry::new(bytes).start().await;
    let client = client_with(&server, Credential::IdentityToken(Secret::new("it&s")));
    let part = client.blob_range(&server.repo(), &digest, RANGE).await;
    part.unwrap();
    let exchange = &server.seen()[1];
    assert_eq!(exchange.method, "POST");
    assert_eq!(
        exchange.header("content-type"),
        Some("application/x-www-form-urlencoded")
    );
    assert_eq!(
        exchange.body,
        "grant_type=refresh_token&refresh_token=it%26s&client_id=tranship\
         &service=the+registry&scope=repository%3Ateam%2Fapp%3Apull"
    );
}

#[tokio::test]
async fn registry_tokens_are_shown_as_they_are() {
    let (bytes, digest) = blob(100);
    let (registry, server) = TokenRegistry::new(bytes).start().await;
    registry.only.store(42, Ordering::SeqCst);
    let client = client_with(&server, Credential::RegistryToken(Secret::new("token-42")));
    let part = client.blob_range(&server.repo(), &digest, RANGE).await;
    part.unwrap();
    assert_eq!(server.count("/token"), 0);
}

#[tokio::test]
async fn a_token_service_that_fails_is_named() {
    let (_, digest) = blob(100);
    let server = Server::start_knowing_host(|host, seen| {
        if seen.path == "/token" {
            return answer(
                401,
                r#"{"errors":[{"code":"DENIED","message":"wrong password"}]}"#,
            );
        }
        let challenge = format!(r#"Bearer realm="http://{host}/token""#);
        answer_with(401, &[("www-authenticate", &challenge)], "")
    })
    .await;
    let client = client_with(&server, user());
    let error = client.blob_range(&server.repo(), &digest, RANGE).await;
    let error = error.unwrap_err();
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
    let last = causes.last().unwrap().downcast_ref();
    assert!(matches!(last, Some(RegistryFailure::Unauthorized(_))));
    let text = chain(&error);
    assert!(
        text.contains("could not get a token from http://127.0.0.1"),
        "{text}"
    );
    assert!(text.contains("DENIED: wrong password"), "{text}");
    assert!(!text.contains("Basic"), "{text}");
}

#[tokio::test]
async fn passwords_do_not_leave_tls_for_a_token() {
    let (_, digest) = blob(100);
    let server = Server::start(|_| {
        let challenge = r#"Bearer realm="http://192.0.2.1/token""#;
        answer_with(401, &[("www-authenticate", challenge)], "")
    })
    .await;
    let client = client_with(&server, user());
    let error = client.blob_range(&server.repo(), &digest, RANGE).await;
    let text = chain(&error.unwrap_err());
    assert!(text.contains("without TLS"), "{text}");
}

#[tokio::test]
async fn pushes_ask_for_the_right_to_push() {
    let (_, server) = TokenRegistry::new(Bytes::new()).start().await;
    let client = client_with(&server, user());
    let from = format!("{}/base", server.host).parse().unwrap();
    // The answer to the mount is no use; what counts is what was asked of the token service.
    let (_, digest) = blob(1);
    let mounted = client.mount_blob(&server.repo(), &from, &digest).await;
    mounted.unwrap_err();
    let tokens = server.seen();
    let token_request = tokens.iter().find(|seen| seen.path == "/token").unwrap();
    assert_eq!(
        token_request.query,
        "service=the+registry&scope=repository%3Ateam%2Fapp%3Apull%2Cpush\
         &scope=repository%3Abase%3Apull"
    );
}
