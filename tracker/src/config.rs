//! What an operator can set, with its defaults.
//!
//! One TOML file, then the environment for what containers set there. Sizes and
//! durations carry units. Reading is pure: texts in, settings out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::{Table, Value};

/// All settings of the tracker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where it keeps its key, token and bans.
    pub state_dir: PathBuf,
    /// Where nodes reach it: `address:port` or a multiaddr.
    pub listen: String,
    /// What it tells nodes to dial, if that is not where it listens; multiaddrs.
    pub advertise: Vec<String>,
    /// Address of the status page, the JSON API, metrics and health.
    pub http_listen: SocketAddr,
    /// The file with the join token; made, with a random token, if it is not there.
    /// Empty is `join-token` in the state directory.
    pub token_file: PathBuf,
    /// The file with the operator token, which the HTTP API asks for before it changes anything;
    /// made like the join token. Empty is `operator-token` in the state directory.
    pub operator_token_file: PathBuf,
    /// The other trackers of the swarm, as peer ids or addresses that end in one: what they signed, ours is to believe.
    /// This one may be among them.
    pub trackers: Vec<String>,
    /// How long a membership lasts before it must be renewed.
    #[serde(with = "humantime_serde")]
    pub membership: Duration,
    /// Which log messages are written: a level, or `tracing` directives.
    pub log: String,
    /// Who may have an image's chunks.
    pub rights: Rights,
    /// The seed.
    pub seed: Seed,
    /// Registries and how the seed speaks to them.
    pub registry: Registry,
}

/// Who may have an image's chunks of others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rights {
    /// Whose word counts.
    pub check: Check,
    /// How long a grant lasts before it must be renewed: so long goes on what the registry no longer allows.
    #[serde(with = "humantime_serde")]
    pub grant: Duration,
}

/// Whose word counts about who may have an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Its registry's: whoever may pull it there.
    Registry,
    /// Nobody's: every member may have every image.
    Members,
}

/// Chunks that the tracker itself holds for others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Seed {
    /// Whether there is one.
    pub mode: SeedMode,
    /// Its chunks; empty is `seed` in the state directory.
    pub dir: PathBuf,
    /// Most bytes of chunks.
    pub quota: ByteSize,
}

/// When the seed takes part in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SeedMode {
    /// As soon as somebody opens it: the seed reads the registry for all, and keeps what it read.
    OnOpen,
    /// When the operator orders it, image by image.
    OnRequest,
    /// Never.
    Off,
}

/// Registries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Registry {
    /// Hosts spoken to without TLS, besides those on this machine.
    pub plain_http: Vec<String>,
    /// Docker's configuration with credentials, such as `/root/.docker/config.json`; empty is to have none.
    pub docker_config: PathBuf,
    /// Registries, or parts of them, that the tracker asks who may pull and that the seed reads; empty is all.
    pub allow: Vec<String>,
    /// Mirrors of registries, each in the order in which they are asked before the registry itself.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Most stripes that members and the seed read of registries at once, under this tracker's leases.
    pub reads: usize,
    /// Registries, or parts of them, whose pushers are trusted with proofs of layers that have no chunk table.
    pub trust_proofs: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/tranship-tracker"),
            listen: "0.0.0.0:9475".to_owned(),
            advertise: Vec::new(),
            http_listen: SocketAddr::from(([127, 0, 0, 1], 9476)),
            token_file: PathBuf::new(),
            operator_token_file: PathBuf::new(),
            trackers: Vec::new(),
            membership: Duration::from_hours(24),
            log: "info".to_owned(),
            rights: Rights::default(),
            seed: Seed::default(),
            registry: Registry::default(),
        }
    }
}

impl Default for Rights {
    fn default() -> Self {
        Self {
            check: Check::Registry,
            grant: Duration::from_hours(1),
        }
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            docker_config: PathBuf::new(),
            allow: Vec::new(),
            mirrors: BTreeMap::new(),
            reads: 512,
            trust_proofs: Vec::new(),
        }
    }
}

impl Default for Seed {
    fn default() -> Self {
        Self {
            mode: SeedMode::OnOpen,
            dir: PathBuf::new(),
            quota: ByteSize::gib(50),
        }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text is not TOML.
    #[error("read the settings as TOML")]
    Syntax(#[source] Box<toml::de::Error>),
    /// A key has a value that it cannot have.
    #[error("use the settings: {message}")]
    Value {
        /// Which key, and what is wrong with it.
        message: String,
    },
}

/// Settings, and the keys that were set and that nobody reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Full paths of unknown keys, such as `seed.quotta`.
    pub unknown: Vec<String>,
}

impl Config {
    /// Reads the text of a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] names the key that is wrong.
    pub fn parse(text: &str) -> Result<Loaded, ConfigError> {
        let given: Table = text
            .parse()
            .map_err(|error| ConfigError::Syntax(Box::new(error)))?;
        let known = Table::try_from(Self::default()).unwrap_or_default();
        let mut unknown = Vec::new();
        collect_unknown(&given, &known, "", &mut unknown);
        let config = given
            .try_into()
            .map_err(|error: toml::de::Error| ConfigError::Value {
                message: error.to_string(),
            })?;
        Ok(Loaded { config, unknown })
    }

    /// Where the seed's chunks are.
    pub fn seed_dir(&self) -> PathBuf {
        or_inside(&self.seed.dir, &self.state_dir, "seed")
    }

    /// Where the join token is.
    pub fn token_path(&self) -> PathBuf {
        or_inside(&self.token_file, &self.state_dir, "join-token")
    }

    /// Where the operator token is.
    pub fn operator_token_path(&self) -> PathBuf {
        or_inside(&self.operator_token_file, &self.state_dir, "operator-token")
    }
}

fn or_inside(set: &Path, dir: &Path, name: &str) -> PathBuf {
    if set.as_os_str().is_empty() {
        dir.join(name)
    } else {
        set.to_path_buf()
    }
}

fn collect_unknown(given: &Table, known: &Table, path: &str, unknown: &mut Vec<String>) {
    for (key, value) in given {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        match (value, known.get(key)) {
            // What is empty by default has keys that an operator names.
            (Value::Table(given), Some(Value::Table(known))) if !known.is_empty() => {
                collect_unknown(given, known, &path, unknown);
            }
            (_, Some(_)) => {}
            (_, None) => unknown.push(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_set_gives_the_defaults() {
        let loaded = Config::parse("").unwrap();
        assert_eq!(loaded.config, Config::default());
        assert_eq!(loaded.unknown, Vec::<String>::new());
        assert_eq!(
            loaded.config.seed_dir(),
            PathBuf::from("/var/lib/tranship-tracker/seed")
        );
    }

    #[test]
    fn units_are_read_and_unknown_keys_are_named() {
        let loaded = Config::parse(
            r#"
            state_dir = "/s"
            membership = "90m"
            colour = "red"
            [seed]
            mode = "off"
            quota = "2GiB"
            quotta = "3GiB"
            [registry]
            plain_http = ["registry:5000"]
            [registry.mirrors]
            "registry:5000" = ["mirror.example:5000"]
            "#,
        )
        .unwrap();
        assert_eq!(loaded.config.membership, Duration::from_mins(90));
        assert_eq!(loaded.config.seed.mode, SeedMode::Off);
        assert_eq!(loaded.config.seed.quota, ByteSize::gib(2));
        assert_eq!(loaded.config.token_path(), PathBuf::from("/s/join-token"));
        assert_eq!(loaded.config.registry.mirrors.len(), 1);
        assert_eq!(loaded.unknown, ["colour", "seed.quotta"]);
    }

    #[test]
    fn a_wrong_value_names_its_key() {
        let error = Config::parse("[seed]\nmode = \"sometimes\"").unwrap_err();
        assert!(error.to_string().contains("sometimes"), "{error}");
        assert!(matches!(
            Config::parse("listen ="),
            Err(ConfigError::Syntax(_))
        ));
    }
}
