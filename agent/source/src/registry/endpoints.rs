//! Who is asked for what: mirrors, and the registry itself, each as settings and directories of hosts have it.
//!
//! The directories are read again every few seconds while they are needed, off the threads that answer readers. Connections
//! are kept for as long as what a folder says stays the same.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderMap;
use tokio::time::Instant;

use super::endpoint::{Endpoint, Line, host_and_port};
use super::error::RegistryFailure;
use super::hosts::{self, Host, Hosts, HostsError, Need};
use super::http::Http;
use super::{PlainHttp, RegistryOptions};
use crate::reference::RepoRef;

/// How long what a folder said is gone by.
const READ_FOR: Duration = Duration::from_secs(5);

/// Registries that are remembered before all are forgotten: a node knows a handful.
const KNOWN_MAX: usize = 1024;

/// Who is asked, in order.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) mirrors: Vec<Endpoint>,
    /// Asked last; `None` where a file of hosts says that it is not to be.
    pub(super) registry: Option<Endpoint>,
    none: (String, &'static str),
}

impl Asked {
    /// The registry, after mirrors failed with `failed`.
    pub(super) fn registry(
        self,
        failed: Option<RegistryFailure>,
    ) -> Result<Endpoint, RegistryFailure> {
        let (registry, what) = self.none;
        let none = || failed.unwrap_or(RegistryFailure::NoHost { registry, what });
        self.registry.ok_or_else(none)
    }
}

/// Ways to all registries.
#[derive(Debug)]
pub(super) struct Endpoints {
    options: RegistryOptions,
    usual: Arc<Line>,
    known: Mutex<BTreeMap<String, Known>>,
}

/// What a folder said of a registry.
#[derive(Clone, Debug)]
struct Known {
    hosts: Arc<Hosts>,
    ways: Arc<Ways>,
    read_at: Instant,
}

/// The same with connections.
#[derive(Debug)]
struct Ways {
    mirrors: Vec<Way>,
    registry: Way,
}

#[derive(Debug)]
struct Way {
    host: Host,
    line: Arc<Line>,
}

impl Endpoints {
    pub(super) fn new(options: &RegistryOptions) -> Result<Self, RegistryFailure> {
        let http = Arc::new(Http::new(options)?);
        Ok(Self {
            usual: Arc::new(Line::new(Arc::clone(&http), http, HeaderMap::new())),
            options: options.clone(),
            known: Mutex::default(),
        })
    }

    /// Who is asked for something of `repo`. Mirrors of the settings are good for what is named by a digest.
    pub(super) async fn of(&self, repo: &RepoRef, need: Need) -> Result<Asked, RegistryFailure> {
        let mut mirrors = Vec::new();
        if need == Need::Pull {
            for mirror in self.options.mirrors.of(repo) {
                let ways = self.ways(mirror.host()).await?;
                mirrors.push(self.own(&mirror, ways.as_deref().map(|ways| &ways.registry))?);
            }
        }
        let ways = self.ways(repo.host()).await?;
        let named = ways.iter().flat_map(|ways| &ways.mirrors);
        let named = named.filter(|way| way.host.can.what(need));
        mirrors.extend(named.filter_map(|way| {
            let api = way.host.api.clone()?;
            Some(Endpoint::at(api, repo, Arc::clone(&way.line)))
        }));
        let own = ways.as_deref().map(|ways| &ways.registry);
        let is_asked = own.is_none_or(|way| way.host.can.what(need));
        let what = match need {
            Need::Pull => "pull",
            Need::Resolve => "resolve",
            Need::Push => "push",
        };
        Ok(Asked {
            mirrors,
            registry: is_asked.then(|| self.own(repo, own)).transpose()?,
            none: (repo.host().to_owned(), what),
        })
    }

    /// The registry itself.
    fn own(&self, repo: &RepoRef, way: Option<&Way>) -> Result<Endpoint, RegistryFailure> {
        let line = Arc::clone(way.map_or(&self.usual, |way| &way.line));
        match way.and_then(|way| way.host.api.clone()) {
            Some(api) => Ok(Endpoint::at(api, repo, line)),
            None => Endpoint::usual(&self.options.plain_http, repo, line),
        }
    }

    async fn ways(&self, registry: &str) -> Result<Option<Arc<Ways>>, RegistryFailure> {
        if self.options.hosts_dirs.is_empty() {
            return Ok(None);
        }
        let known = self.known().get(registry).cloned();
        if let Some(known) = &known
            && known.read_at.elapsed() < READ_FOR
        {
            return Ok(Some(Arc::clone(&known.ways)));
        }
        let hosts = read(self.options.hosts_dirs.clone(), registry.to_owned()).await?;
        let read_at = Instant::now();
        let fresh = match known {
            Some(known) if *known.hosts == hosts => Known { read_at, ..known },
            _ => Known {
                ways: Arc::new(self.make(&hosts)?),
                hosts: Arc::new(hosts),
                read_at,
            },
        };
        let ways = Arc::clone(&fresh.ways);
        let mut all = self.known();
        if all.len() >= KNOWN_MAX {
            all.clear();
        }
        all.insert(registry.to_owned(), fresh);
        Ok(Some(ways))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, hosts: &Hosts) -> Result<Ways, RegistryFailure> {
        let mirrors = hosts.mirrors.iter().map(|host| self.way(host));
        Ok(Ways {
            mirrors: mirrors.collect::<Result<_, _>>()?,
            registry: self.way(&hosts.registry)?,
        })
    }

    fn way(&self, host: &Host) -> Result<Way, RegistryFailure> {
        let mut options = RegistryOptions {
            connect_timeout: host.dial_timeout.unwrap_or(self.options.connect_timeout),
            ..self.options.clone()
        };
        if let Some(api) = host.api.as_ref().filter(|api| api.scheme() == "http") {
            options.plain_http = with(&options.plain_http, api);
        }
        let usual = Host {
            api: host.api.clone(),
            can: host.can,
            ..Host::default()
        };
        let line = if *host == usual && options.plain_http == self.options.plain_http {
            Arc::clone(&self.usual)
        } else {
            let http = Arc::new(Http::with_tls(&options, &host.tls)?);
            let mut others = host.tls.clone();
            let elsewhere = match others.identity.take() {
                Some(_) => Arc::new(Http::with_tls(&options, &others)?),
                None => Arc::clone(&http),
            };
            Arc::new(Line::new(http, elsewhere, host.headers.clone()))
        };
        Ok(Way {
            host: host.clone(),
            line,
        })
    }
}

/// Reads files, for which nobody else is to wait.
async fn read(dirs: Vec<PathBuf>, registry: String) -> Result<Hosts, HostsError> {
    let place = dirs.first().cloned().unwrap_or_default();
    let found = tokio::task::spawn_blocking(move || hosts::find(&dirs, &registry)).await;
    let found = found.map_err(|stopped| HostsError::Read {
        path: place,
        source: stopped.into(),
    })?;
    Ok(found?.unwrap_or_default())
}

/// A file that names an address without TLS allows it.
fn with(plain_http: &PlainHttp, api: &Url) -> PlainHttp {
    let mut hosts = match plain_http {
        PlainHttp::Loopback => Vec::new(),
        PlainHttp::Always(hosts) => hosts.clone(),
    };
    hosts.push(host_and_port(api));
    PlainHttp::Always(hosts)
}
