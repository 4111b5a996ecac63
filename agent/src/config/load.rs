//! Defaults, then the file, then the environment, then flags: later ones win, key by key.
//!
//! Nothing is read here but the texts that are handed in, so every rule is a unit test.

use std::path::PathBuf;

use toml::{Table, Value};

use super::Config;

/// Begins the names of the environment variables that are settings.
const PREFIX: &str = "TRANSHIP_";

/// The tables of the file, which begin the names of their keys in the environment: `TRANSHIP_STORE_QUOTA`.
const SECTIONS: [&str; 8] = [
    "registry",
    "store",
    "swarm",
    "device",
    "snapshotter",
    "image_service",
    "prefetch",
    "fault",
];

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is not TOML.
    #[error("{} is not TOML", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A key has a value that it cannot have.
    #[error("the settings do not fit together: {message}")]
    Value {
        /// Which key, and what is wrong with it.
        message: String,
    },
    /// A flag does not look like `section.key=value`.
    #[error("{flag:?} is not of the form section.key=value")]
    Flag {
        /// What was given.
        flag: String,
    },
}

/// The texts that settings come from.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The file's path, for messages, and its text.
    pub file: Option<(PathBuf, String)>,
    /// The environment; only names that begin with `TRANSHIP_` count.
    pub env: Vec<(String, String)>,
    /// `section.key` and value, in the order given.
    pub flags: Vec<(String, String)>,
}

/// Settings, and what was set that nobody reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Full paths of keys that are no settings, with the place where each was found.
    pub unknown: Vec<String>,
}

impl Layers {
    /// Splits `section.key=value`.
    pub fn parse_flag(flag: &str) -> Result<(String, String), ConfigError> {
        flag.split_once('=')
            .map(|(key, value)| (key.trim().to_owned(), value.to_owned()))
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| ConfigError::Flag {
                flag: flag.to_owned(),
            })
    }

    /// Puts the layers on each other.
    pub fn load(self) -> Result<Loaded, ConfigError> {
        let mut table = Table::new();
        if let Some((path, text)) = &self.file {
            table = text.parse().map_err(|source| ConfigError::Syntax {
                path: path.clone(),
                source: Box::new(source),
            })?;
        }
        for (name, value) in &self.env {
            if let Some(path) = env_path(name) {
                set(&mut table, &path, value);
            }
        }
        for (key, value) in &self.flags {
            let path: Vec<String> = key.split('.').map(str::to_owned).collect();
            set(&mut table, &path, value);
        }
        let mut unknown = Vec::new();
        let config: Config =
            serde_ignored::deserialize(Value::Table(table), |path| unknown.push(path.to_string()))
                .map_err(|error| ConfigError::Value {
                    message: error.to_string().trim().to_owned(),
                })?;
        check(&config)?;
        Ok(Loaded { config, unknown })
    }
}

/// Where in the file the variable's key would stand.
fn env_path(name: &str) -> Option<Vec<String>> {
    let key = name.strip_prefix(PREFIX)?.to_ascii_lowercase();
    if key.is_empty() {
        return None;
    }
    let in_section = SECTIONS.iter().find_map(|section| {
        let key = key.strip_prefix(section)?.strip_prefix('_')?;
        Some(vec![(*section).to_owned(), key.to_owned()])
    });
    Some(in_section.unwrap_or_else(|| vec![key]))
}

/// Sets one key. A text that is a TOML boolean, number, array or inline table is taken as such, any other as a string: nobody quotes
/// quotes in an environment file.
fn set(table: &mut Table, path: &[String], text: &str) {
    let Some((last, above)) = path.split_last() else {
        return;
    };
    let mut place = table;
    for name in above {
        let below = place
            .entry(name.clone())
            .or_insert_with(|| Value::Table(Table::new()));
        if !below.is_table() {
            *below = Value::Table(Table::new());
        }
        let Value::Table(below) = below else {
            return;
        };
        place = below;
    }
    let value = text.parse::<Value>().ok().filter(|value| {
        matches!(
            value,
            Value::Boolean(_)
                | Value::Integer(_)
                | Value::Float(_)
                | Value::Array(_)
                | Value::Table(_)
        )
    });
    place.insert(
        last.clone(),
        value.unwrap_or_else(|| Value::String(text.to_owned())),
    );
}

/// What the types cannot say.
fn check(config: &Config) -> Result<(), ConfigError> {
    let refuse = |message: &str| {
        Err(ConfigError::Value {
            message: message.to_owned(),
        })
    };
    let store = &config.store;
    if store.high_water > 100 || store.low_water > store.high_water {
        return refuse("store.low_water must not be above store.high_water, nor that above 100");
    }
    if config.device.workers == 0 {
        return refuse("device.workers must be at least 1");
    }
    if config.swarm.token.is_some() && config.swarm.token_file.is_some() {
        return refuse("swarm.token and swarm.token_file are both set; give one of them");
    }
    if config.swarm.demand_patience.is_zero() {
        return refuse(
            "swarm.demand_patience must be more than nothing, or no peer is ever waited for",
        );
    }
    if !(0.0..=1.0).contains(&config.fault.corrupt_share) {
        return refuse("fault.corrupt_share must lie between 0 and 1");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytesize::ByteSize;

    use super::*;
    use crate::control::FrontEndChoice;

    fn layers(text: &str) -> Layers {
        Layers {
            file: Some((PathBuf::from("agent.toml"), text.to_owned())),
            ..Layers::default()
        }
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn nothing_set_means_the_defaults() {
        let loaded = Layers::default().load().unwrap();
        assert_eq!(loaded.config, Config::default());
        assert!(loaded.unknown.is_empty());
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let mut layers = layers(
            "state_dir = \"/file\"\n[store]\nquota = \"1GiB\"\nhigh_water = 80\nlow_water = 70\n",
        );
        layers.env = vec![
            pair("TRANSHIP_STATE_DIR", "/env"),
            pair("TRANSHIP_STORE_QUOTA", "2GiB"),
            pair("OTHER_STATE_DIR", "/other"),
        ];
        layers.flags = vec![pair("store.quota", "3GiB")];
        let config = layers.load().unwrap().config;
        assert_eq!(config.state_dir, PathBuf::from("/env"));
        assert_eq!(config.store.quota, ByteSize::gib(3));
        assert_eq!((config.store.high_water, config.store.low_water), (80, 70));
    }

    #[test]
    fn units_are_read() {
        let config = layers("[device]\nread_deadline = \"1m 30s\"\nblock_cache = \"8 MiB\"\nfront_end = \"erofs-file\"\n")
            .load()
            .unwrap()
            .config;
        assert_eq!(config.device.read_deadline, Duration::from_secs(90));
        assert_eq!(config.device.block_cache, ByteSize::mib(8));
        assert_eq!(config.device.front_end, FrontEndChoice::ErofsFile);
    }

    #[test]
    fn environment_takes_lists_and_switches() {
        let mut layers = layers("");
        layers.env = vec![
            pair("TRANSHIP_REGISTRY_PLAIN_HTTP", "[\"a:5000\", \"b\"]"),
            pair("TRANSHIP_PREFETCH_BACKGROUND", "true"),
            pair("TRANSHIP_HTTP_LISTEN", "off"),
        ];
        let config = layers.load().unwrap().config;
        assert_eq!(config.registry.plain_http, ["a:5000", "b"]);
        assert!(config.prefetch.background);
        assert_eq!(config.http_listen, super::super::HttpListen::Off);
    }

    #[test]
    fn unknown_keys_are_named_with_their_path_and_do_no_harm() {
        let loaded = layers("colour = 1\n[store]\nquotta = \"1GiB\"\n[stroe]\nquota = 1\n")
            .load()
            .unwrap();
        assert_eq!(loaded.unknown, ["colour", "store.quotta", "stroe"]);
        assert_eq!(loaded.config, Config::default());
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        for (text, named) in [
            ("[store]\nquota = \"lots\"\n", "quota"),
            ("[device]\nfront_end = \"scsi\"\n", "scsi"),
            ("http_listen = \"here\"\n", "here"),
            ("[store]\nlow_water = 96\n", "low_water"),
            ("[device]\nworkers = 0\n", "workers"),
            ("[swarm]\ndemand_patience = \"0s\"\n", "demand_patience"),
            ("[fault]\ncorrupt_share = 2.0\n", "corrupt_share"),
        ] {
            let error = layers(text).load().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        assert!(matches!(
            layers("a = ").load(),
            Err(ConfigError::Syntax { .. })
        ));
    }

    #[test]
    fn every_section_of_the_settings_can_be_set_by_the_environment() {
        let table = Table::try_from(Config::default()).unwrap();
        let sections: Vec<&str> = table
            .iter()
            .filter(|(_, value)| value.is_table())
            .map(|(name, _)| name.as_str())
            .collect();
        for section in &sections {
            assert!(SECTIONS.contains(section), "{section}");
        }
        assert_eq!(sections.len(), SECTIONS.len());
    }
}
