//! Referrers, from registries with the API and from those without.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::response::Response;
use tranship_format::Digest;

use super::server::*;
use crate::manifest::{Descriptor, ImageIndex, ImageManifest, Manifest, media_type};
use crate::registry::RegistryFailure;

const KIND: &str = "application/vnd.example.note";

/// A manifest about `subject`.
fn note(subject: &Digest, text: &str) -> Manifest {
    let empty = Descriptor::new(media_type::OCI_EMPTY, Digest::of(b"{}"), 2);
    let mut image = ImageManifest::new(empty.clone(), vec![empty]);
    image.artifact_type = Some(KIND.to_owned());
    image.subject = Some(Descriptor::new(media_type::OCI_MANIFEST, *subject, 7));
    image.annotations.insert("text".to_owned(), text.to_owned());
    Manifest::from_image(&image).unwrap()
}

fn index(manifests: Vec<Descriptor>) -> Vec<u8> {
    let index = Manifest::from_index(&ImageIndex::new(manifests)).unwrap();
    index.bytes().to_vec()
}

/// A registry that keeps manifests by name; with `api` it says that it has understood subjects.
fn keeping(api: bool) -> impl Fn(&Seen) -> Response + Send + Sync + 'static {
    let kept = Arc::new(Mutex::new(BTreeMap::<String, Vec<u8>>::new()));
    move |seen| {
        let mut kept = kept.lock().unwrap();
        if seen.path.contains("/referrers/") {
            return answer(404, "page not found");
        }
        if seen.method == "PUT" {
            kept.insert(seen.path.clone(), seen.body.to_vec());
            let headers: &[(&str, &str)] = if api {
                &[("oci-subject", "sha256:any")]
            } else {
                &[]
            };
            return answer_with(201, headers, "");
        }
        match kept.get(&seen.path) {
            Some(bytes) => answer(200, bytes.clone()),
            None => answer(404, ""),
        }
    }
}

#[tokio::test]
async fn the_list_is_asked_for_by_type_and_read_page_by_page() {
    let subject = Digest::of(b"subject");
    let [one, two] = ["one", "two"].map(|text| {
        let mut entry = note(&subject, text).descriptor();
        entry.artifact_type = Some(KIND.to_owned());
        entry
    });
    let mut other = one.clone();
    other.artifact_type = Some("another".to_owned());
    let pages = [index(vec![one.clone(), other]), index(vec![two.clone()])];
    let server = Server::start(move |seen| {
        if seen.query.contains("page=2") {
            return answer(200, pages[1].clone());
        }
        let link = format!("<{}?page=2>; rel=\"next\"", seen.path);
        answer_with(200, &[("link", &link)], pages[0].clone())
    })
    .await;
    let found = client()
        .referrers(&server.repo(), &subject, Some(KIND))
        .await;
    assert_eq!(found.unwrap(), [one, two]);
    let first = &server.seen()[0];
    assert_eq!(first.path, format!("/v2/team/app/referrers/{subject}"));
    assert!(
        first
            .query
            .contains("artifactType=application%2Fvnd.example.note")
    );
}

#[tokio::test]
async fn without_the_api_referrers_are_listed_under_a_tag() {
    let server = Server::start(keeping(false)).await;
    let (client, repo) = (client(), server.repo());
    let subject = Digest::of(b"subject");
    assert_eq!(client.referrers(&repo, &subject, None).await.unwrap(), []);
    let notes = ["one", "two", "one"].map(|text| note(&subject, text));
    for note in &notes {
        client.push_referrer(&repo, note).await.unwrap();
    }
    let found = client.referrers(&repo, &subject, Some(KIND)).await.unwrap();
    let digests: Vec<Digest> = found.iter().map(|entry| entry.digest).collect();
    assert_eq!(digests, [notes[0].digest(), notes[1].digest()]);
    assert_eq!(found[1].annotations["text"], "two");
    let tag = format!("sha256-{}", subject.hex());
    assert!(server.count(&tag) > 0);
}

#[tokio::test]
async fn a_registry_that_knows_subjects_gets_no_tag() {
    let server = Server::start(keeping(true)).await;
    let note = note(&Digest::of(b"subject"), "one");
    client().push_referrer(&server.repo(), &note).await.unwrap();
    let paths: Vec<String> = server.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, [format!("/v2/team/app/manifests/{}", note.digest())]);
}

#[tokio::test]
async fn a_manifest_about_nothing_is_no_referrer() {
    let server = Server::start(keeping(true)).await;
    let empty = Descriptor::new(media_type::OCI_EMPTY, Digest::of(b"{}"), 2);
    let manifest = Manifest::from_image(&ImageManifest::new(empty, Vec::new())).unwrap();
    let pushed = impatient().push_referrer(&server.repo(), &manifest).await;
    let failure = pushed.unwrap_err();
    assert!(matches!(failure.failure(), RegistryFailure::Malformed(_)));
    assert!(server.seen().is_empty());
}
