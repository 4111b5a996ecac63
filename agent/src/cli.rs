//! The daemon's command line.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use clap::{Parser, Subcommand};

use tranship_agent::config::{ConfigError, Layers, Loaded};

/// Where settings are read from when nobody says; it may not be there.
const DEFAULT_CONFIG: &str = "/etc/tranship/agent.toml";

/// The daemon of a node: turns images into devices, and gives chunks to other nodes.
#[derive(Debug, Parser)]
#[command(name = "tranship-agent", version)]
pub(crate) struct Cli {
    /// File with settings [default: /etc/tranship/agent.toml, if it is there].
    #[arg(
        long,
        env = "TRANSHIP_AGENT_CONFIG",
        value_name = "FILE",
        global = true
    )]
    config: Option<PathBuf>,
    /// One setting, such as store.quota=10GiB; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", global = true)]
    set: Vec<String>,
    /// Directory for what must outlive the daemon (setting `state_dir`).
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// Unix socket of the control API (setting `control_socket`).
    #[arg(long, value_name = "PATH")]
    control_socket: Option<String>,
    /// Address of metrics and health, or off (setting `http_listen`).
    #[arg(long, value_name = "ADDRESS")]
    http_listen: Option<String>,
    /// Address of the tracker (setting `swarm.tracker`).
    #[arg(long, value_name = "MULTIADDR")]
    tracker: Option<String>,
    /// Where to listen for peers (setting `swarm.listen`).
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Print one line of JSON when ready: peer id, control socket, HTTP address, where it listens for peers.
    #[arg(long)]
    pub(crate) print_ready: bool,
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

/// What to do instead of running.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Look at the settings.
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
}

/// What to do with the settings.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Check the settings, and fail if anything in them is wrong or unknown.
    Check,
}

/// Why the settings could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("cannot read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Cli {
    /// Reads file and environment and puts the flags on top.
    pub(crate) fn settings(&self) -> Result<Loaded, SettingsError> {
        let mut flags = Vec::new();
        for flag in &self.set {
            flags.push(Layers::parse_flag(flag)?);
        }
        let short = [
            ("state_dir", &self.state_dir),
            ("control_socket", &self.control_socket),
            ("http_listen", &self.http_listen),
            ("swarm.tracker", &self.tracker),
            ("swarm.listen", &self.listen),
        ];
        for (key, value) in short {
            flags.extend(value.clone().map(|value| (key.to_owned(), value)));
        }
        let layers = Layers {
            file: self.file()?,
            env: env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .filter(|(name, _)| name != "TRANSHIP_AGENT_CONFIG")
                .collect(),
            flags,
        };
        Ok(layers.load()?)
    }

    fn file(&self) -> Result<Option<(PathBuf, String)>, SettingsError> {
        let path = self.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG));
        match fs::read_to_string(path) {
            Ok(text) => Ok(Some((path.to_path_buf(), text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.config.is_none() => {
                Ok(None)
            }
            Err(source) => Err(SettingsError::Read {
                path: path.to_path_buf(),
                source,
            }),
        }
    }
}
