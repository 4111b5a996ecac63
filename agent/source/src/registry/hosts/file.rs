//! One registry's folder in a directory of hosts: `hosts.toml`, or docker's certificates without one.
//!
//! The rules are containerd's: hosts are asked in the order of the file, what stands outside of the `host` tables is about the
//! registry itself, a host without `capabilities` has all of them, and paths of certificates begin at the folder.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;

use super::{HostsError, can};

/// The longest file that is read, in bytes: bundles of certificates are a few hundred kilobytes.
const FILE_LEN_MAX: u64 = 4 << 20;

/// How one host is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::registry) struct Host {
    /// Where the API is, `/v2` included; `None` is the registry's usual address.
    pub(in crate::registry) api: Option<Url>,
    pub(in crate::registry) can: can::Can,
    pub(in crate::registry) tls: Tls,
    pub(in crate::registry) headers: HeaderMap,
    pub(in crate::registry) dial_timeout: Option<Duration>,
}

/// What TLS with a host needs beside the usual.
#[derive(Clone, Default, PartialEq, Eq)]
pub(in crate::registry) struct Tls {
    /// Certificates (PEM) to trust besides the machine's own.
    pub(in crate::registry) roots: Vec<Bytes>,
    /// Our certificate and its key (PEM).
    pub(in crate::registry) identity: Option<Bytes>,
    /// Whether anybody's certificate will do.
    pub(in crate::registry) skip_verify: bool,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Tls");
        shown.field("root_count", &self.roots.len());
        shown.field("has_identity", &self.identity.is_some());
        shown.field("skip_verify", &self.skip_verify).finish()
    }
}

/// Hosts of one registry: mirrors in their order, and how the registry itself is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::registry) struct Hosts {
    pub(in crate::registry) mirrors: Vec<Host>,
    pub(in crate::registry) registry: Host,
}

#[derive(Deserialize)]
struct File {
    server: Option<String>,
    #[serde(flatten)]
    own: Table,
}

#[derive(Default, Deserialize)]
struct MirrorTables {
    /// Keys with their places, which tell their order.
    #[serde(default)]
    host: BTreeMap<Spanned<String>, Table>,
}

#[derive(Default, Deserialize)]
struct Table {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Clients>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    header: BTreeMap<String, OneOrMany>,
    dial_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// One file with both; files with both; pairs of certificate and key.
#[derive(Deserialize)]
#[serde(untagged)]
enum Clients {
    One(String),
    Many(Vec<OneOrMany>),
}

impl Clients {
    /// The files of the first identity. TLS of ours has one identity for a host.
    fn first(&self) -> Option<&[String]> {
        match self {
            Self::One(path) => Some(std::slice::from_ref(path)),
            Self::Many(many) => many.first().map(OneOrMany::all),
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(many) => many.len(),
        }
    }
}

/// Reads a registry's folder.
pub(super) fn read(dir: &Path) -> Result<Hosts, HostsError> {
    let path = dir.join("hosts.toml");
    match bytes(&path) {
        Ok(text) => parse(&path, &text),
        Err(HostsError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {
            docker_certificates(dir)
        }
        Err(error) => Err(error),
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Hosts, HostsError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let text = std::str::from_utf8(text).map_err(|_| bad(path, "it is not UTF-8".to_owned()))?;
    let syntax = |source: toml::de::Error| HostsError::Syntax {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let file: File = toml::from_str(text).map_err(syntax)?;
    // Apart, because places of keys are lost where tables are flattened.
    let tables: MirrorTables = toml::from_str(text).map_err(syntax)?;
    let mut tables: Vec<(Spanned<String>, Table)> = tables.host.into_iter().collect();
    tables.sort_by_key(|(key, _)| key.span().start);
    let mirrors = tables.into_iter().map(|(key, table)| {
        let api = api(path, key.get_ref(), table.override_path)?;
        host(path, dir, Some(api), &table)
    });
    let server = file.server.as_deref().filter(|server| !server.is_empty());
    let server = server
        .map(|server| api(path, server, file.own.override_path))
        .transpose()?;
    Ok(Hosts {
        mirrors: mirrors.collect::<Result<_, _>>()?,
        registry: host(path, dir, server, &file.own)?,
    })
}

/// `https://HOST[:PORT][/PATH]`, with `/v2` behind it unless the path is to stand as it is.
fn api(path: &Path, text: &str, as_it_is: bool) -> Result<Url, HostsError> {
    let whole = if text.starts_with("http://") || text.starts_with("https://") {
        text.to_owned()
    } else {
        format!("https://{text}")
    };
    let mut url = Url::parse(&whole)
        .ok()
        .filter(|url| url.has_host() && url.username().is_empty() && url.password().is_none())
        .ok_or_else(|| {
            let what = format!("{text:?} is no host, such as https://mirror.example:5000");
            bad(path, what)
        })?;
    let trimmed = url.path().trim_end_matches('/').to_owned();
    if as_it_is || trimmed.ends_with("/v2") {
        url.set_path(&trimmed);
    } else {
        url.set_path(&format!("{trimmed}/v2"));
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn host(path: &Path, dir: &Path, api: Option<Url>, table: &Table) -> Result<Host, HostsError> {
    let can = match table.capabilities.as_deref() {
        None | Some([]) => can::Can::ALL,
        Some(named) => {
            let unknown = |name| {
                let what = format!("{name:?} is none of the capabilities pull, resolve and push");
                bad(path, what)
            };
            can::Can::named(named).map_err(unknown)?
        }
    };
    let roots = table.ca.iter().flat_map(OneOrMany::all);
    let roots = roots.map(|root| bytes(&dir.join(root)));
    let identity = match &table.client {
        Some(clients) => {
            if clients.count() > 1 {
                tracing::warn!(path = %path.display(), "of several client certificates for one host the first is shown");
            }
            clients
                .first()
                .map(|files| joined(dir, files))
                .transpose()?
        }
        None => None,
    };
    let dial_timeout = table.dial_timeout.as_deref().map(|text| {
        humantime::parse_duration(text).map_err(|_| {
            bad(
                path,
                format!("dial_timeout {text:?} is no time, such as \"3s\""),
            )
        })
    });
    Ok(Host {
        api,
        can,
        tls: Tls {
            roots: roots.collect::<Result<_, _>>()?,
            identity,
            skip_verify: table.skip_verify,
        },
        headers: headers(path, &table.header)?,
        dial_timeout: dial_timeout.transpose()?,
    })
}

fn headers(path: &Path, table: &BTreeMap<String, OneOrMany>) -> Result<HeaderMap, HostsError> {
    let mut headers = HeaderMap::new();
    for (name, values) in table {
        for value in values.all() {
            let pair = HeaderName::try_from(name)
                .ok()
                .zip(HeaderValue::from_str(value).ok());
            // Its value may be a secret, and is not repeated.
            let (name, mut value) =
                pair.ok_or_else(|| bad(path, format!("the header {name:?} cannot be sent")))?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
    }
    Ok(headers)
}

/// `*.crt` are trusted; `*.cert` with a `*.key` beside it is who we are.
fn docker_certificates(dir: &Path) -> Result<Hosts, HostsError> {
    let failed = |source| HostsError::Read {
        path: dir.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        files.push(entry.map_err(failed)?.path());
    }
    files.sort();
    let mut tls = Tls::default();
    for file in files {
        match file.extension().and_then(|ending| ending.to_str()) {
            Some("crt") => tls.roots.push(bytes(&file)?),
            Some("cert") if tls.identity.is_none() => {
                let pair = [file.clone(), file.with_extension("key")];
                tls.identity = Some(joined(dir, &pair)?);
            }
            _ => {}
        }
    }
    Ok(Hosts {
        mirrors: Vec::new(),
        registry: Host {
            tls,
            ..Host::default()
        },
    })
}

fn joined(dir: &Path, files: &[impl AsRef<Path>]) -> Result<Bytes, HostsError> {
    let mut all = Vec::new();
    for file in files {
        all.extend_from_slice(&bytes(&dir.join(file))?);
        all.push(b'\n');
    }
    Ok(all.into())
}

fn bytes(path: &Path) -> Result<Bytes, HostsError> {
    let failed = |source| HostsError::Read {
        path: path.to_owned(),
        source,
    };
    let mut all = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    let mut bounded = io::Read::take(file, FILE_LEN_MAX + 1);
    io::Read::read_to_end(&mut bounded, &mut all).map_err(failed)?;
    if all.len() as u64 > FILE_LEN_MAX {
        return Err(bad(path, format!("it is longer than {FILE_LEN_MAX} bytes")));
    }
    Ok(all.into())
}

fn bad(path: &Path, what: String) -> HostsError {
    HostsError::Value {
        path: PathBuf::from(path),
        what,
    }
}

#[cfg(test)]
mod tests;
