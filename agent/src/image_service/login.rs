//! The credential that a pull brings, and for which repository.
//!
//! containerd's own rules: a user name comes first, then an identity token, then both in base64; and what was meant for another server is
//! not for this one.

use bytes::Bytes;
use tranship_containerd::cri::{AuthConfig, PullImageRequest};
use tranship_containerd::prost::Message;
use tranship_source::{Credential, ImageReference, RepoRef, Secret};

use super::frame;

/// The repository and the credential of a pull, of which `body` is the call; `None` if it brings none that is for us.
pub(super) fn of_pull(body: Bytes) -> Option<(RepoRef, Credential)> {
    let pull = PullImageRequest::decode(frame::open(body)?).ok()?;
    let Ok(ImageReference::Registry(reference)) = pull.image?.image.parse() else {
        return None;
    };
    let auth = pull.auth?;
    if !is_for(&auth.server_address, &reference.repo) {
        return None;
    }
    Some((reference.repo, credential(auth)?))
}

fn credential(auth: AuthConfig) -> Option<Credential> {
    if !auth.username.is_empty() {
        return Some(Credential::Basic {
            username: auth.username,
            password: Secret::new(auth.password),
        });
    }
    if !auth.identity_token.is_empty() {
        return Some(Credential::IdentityToken(Secret::new(auth.identity_token)));
    }
    if !auth.auth.is_empty() {
        return Credential::from_auth(&auth.auth);
    }
    (!auth.registry_token.is_empty())
        .then(|| Credential::RegistryToken(Secret::new(auth.registry_token)))
}

fn is_for(server: &str, repo: &RepoRef) -> bool {
    let bare = server
        .strip_prefix("https://")
        .or_else(|| server.strip_prefix("http://"))
        .unwrap_or(server);
    let host = bare.split('/').next().unwrap_or(bare);
    host.is_empty()
        || host == repo.host()
        || host == repo.api_host()
        || (repo.is_docker_hub() && host == "index.docker.io")
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use tranship_containerd::cri::ImageSpec;

    use super::*;

    fn body(image: &str, auth: impl Into<Option<AuthConfig>>) -> Bytes {
        let pull = PullImageRequest {
            image: Some(ImageSpec {
                image: image.to_owned(),
                ..ImageSpec::default()
            }),
            auth: auth.into(),
            ..PullImageRequest::default()
        };
        let message = pull.encode_to_vec();
        let len = u32::try_from(message.len()).unwrap();
        let mut body = vec![0];
        body.put_u32(len);
        body.extend(message);
        body.into()
    }

    fn auth(change: impl FnOnce(&mut AuthConfig)) -> AuthConfig {
        let mut auth = AuthConfig::default();
        change(&mut auth);
        auth
    }

    fn basic() -> Credential {
        Credential::Basic {
            username: "u".to_owned(),
            password: Secret::new("p"),
        }
    }

    #[test]
    fn credentials_are_taken_as_containerd_takes_them() {
        let named = |auth: &mut AuthConfig| {
            auth.username = "u".to_owned();
            auth.password = "p".to_owned();
            auth.identity_token = "other".to_owned();
        };
        let token = || Secret::new("t");
        for (auth, credential) in [
            (auth(named), basic()),
            // dTpw is u:p.
            (auth(|auth| auth.auth = "dTpw".to_owned()), basic()),
            (
                auth(|auth| auth.identity_token = "t".to_owned()),
                Credential::IdentityToken(token()),
            ),
            (
                auth(|auth| auth.registry_token = "t".to_owned()),
                Credential::RegistryToken(token()),
            ),
        ] {
            let found = of_pull(body("registry.example/team/app:v1", auth)).unwrap();
            let repo = "registry.example/team/app".parse().unwrap();
            assert_eq!(found, (repo, credential));
        }
    }

    #[test]
    fn what_is_meant_for_another_server_is_not_taken() {
        let for_server = |image: &str, server: &str| {
            let auth = auth(|auth| {
                auth.auth = "dTpw".to_owned();
                auth.server_address = server.to_owned();
            });
            of_pull(body(image, auth)).is_some()
        };
        for server in ["", "h.example:5000", "https://h.example:5000/v1/"] {
            assert!(for_server("h.example:5000/a", server), "{server}");
        }
        for server in [
            "https://index.docker.io/v1/",
            "docker.io",
            "registry-1.docker.io",
        ] {
            assert!(for_server("busybox", server), "{server}");
        }
        for server in [
            "h.example",
            "other.example:5000",
            "https://other/h.example:5000",
        ] {
            assert!(!for_server("h.example:5000/a", server), "{server}");
        }
    }

    #[test]
    fn a_pull_that_is_none_brings_nothing() {
        let good = body("h.example/a", auth(|auth| auth.auth = "dTpw".to_owned()));
        assert!(of_pull(good.clone()).is_some());
        for len in 0..good.len() {
            assert!(of_pull(good.slice(..len)).is_none(), "{len}");
        }
        let mut compressed = good.to_vec();
        compressed[0] = 1;
        assert!(of_pull(compressed.into()).is_none());
        assert!(of_pull(body("h.example/a", None::<AuthConfig>)).is_none());
        assert!(of_pull(body("h.example/a", auth(|_| {}))).is_none());
        let nonsense = auth(|auth| auth.auth = "?".to_owned());
        assert!(of_pull(body("h.example/a", nonsense)).is_none());
    }
}
