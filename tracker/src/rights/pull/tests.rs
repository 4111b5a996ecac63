//! What registries are asked, how often, and who is shown what.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::future::join_all;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tranship_source::manifest::{Descriptor, ImageIndex, ImageManifest, Manifest};
use tranship_source::{RegistryOptions, registry::RegistryClient};

use super::*;

/// What `u:p` looks like in a header.
const BASIC: &str = "Basic dTpw";

/// A server that answers as a test wants, and remembers what it was shown.
struct Server {
    host: String,
    seen: Arc<Mutex<Vec<Option<String>>>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(play: impl Fn(&HeaderMap) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, play) = (Arc::clone(&seen), Arc::new(play));
        let router = Router::new().fallback(move |request: Request| {
            let shown = request.headers().get(header::AUTHORIZATION);
            let shown = shown.map(|shown| shown.to_str().unwrap().to_owned());
            log.lock().unwrap().push(shown);
            std::future::ready(play(request.headers()))
        });
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { host, seen, task }
    }

    fn image(&self, manifest: &Manifest) -> ImageSource {
        ImageSource {
            registry: self.host.clone(),
            repository: "team/app".to_owned(),
            manifest: manifest.digest(),
        }
    }

    fn seen(&self) -> Vec<Option<String>> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn puller(allowed: &[&str]) -> Puller {
    let options = RegistryOptions {
        deadline: Duration::ZERO,
        ..RegistryOptions::default()
    };
    let allowed = allowed.iter().map(|&place| place.to_owned()).collect();
    Puller::new(RegistryClient::new(options).unwrap(), allowed)
}

fn layer() -> Digest {
    Digest::of(b"layer")
}

fn image() -> Manifest {
    let of = |kind, digest| Descriptor::new(kind, digest, 5);
    let config = of("application/vnd.oci.image.config.v1+json", Digest::of(b"c"));
    let layers = vec![of("application/vnd.oci.image.layer.v1.tar", layer())];
    Manifest::from_image(&ImageManifest::new(config, layers)).unwrap()
}

fn give(manifest: &Manifest) -> Response {
    let kind = [(header::CONTENT_TYPE, manifest.media_type().to_owned())];
    (kind, manifest.bytes().clone()).into_response()
}

fn refuse() -> Response {
    let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"tests\"")];
    (StatusCode::UNAUTHORIZED, challenge).into_response()
}

fn yes() -> Answer {
    Answer::Yes([layer()].into())
}

fn password(text: &str) -> PullProof {
    PullProof::Password(text.as_bytes().to_vec())
}

#[tokio::test]
async fn a_crowd_that_asks_together_costs_one_question() {
    let manifest = image();
    let server = Server::start(move |_| give(&image())).await;
    let (puller, source) = (puller(&[]), server.image(&manifest));
    let proof = PullProof::Token(b"needless".to_vec());
    let answers = join_all((0..50).map(|_| puller.ask(&source, &proof))).await;
    assert!(answers.iter().all(|answer| *answer == yes()));
    assert_eq!(
        server.seen(),
        [None],
        "what anybody may have needs no proof"
    );
}

#[tokio::test]
async fn a_private_image_is_for_whoever_shows_what_opens_it() {
    let manifest = image();
    let server = Server::start(move |headers| {
        let shown = headers.get(header::AUTHORIZATION);
        if shown.is_some_and(|shown| shown == BASIC) {
            give(&image())
        } else {
            refuse()
        }
    })
    .await;
    let (puller, source) = (puller(&[]), server.image(&manifest));
    assert_eq!(puller.ask(&source, &PullProof::None).await, Answer::No);
    assert_eq!(puller.ask(&source, &password("u:wrong")).await, Answer::No);
    assert_eq!(puller.ask(&source, &password("u:p")).await, yes());
    let asked = server.seen().len();
    // All of it is remembered, each answer for what was shown.
    assert_eq!(puller.ask(&source, &PullProof::None).await, Answer::No);
    assert_eq!(puller.ask(&source, &password("u:wrong")).await, Answer::No);
    assert_eq!(puller.ask(&source, &password("u:p")).await, yes());
    assert_eq!(server.seen().len(), asked);
    for nonsense in [
        PullProof::Token(b"line\nfeed".to_vec()),
        PullProof::Token(vec![0xff]),
        password("no colon"),
    ] {
        assert_eq!(puller.ask(&source, &nonsense).await, Answer::No);
    }
}

#[tokio::test]
async fn what_a_node_showed_goes_to_the_registry_that_it_named_and_no_further() {
    let manifest = image();
    let elsewhere = Server::start(move |_| give(&image())).await;
    let target = format!("http://{}/there", elsewhere.host);
    let server = Server::start(move |headers| {
        if headers.contains_key(header::AUTHORIZATION) {
            let to = [(header::LOCATION, target.clone())];
            (StatusCode::TEMPORARY_REDIRECT, to).into_response()
        } else {
            refuse()
        }
    })
    .await;
    let source = server.image(&manifest);
    assert_eq!(puller(&[]).ask(&source, &password("u:p")).await, yes());
    assert!(server.seen().contains(&Some(BASIC.to_owned())));
    assert_eq!(elsewhere.seen(), [None]);
}

#[tokio::test]
async fn what_is_no_image_or_not_the_one_that_was_named_is_not_granted() {
    let index = Manifest::from_index(&ImageIndex::new(Vec::new())).unwrap();
    let given = index.clone();
    let server = Server::start(move |_| give(&given)).await;
    let ask = async |source: ImageSource| puller(&[]).ask(&source, &PullProof::None).await;
    assert_eq!(ask(server.image(&index)).await, Answer::No);
    // The registry gives other bytes than the digest's.
    assert_eq!(ask(server.image(&image())).await, Answer::No);
    let mut nameless = server.image(&image());
    nameless.registry.clear();
    assert_eq!(ask(nameless).await, Answer::No);
    let mut alias = server.image(&image());
    "index.docker.io".clone_into(&mut alias.registry);
    assert_eq!(ask(alias).await, Answer::No);
}

#[tokio::test]
async fn only_registries_that_the_settings_allow_are_asked() {
    let manifest = image();
    let server = Server::start(move |_| give(&image())).await;
    let source = server.image(&manifest);
    let refused = puller(&["registry.example"])
        .ask(&source, &PullProof::None)
        .await;
    assert_eq!(refused, Answer::No);
    assert_eq!(server.seen(), []);
    let place = format!("{}/team", server.host);
    let allowed = puller(&[&place]);
    assert_eq!(allowed.ask(&source, &PullProof::None).await, yes());
}

#[tokio::test]
async fn a_registry_that_does_not_say_has_not_said_no() {
    let manifest = image();
    let server = Server::start(|_| StatusCode::SERVICE_UNAVAILABLE.into_response()).await;
    let answer = puller(&[])
        .ask(&server.image(&manifest), &password("u:p"))
        .await;
    assert_eq!(answer, Answer::Unknown);
    assert!(server.seen().iter().all(Option::is_none));
}
