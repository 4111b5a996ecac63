//! Manifests and tags, from registries that tell the truth and from others.

use axum::response::Response;
use bytes::Bytes;
use tranship_format::Digest;

use super::server::*;
use crate::manifest::{MANIFEST_LEN_MAX, Manifest, media_type};
use crate::reference::ManifestSelector;
use crate::registry::{RegistryError, RegistryFailure};

const INDEX: &str = r#"{"schemaVersion":2,"manifests":[]}"#;

fn tag(name: &str) -> ManifestSelector {
    ManifestSelector::Tag(name.into())
}

async fn read(
    which: &ManifestSelector,
    play: impl Fn(&Seen) -> Response + Send + Sync + 'static,
) -> Result<Manifest, RegistryError> {
    let server = Server::start(play).await;
    client().manifest(&server.repo(), which).await
}

#[tokio::test]
async fn manifests_are_kept_as_they_come() {
    let server = Server::start(|_| {
        let kind = format!("{}; charset=utf-8", media_type::OCI_INDEX);
        answer_with(200, &[("content-type", &kind)], INDEX)
    })
    .await;
    let manifest = client().manifest(&server.repo(), &tag("v1")).await.unwrap();
    assert_eq!(manifest.bytes(), INDEX);
    assert_eq!(manifest.media_type(), media_type::OCI_INDEX);
    assert_eq!(manifest.digest(), Digest::of(INDEX.as_bytes()));
    let seen = &server.seen()[0];
    assert_eq!(seen.path, "/v2/team/app/manifests/v1");
    assert!(
        seen.header("accept")
            .unwrap()
            .contains(media_type::DOCKER_LIST)
    );
}

#[tokio::test]
async fn a_header_that_does_not_know_leaves_it_to_the_document() {
    let manifest = read(&tag("v1"), move |_| {
        answer_with(200, &[("content-type", "application/json")], INDEX)
    })
    .await;
    assert_eq!(manifest.unwrap().media_type(), media_type::OCI_INDEX);
}

#[tokio::test]
async fn another_manifest_than_asked_for_is_refused() {
    let wanted = Digest::of(b"another");
    let by_digest = read(&wanted.into(), |_| answer(200, INDEX)).await;
    let error = by_digest.unwrap_err();
    assert!(
        matches!(error.failure(), RegistryFailure::WrongDigest { wanted: w, .. } if *w == wanted)
    );
    let told = wanted.to_string();
    let v1 = tag("v1");
    let by_tag = read(&v1, move |_| {
        answer_with(200, &[("docker-content-digest", &told)], INDEX)
    });
    let error = by_tag.await.unwrap_err();
    assert!(matches!(
        error.failure(),
        RegistryFailure::WrongDigest { .. }
    ));
}

#[tokio::test]
async fn a_manifest_without_end_is_refused() {
    let len = usize::try_from(MANIFEST_LEN_MAX).unwrap() + 1;
    let error = read(&tag("v1"), move |_| answer(200, vec![b' '; len])).await;
    assert!(matches!(
        error.unwrap_err().failure(),
        RegistryFailure::LongBody { .. }
    ));
}

#[tokio::test]
async fn manifests_are_found_without_being_read() {
    let digest = Digest::of(INDEX.as_bytes());
    let server = Server::start(move |seen| match seen.path.as_str() {
        "/v2/team/app/manifests/told" => answer_with(
            200,
            &[
                ("docker-content-digest", &digest.to_string()),
                ("content-type", media_type::OCI_INDEX),
            ],
            INDEX,
        ),
        "/v2/team/app/manifests/silent" => answer(200, INDEX),
        _ => answer(404, ""),
    })
    .await;
    let (client, repo) = (client(), server.repo());
    for name in ["told", "silent"] {
        let found = client
            .find_manifest(&repo, &tag(name))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (found.digest, found.size),
            (digest, INDEX.len() as u64),
            "{name}"
        );
        assert_eq!(found.media_type, media_type::OCI_INDEX, "{name}");
    }
    let methods: Vec<_> = server
        .seen()
        .iter()
        .map(|seen| seen.method.clone())
        .collect();
    assert_eq!(methods, ["HEAD", "HEAD", "GET"]);
    assert_eq!(
        client.find_manifest(&repo, &tag("other")).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn manifests_are_put_and_compared() {
    let manifest = Manifest::new(Bytes::from_static(INDEX.as_bytes()), None);
    let digest = manifest.digest();
    let server = Server::start(move |seen| {
        let told = Digest::of(if seen.path.ends_with("/lie") {
            b"lie"
        } else {
            &seen.body
        });
        answer_with(201, &[("docker-content-digest", &told.to_string())], "")
    })
    .await;
    let (client, repo) = (client(), server.repo());
    let put = client.push_manifest(&repo, &tag("v1"), &manifest).await;
    assert_eq!(put.unwrap(), digest);
    let put = client.push_manifest(&repo, &digest.into(), &manifest).await;
    assert_eq!(put.unwrap(), digest);
    let seen = server.seen();
    assert_eq!(seen[0].header("content-type"), Some(media_type::OCI_INDEX));
    assert_eq!(seen[1].path, format!("/v2/team/app/manifests/{digest}"));
    let lie = client.push_manifest(&repo, &tag("lie"), &manifest).await;
    assert!(matches!(
        lie.unwrap_err().failure(),
        RegistryFailure::WrongDigest { .. }
    ));
    let wrong = client
        .push_manifest(&repo, &Digest::of(b"x").into(), &manifest)
        .await;
    assert!(matches!(
        wrong.unwrap_err().failure(),
        RegistryFailure::WrongDigest { .. }
    ));
    assert_eq!(server.seen().len(), 3, "a wrong digest is not even sent");
}

#[tokio::test]
async fn all_pages_of_tags_are_read() {
    let server = Server::start(|seen| {
        if seen.query.contains("last=") {
            answer(200, r#"{"name":"team/app","tags":["c"]}"#)
        } else {
            let link = r#"</v2/team/app/tags/list?n=2&last=b>; rel="next""#;
            answer_with(200, &[("link", link)], r#"{"tags":["a","b"]}"#)
        }
    })
    .await;
    let tags = client().tags(&server.repo()).await;
    assert_eq!(tags.unwrap(), ["a", "b", "c"]);
    let none = Server::start(|_| answer(200, r#"{"tags":null}"#)).await;
    assert_eq!(
        client().tags(&none.repo()).await.unwrap(),
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn a_ping_tells_whether_we_are_let_in() {
    let server =
        Server::start(|seen| answer(if seen.path == "/v2/" { 200 } else { 404 }, "")).await;
    client().ping(&server.repo()).await.unwrap();
    let closed = Server::start(|_| answer(401, "")).await;
    let error = client().ping(&closed.repo()).await.unwrap_err();
    assert!(chain(&error).contains("log in"), "{error:?}");
}
