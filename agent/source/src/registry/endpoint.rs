//! Which address a registry answers at, and where TLS may be left out.

use std::net::IpAddr;

use reqwest::Url;

use super::PlainHttp;
use super::error::RegistryFailure;
use crate::reference::RepoRef;

/// Who is at the other end of a connection: credentials for one origin are never shown to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    pub(super) fn of(url: &Url) -> Self {
        Self {
            scheme: url.scheme().to_owned(),
            host: url.host_str().unwrap_or_default().to_owned(),
            port: url.port_or_known_default(),
        }
    }
}

impl PlainHttp {
    /// Whether `host`, perhaps with a port, may be spoken to without TLS.
    pub(super) fn allows(&self, host: &str) -> bool {
        match self {
            Self::Loopback => is_loopback(host),
            Self::Always(hosts) => is_loopback(host) || hosts.iter().any(|named| named == host),
        }
    }

    /// Whether `url` may be used: with TLS always, without it where that was allowed.
    pub(super) fn allows_url(&self, url: &Url) -> bool {
        match url.scheme() {
            "https" => true,
            "http" => self.allows(&host_and_port(url)),
            _ => false,
        }
    }
}

/// `host` or `host:port`, as a reference would write it.
pub(super) fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// The URL of `tail` (such as `blobs/sha256:…`) in a repository's part of the API.
pub(super) fn repo_url(
    plain_http: &PlainHttp,
    repo: &RepoRef,
    tail: &str,
) -> Result<Url, RegistryFailure> {
    base_url(
        plain_http,
        repo.api_host(),
        &format!("/v2/{}/{tail}", repo.path()),
    )
}

/// The URL at which a registry says whether it speaks the protocol and lets us in.
pub(super) fn ping_url(plain_http: &PlainHttp, repo: &RepoRef) -> Result<Url, RegistryFailure> {
    base_url(plain_http, repo.api_host(), "/v2/")
}

fn base_url(plain_http: &PlainHttp, host: &str, path: &str) -> Result<Url, RegistryFailure> {
    let scheme = if plain_http.allows(host) {
        "http"
    } else {
        "https"
    };
    let text = format!("{scheme}://{host}{path}");
    Url::parse(&text)
        .map_err(|error| RegistryFailure::Malformed(format!("{text} is no address: {error}")))
}

/// An address for people: without its query, which may hold a signature, and without user and password.
pub(super) fn without_secrets(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), host_and_port(url), url.path())
}

/// Whether `host`, perhaps with a port, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_goes_without_tls_unless_named() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]:5000",
        ] {
            assert!(PlainHttp::Loopback.allows(host), "{host}");
        }
        for host in [
            "localhost.example",
            "127.0.0.1.example",
            "10.0.0.1:5000",
            "[::2]",
            "h:5000",
        ] {
            assert!(!PlainHttp::Loopback.allows(host), "{host}");
        }
        let named = PlainHttp::Always(vec!["h:5000".into()]);
        assert!(named.allows("h:5000") && named.allows("localhost"));
        assert!(!named.allows("h") && !named.allows("h:5001"));
    }

    #[test]
    fn origins_differ_by_scheme_host_and_port() {
        let origin = |text: &str| Origin::of(&Url::parse(text).unwrap());
        assert_eq!(origin("https://h/a"), origin("https://h:443/b?c"));
        for other in ["http://h/a", "https://g/a", "https://h:444/a"] {
            assert_ne!(origin("https://h/a"), origin(other));
        }
    }

    #[test]
    fn addresses_for_people_hold_no_secrets() {
        let url = Url::parse("https://u:p@h:1/blob?X-Amz-Signature=s").unwrap();
        assert_eq!(without_secrets(&url), "https://h:1/blob");
    }

    #[test]
    fn docker_hub_is_asked_at_its_own_address() {
        let repo = "busybox".parse().unwrap();
        let url = repo_url(&PlainHttp::Loopback, &repo, "tags/list").unwrap();
        assert_eq!(
            url.as_str(),
            "https://registry-1.docker.io/v2/library/busybox/tags/list"
        );
    }
}
