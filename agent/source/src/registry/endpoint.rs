//! Which address a registry answers at, and where TLS may be left out.

use std::net::IpAddr;
use std::sync::Arc;

use reqwest::Url;
use reqwest::header::HeaderMap;
use tranship_format::Digest;

use super::PlainHttp;
use super::error::RegistryFailure;
use super::http::Http;
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

/// How one host is spoken to.
#[derive(Debug)]
pub(super) struct Line {
    /// With all that the host is shown.
    http: Arc<Http>,
    /// For whoever the host sends us to: without our certificate.
    elsewhere: Arc<Http>,
    /// Sent to the host with each request.
    headers: HeaderMap,
}

impl Line {
    pub(super) fn new(http: Arc<Http>, elsewhere: Arc<Http>, headers: HeaderMap) -> Self {
        Self {
            http,
            elsewhere,
            headers,
        }
    }
}

/// A repository at one address: the registry's own, or a mirror's.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    repo: RepoRef,
    /// `https://host/v2`
    api: Url,
    /// The repository's name below it.
    path: String,
    /// What a mirror of several registries is told, so that it knows which is meant.
    mirrored: Option<String>,
    line: Arc<Line>,
}

impl Endpoint {
    /// The repository as its registry names it, where that answers.
    pub(super) fn usual(
        plain_http: &PlainHttp,
        repo: &RepoRef,
        line: Arc<Line>,
    ) -> Result<Self, RegistryFailure> {
        let host = repo.api_host();
        let scheme = if plain_http.allows(host) {
            "http"
        } else {
            "https"
        };
        let text = format!("{scheme}://{host}/v2");
        let api = Url::parse(&text).map_err(|error| {
            RegistryFailure::Malformed(format!("{text} is no address: {error}"))
        })?;
        Ok(Self {
            repo: repo.clone(),
            api,
            path: repo.path().to_owned(),
            mirrored: None,
            line,
        })
    }

    /// The repository at `api`, which may be another host's. What that host is shown is its own then.
    pub(super) fn at(api: Url, repo: &RepoRef, line: Arc<Line>) -> Self {
        let host = host_and_port(&api);
        let is_registry = host == repo.api_host();
        let own = if is_registry {
            repo.clone()
        } else {
            // Where the path holds a part of the repository's name there, credentials and tokens are for the whole of it.
            let above = api.path().strip_prefix("/v2/");
            let whole =
                above.and_then(|above| format!("{host}/{above}/{}", repo.path()).parse().ok());
            whole.unwrap_or_else(|| repo.at_host(&host))
        };
        Self {
            repo: own,
            api,
            path: repo.path().to_owned(),
            mirrored: (!is_registry).then(|| repo.host().to_owned()),
            line,
        }
    }

    /// The repository as credentials and tokens for this address know it.
    pub(super) fn repo(&self) -> &RepoRef {
        &self.repo
    }

    /// Where it is, for people and to tell it from others.
    pub(super) fn name(&self) -> &str {
        self.api.as_str()
    }

    /// Its host, with its port.
    pub(super) fn host(&self) -> String {
        host_and_port(&self.api)
    }

    /// The address of `tail` (such as `blobs/sha256:…`) in the repository's part of the API.
    pub(super) fn url(&self, tail: &str) -> Url {
        self.below(&format!("{}/{tail}", self.path))
    }

    pub(super) fn blob_url(&self, digest: &Digest) -> Url {
        self.url(&format!("blobs/{digest}"))
    }

    /// The address at which the registry says whether it speaks the protocol and lets us in.
    pub(super) fn ping_url(&self) -> Url {
        self.below("")
    }

    fn below(&self, tail: &str) -> Url {
        let mut url = self.api.clone();
        url.set_path(&format!("{}/{tail}", self.api.path().trim_end_matches('/')));
        if let Some(registry) = &self.mirrored {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        url
    }

    /// Whether what is for this host alone may be shown to whoever answers at `url`.
    pub(super) fn is_at(&self, url: &Url) -> bool {
        Origin::of(&self.api) == Origin::of(url)
    }

    /// The connections for `url`: somebody else is not shown our certificate.
    pub(super) fn http(&self, url: &Url) -> &Http {
        if self.is_at(url) {
            &self.line.http
        } else {
            &self.line.elsewhere
        }
    }

    /// What is sent to this host with each request.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.line.headers
    }

    /// Whether `url` may be used: with TLS always, without it where that was allowed.
    pub(super) fn allows(&self, url: &Url) -> bool {
        self.line.http.plain_http().allows_url(url)
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
    use crate::registry::RegistryOptions;

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

    fn line() -> Line {
        let http = Arc::new(Http::new(&RegistryOptions::default()).unwrap());
        Line::new(Arc::clone(&http), http, HeaderMap::new())
    }

    #[test]
    fn mirrors_are_told_whose_repository_is_meant() {
        let repo = "busybox".parse().unwrap();
        for (api, url, own) in [
            (
                "http://m.example:5000/v2",
                "http://m.example:5000/v2/library/busybox/tags/list?ns=docker.io",
                "m.example:5000/library/busybox",
            ),
            (
                "https://m.example/v2/hub",
                "https://m.example/v2/hub/library/busybox/tags/list?ns=docker.io",
                "m.example/hub/library/busybox",
            ),
            (
                "https://m.example/api/hub/v2",
                "https://m.example/api/hub/v2/library/busybox/tags/list?ns=docker.io",
                "m.example/library/busybox",
            ),
        ] {
            let endpoint = Endpoint::at(Url::parse(api).unwrap(), &repo, Arc::new(line()));
            assert_eq!(endpoint.url("tags/list").as_str(), url);
            assert_eq!(endpoint.repo().to_string(), own);
        }
    }

    #[test]
    fn docker_hub_is_asked_at_its_own_address() {
        let repo = "busybox".parse().unwrap();
        let line = Arc::new(line());
        let endpoint = Endpoint::usual(&PlainHttp::Loopback, &repo, Arc::clone(&line)).unwrap();
        let url = endpoint.url("tags/list");
        assert_eq!(
            url.as_str(),
            "https://registry-1.docker.io/v2/library/busybox/tags/list"
        );
        let named = Url::parse("https://registry-1.docker.io/v2").unwrap();
        let named = Endpoint::at(named, &repo, line);
        assert_eq!((named.url("tags/list"), named.repo()), (url, &repo));
    }
}
