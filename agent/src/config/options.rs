//! From settings to the options of each part: the only place that knows both sides.

use std::fs;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use tranship_source::Credentials;
use tranship_source::credentials::{Plugins, PluginsError};
use tranship_source::manifest::Platform;
use tranship_source::net::{
    Fault, JoinToken, Multiaddr, NetOptions, TrackerAddressError, parse_address,
};
use tranship_source::proof::TrustedProofs;
use tranship_source::registry::{BadMirror, Mirrors, PlainHttp, RegistryOptions};
use tranship_store::StoreOptions;

use super::Config;
use crate::devices::DeviceOptions;
use crate::front_end::FrontEndOptions;
use crate::image::ImageOptions;
use crate::plain::PlainBudget;

/// Why settings that can be read cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// An address for peers is neither a socket address nor a multiaddr.
    #[error(
        "{key} is {text:?}, which is neither a socket address such as 0.0.0.0:4001 nor a multiaddr"
    )]
    Address {
        /// The setting.
        key: &'static str,
        /// Its value.
        text: String,
    },
    /// The tracker's address.
    #[error("{key} cannot be used")]
    Tracker {
        /// The setting.
        key: &'static str,
        /// What is wrong with it.
        #[source]
        source: TrackerAddressError,
    },
    /// The token is there, and says nothing.
    #[error("{key} is empty: give the join token of the tracker, or leave the setting out")]
    EmptyToken {
        /// The setting.
        key: &'static str,
    },
    /// The kubelet's plugins.
    #[error("registry.credential_provider_config cannot be used")]
    Plugins(#[source] PluginsError),
    /// A registry or a mirror is no host.
    #[error("registry.mirrors cannot be used")]
    Mirrors(#[source] BadMirror),
    /// A file that a setting names cannot be read.
    #[error("{key} names {}, which cannot be read", .path.display())]
    File {
        /// The setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Config {
    /// For the store.
    pub fn store_options(&self) -> StoreOptions {
        StoreOptions {
            quota_len: self.store.quota.as_u64(),
            high_water_percent: self.store.high_water,
            low_water_percent: self.store.low_water,
            free_floor_len: self.store.free_floor.as_u64(),
        }
    }

    /// For the swarm.
    pub fn net_options(&self) -> Result<NetOptions, OptionsError> {
        let swarm = &self.swarm;
        let mut options = NetOptions::new(self.state_dir.clone());
        options.listen = vec![address("swarm.listen", &swarm.listen)?];
        options.advertise = swarm
            .advertise
            .iter()
            .map(|text| address("swarm.advertise", text))
            .collect::<Result<_, _>>()?;
        let one = swarm.tracker.iter().map(|text| ("swarm.tracker", text));
        let several = swarm.trackers.iter().map(|text| ("swarm.trackers", text));
        options.trackers = one
            .chain(several)
            .filter(|(_, text)| !text.is_empty())
            .map(|(key, text)| {
                let tracker = text.parse();
                tracker.map_err(|source| OptionsError::Tracker { key, source })
            })
            .collect::<Result<_, _>>()?;
        options.token = match (&swarm.token, &swarm.token_file) {
            (Some(text), _) => Some(token("swarm.token", text)?),
            (None, Some(path)) => {
                let key = "swarm.token_file";
                Some(token(key, &read(key, path)?)?)
            }
            (None, None) => None,
        };
        options.zone.clone_from(&swarm.zone);
        options.rack.clone_from(&swarm.rack);
        options.in_flight_len = u32::try_from(swarm.in_flight.as_u64()).unwrap_or(u32::MAX);
        options.demand_patience = Some(swarm.demand_patience);
        options.upload_rate = Some(swarm.upload_rate.as_u64()).filter(|rate| *rate > 0);
        options.fault = Fault {
            corrupt_share: self.fault.corrupt_share,
        };
        Ok(options)
    }

    /// For registries.
    pub fn registry_options(&self) -> Result<RegistryOptions, OptionsError> {
        let registry = &self.registry;
        let mut credentials = Credentials::anonymous();
        if let Some(path) = &registry.docker_config {
            credentials = credentials.with_docker_config(path);
        }
        if let Some(path) = &registry.credential_provider_config {
            let dir = &registry.credential_provider_bin_dir;
            let plugins = Plugins::read(path, dir).map_err(OptionsError::Plugins)?;
            credentials = credentials.with_plugins(plugins);
        }
        for path in &registry.pull_secrets {
            credentials = credentials.with_pull_secret(path);
        }
        let extra_roots = registry
            .extra_roots
            .iter()
            .map(|path| read("registry.extra_roots", path).map(Bytes::from))
            .collect::<Result<_, _>>()?;
        Ok(RegistryOptions {
            plain_http: if registry.plain_http.is_empty() {
                PlainHttp::Loopback
            } else {
                PlainHttp::Always(registry.plain_http.clone())
            },
            credentials,
            prove_by_secret: registry.prove_by_secret.clone(),
            extra_roots,
            hosts_dirs: registry.hosts_dirs.clone(),
            deadline: registry.deadline,
            mirrors: Mirrors::new(registry.mirrors.clone()).map_err(OptionsError::Mirrors)?,
            ..RegistryOptions::default()
        })
    }

    /// For images.
    pub(crate) fn image_options(&self) -> Result<ImageOptions, OptionsError> {
        Ok(ImageOptions {
            registry: self.registry_options()?,
            trusted_proofs: TrustedProofs::new(self.registry.trust_proofs.clone()),
            trust_tracker: self.swarm.trust_proofs,
            platform: Platform::of_this_machine(),
            block_cache_len: self.device.block_cache.as_u64(),
            read_deadline: self.device.read_deadline,
            read_ahead: self.prefetch.read_ahead,
            idle_images: self.swarm.idle_images,
        })
    }

    /// For devices.
    pub(crate) fn device_options(&self) -> DeviceOptions {
        DeviceOptions {
            front_end: self.device.front_end,
            bounds: FrontEndOptions {
                agent_patience: self.device.agent_patience,
                worker_count: self.device.workers,
                stop_grace: self.device.stop_grace,
            },
            agent_patience: self.device.agent_patience,
            processes: self.device.processes,
            detach_on_stop: self.device.detach_on_stop,
            fill: self.prefetch.background.then_some(self.prefetch.in_flight),
            graduate: self.device.graduate.then(|| PlainBudget {
                quota_len: self.device.graduate_quota.as_u64(),
                free_floor_len: self.store.free_floor.as_u64(),
            }),
        }
    }
}

fn address(key: &'static str, text: &str) -> Result<Multiaddr, OptionsError> {
    parse_address(text).ok_or_else(|| OptionsError::Address {
        key,
        text: text.to_owned(),
    })
}

fn token(key: &'static str, text: &str) -> Result<JoinToken, OptionsError> {
    if text.trim().is_empty() {
        return Err(OptionsError::EmptyToken { key });
    }
    Ok(JoinToken::new(text))
}

fn read(key: &'static str, path: &PathBuf) -> Result<String, OptionsError> {
    fs::read_to_string(path).map_err(|source| OptionsError::File {
        key,
        path: path.clone(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_make_options() {
        let config = Config::default();
        let net = config.net_options().unwrap();
        assert!(net.trackers.is_empty() && net.token.is_none() && net.upload_rate.is_none());
        assert_eq!(
            config.registry_options().unwrap().plain_http,
            PlainHttp::Loopback
        );
        assert_eq!(config.store_options().quota_len, 50 << 30);
    }

    #[test]
    fn wrong_addresses_are_named_by_their_setting() {
        let mut config = Config::default();
        config.swarm.listen = "everywhere".to_owned();
        assert!(
            config
                .net_options()
                .unwrap_err()
                .to_string()
                .contains("swarm.listen")
        );
        let mut config = Config::default();
        config.swarm.tracker = Some("/ip4/10.0.0.1/tcp/1".to_owned());
        assert!(
            config
                .net_options()
                .unwrap_err()
                .to_string()
                .contains("swarm.tracker")
        );
        let mut config = Config::default();
        config.swarm.trackers = vec!["10.0.0.1:9475".to_owned()];
        assert!(
            config
                .net_options()
                .unwrap_err()
                .to_string()
                .contains("swarm.trackers")
        );
    }

    #[test]
    fn token_comes_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "secret\n").unwrap();
        let mut config = Config::default();
        config.swarm.token_file = Some(path);
        assert_eq!(
            config.net_options().unwrap().token,
            Some(JoinToken::new("secret"))
        );
        config.swarm.token = Some(String::new());
        assert!(
            config
                .net_options()
                .unwrap_err()
                .to_string()
                .contains("swarm.token is empty")
        );
        config.swarm.token = None;
        config.swarm.token_file = Some(dir.path().join("absent"));
        assert!(
            config
                .net_options()
                .unwrap_err()
                .to_string()
                .contains("token_file")
        );
    }
}
