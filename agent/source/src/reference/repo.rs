//! A repository of a registry: host and path.
//!
//! Docker Hub is the one host whose name, credentials' name and API address all differ, and whose
//! repositories may be written without a host. That knowledge is kept in this file alone.

use std::fmt;
use std::str::FromStr;

use super::{ParseReferenceError, ReferenceProblem};

/// Docker Hub, as people write it and as it is printed.
const DOCKER_HUB: &str = "docker.io";

/// Other names people write for Docker Hub.
const DOCKER_HUB_ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// Where Docker Hub answers API requests.
const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// The repository prefix of Docker Hub's curated images, which people leave out.
const DOCKER_HUB_LIBRARY: &str = "library";

/// The longest repository name registries accept, in bytes.
const PATH_LEN_MAX: usize = 255;

/// A repository in a registry, such as `docker.io/library/busybox`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoRef {
    host: String,
    path: String,
}

impl RepoRef {
    /// The registry's name as users and credentials know it, with its port if one was named.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host that answers API requests: differs from [`host`](Self::host) for Docker Hub alone.
    pub fn api_host(&self) -> &str {
        if self.is_docker_hub() {
            DOCKER_HUB_API
        } else {
            &self.host
        }
    }

    /// The repository's name within the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The repository of the same name in another registry. `host` must be one that a reference may name.
    pub(crate) fn at_host(&self, host: &str) -> Self {
        Self {
            host: host.to_owned(),
            path: self.path.clone(),
        }
    }

    /// Whether this is Docker Hub, whose credentials go by a web address of old.
    pub fn is_docker_hub(&self) -> bool {
        self.host == DOCKER_HUB
    }
}

impl fmt::Display for RepoRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

impl FromStr for RepoRef {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|problem| ParseReferenceError {
            text: text.to_owned(),
            problem,
        })
    }
}

/// Parses `[HOST[:PORT]/]PATH`; without a host it is Docker Hub's.
pub(super) fn parse(name: &str) -> Result<RepoRef, ReferenceProblem> {
    if name.is_empty() {
        return Err(ReferenceProblem::Empty);
    }
    let (host, path) = match name.split_once('/') {
        Some((first, rest)) if names_a_host(first) => (canonical_host(first)?, rest.to_owned()),
        Some(_) => (DOCKER_HUB.to_owned(), name.to_owned()),
        None => (
            DOCKER_HUB.to_owned(),
            format!("{DOCKER_HUB_LIBRARY}/{name}"),
        ),
    };
    let path = if host == DOCKER_HUB && !path.contains('/') && !path.is_empty() {
        format!("{DOCKER_HUB_LIBRARY}/{path}")
    } else {
        path
    };
    if path.is_empty() {
        return Err(ReferenceProblem::Empty);
    }
    if path.len() > PATH_LEN_MAX || !path.split('/').all(is_path_component) {
        return Err(ReferenceProblem::Repository(path));
    }
    Ok(RepoRef { host, path })
}

/// Docker's rule: the first part is a host if it could not be part of a repository's name.
fn names_a_host(first: &str) -> bool {
    first == "localhost"
        || first
            .bytes()
            .any(|b| matches!(b, b'.' | b':' | b'[') || b.is_ascii_uppercase())
}

fn canonical_host(text: &str) -> Result<String, ReferenceProblem> {
    let bad = || ReferenceProblem::Host(text.to_owned());
    let host = text.to_ascii_lowercase();
    let (name, port) = split_port(&host).ok_or_else(bad)?;
    let good_name = match name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(is_host_label),
    };
    let good_port = port.is_none_or(|port| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if !good_name || !good_port {
        return Err(bad());
    }
    if DOCKER_HUB_ALIASES.contains(&host.as_str()) {
        return Ok(DOCKER_HUB.to_owned());
    }
    Ok(host)
}

/// Splits `name[:port]`, where the name may be a bracketed IPv6 address with colons of its own.
fn split_port(host: &str) -> Option<(&str, Option<&str>)> {
    let name_end = host.rfind(']').map_or(0, |at| at + 1);
    let tail = host.get(name_end..)?;
    match tail.split_once(':') {
        None => Some((host, None)),
        Some((before, port)) => Some((host.get(..name_end + before.len())?, Some(port))),
    }
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let ends = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = component.as_bytes();
    if !ends(bytes.first()) || !ends(bytes.last()) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .filter(|separator| !separator.is_empty())
        .all(|separator| {
            matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}
