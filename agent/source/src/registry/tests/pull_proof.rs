//! What the tracker may be shown, and what never leaves for it.

use axum::response::Response;
use tranship_format::Digest;
use tranship_format::wire::PullProof;

use super::server::*;
use crate::credentials::{Credential, Credentials, Secret};
use crate::reference::ManifestSelector;
use crate::registry::{RegistryClient, RegistryOptions};

/// A registry that gives everybody a token and wants one, or wants a password.
fn play(host: &str, seen: &Seen, wants: &str) -> Response {
    if seen.path == "/token" {
        return answer(200, r#"{"token":"a token","expires_in":300}"#);
    }
    let challenge = match wants {
        "token" => format!(r#"Bearer realm="http://{host}/token",service="the registry""#),
        _ => "Basic realm=\"the registry\"".to_owned(),
    };
    match seen.authorization() {
        None => answer_with(401, &[("www-authenticate", &challenge)], ""),
        Some(_) => answer_with(
            200,
            &[
                ("docker-content-digest", &manifest().to_string()),
                ("content-type", "application/vnd.oci.image.manifest.v1+json"),
            ],
            "",
        ),
    }
}

fn manifest() -> Digest {
    Digest::of(b"manifest")
}

async fn registry(wants: &'static str) -> Server {
    Server::start_knowing_host(move |host, seen| play(host, seen, wants)).await
}

fn client_that_proves_by_secret(server: &Server, credential: Credential) -> RegistryClient {
    RegistryClient::new(RegistryOptions {
        credentials: Credentials::anonymous().with(&server.host, credential),
        prove_by_secret: vec![server.host.clone()],
        ..options()
    })
    .unwrap()
}

#[tokio::test]
async fn a_token_for_pulling_is_a_proof() {
    let server = registry("token").await;
    let client = client_with(&server, user());
    assert_eq!(client.pull_proof_at_hand(&server.repo()), PullProof::None);
    let proof = client.pull_proof(&server.repo(), manifest()).await;
    assert_eq!(proof, PullProof::Token(b"a token".to_vec()));
    assert_eq!(client.pull_proof_at_hand(&server.repo()), proof);
    let token = server.seen().into_iter().find(|seen| seen.path == "/token");
    let asked_for = token.unwrap().query;
    assert!(
        asked_for.contains("scope=repository%3Ateam%2Fapp%3Apull"),
        "{asked_for}"
    );
}

#[tokio::test]
async fn what_anybody_may_pull_needs_no_proof() {
    let server = registry("token").await;
    let proof = client().pull_proof(&server.repo(), manifest()).await;
    assert_eq!(proof, PullProof::None);
}

#[tokio::test]
async fn a_password_is_shown_to_the_tracker_only_where_the_operator_says_so() {
    let server = registry("password").await;
    let proof = client_with(&server, user())
        .pull_proof(&server.repo(), manifest())
        .await;
    assert_eq!(proof, PullProof::None);
    let proof = client_that_proves_by_secret(&server, user())
        .pull_proof(&server.repo(), manifest())
        .await;
    assert_eq!(proof, PullProof::Password(b"u:p".to_vec()));
}

#[tokio::test]
async fn a_token_of_unknown_reach_counts_as_a_password() {
    let server = registry("token").await;
    let token = || Credential::RegistryToken(Secret::new("wide"));
    let proof = client_with(&server, token())
        .pull_proof(&server.repo(), manifest())
        .await;
    assert_eq!(proof, PullProof::None);
    let proof = client_that_proves_by_secret(&server, token())
        .pull_proof(&server.repo(), manifest())
        .await;
    assert_eq!(proof, PullProof::Token(b"wide".to_vec()));
}

#[tokio::test]
async fn a_client_with_other_credentials_shows_nothing_of_the_first() {
    let server = registry("token").await;
    let first = client_with(&server, user());
    first.pull_proof(&server.repo(), manifest()).await;
    let token = Credential::RegistryToken(Secret::new("theirs"));
    let other = first.with_credentials(Credentials::anonymous().with(&server.host, token));
    let which = ManifestSelector::Digest(manifest());
    other.find_manifest(&server.repo(), &which).await.unwrap();
    let last = server.seen().pop().unwrap();
    assert_eq!(last.authorization(), Some("Bearer theirs"));
}
