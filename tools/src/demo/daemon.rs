//! One process of the demo, agent or tracker: started from a configuration file, known by its ready line, stopped by pid.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::failure::{Exit, Explain, Failure, Outcome};

/// A process that is not ready after this long will not be.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// A process that is asked to stop may unmount and say goodbye for this long.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The tracker's ready line, as far as the demo needs it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct TrackerReady {
    /// The tracker in the swarm.
    pub(crate) peer_id: String,
    /// Where it listens; one address or several.
    pub(crate) listen: OneOrMany,
}

/// An address or a list of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// The first address.
    pub(crate) fn first(&self) -> Option<&str> {
        match self {
            Self::One(one) => Some(one),
            Self::Many(many) => many.first().map(String::as_str),
        }
    }
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `program --config CONFIG --print-ready` and waits for its ready line. What it logs goes to `log`.
    pub(crate) async fn start<R: DeserializeOwned>(
        name: &str,
        program: &Path,
        config: &Path,
        log: &Path,
        placed: impl FnOnce(u32),
    ) -> Outcome<(Self, R)> {
        let file =
            std::fs::File::create(log).explain(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(program);
        // A variable of the user's own daemons would win over the demo's file.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"TRANSHIP_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .arg("--config")
            .arg(config)
            .arg("--print-ready")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            // Ctrl-C at the terminal is for the demo, which then stops the others in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .explain(|| format!("cannot start {}", program.display()))?;
        if let Some(pid) = child.id() {
            placed(pid);
        }
        let stdout = child.stdout.take();
        let mut daemon = Self {
            name: name.to_owned(),
            child,
            log: log.to_path_buf(),
        };
        let mut line = String::new();
        let read = async {
            match stdout {
                Some(stdout) => BufReader::new(stdout).read_line(&mut line).await,
                None => Ok(0),
            }
        };
        let read = tokio::time::timeout(READY_LIMIT, read).await;
        match serde_json::from_str(&line) {
            Ok(ready) if matches!(read, Ok(Ok(_))) => Ok((daemon, ready)),
            _ => {
                daemon.stop().await;
                Err(daemon.not_ready(&line))
            }
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    fn not_ready(&self, said: &str) -> Failure {
        let said = if said.is_empty() {
            "it said nothing"
        } else {
            said.trim()
        };
        Failure::new(Exit::Failed, format!("{} did not become ready", self.name))
            .why(said)
            .why(last_lines(&self.log))
            .next("the process's last log lines are above; `--log debug` shows the demo's own")
    }

    /// Asks it to stop, and ends it if it does not.
    pub(crate) async fn stop(&mut self) {
        let pid = self
            .child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _gone_already = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(STOP_LIMIT, self.child.wait())
            .await
            .is_err()
        {
            tracing::warn!(name = self.name, "did not stop when asked to");
            let _gone_already = self.child.kill().await;
        }
    }
}

/// The end of a log, for an error message.
pub(crate) fn last_lines(log: &Path) -> String {
    const LINES: usize = 5;
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(LINES).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

/// A program of tranship's beside this one.
pub(crate) fn sibling(name: &str) -> Outcome<PathBuf> {
    let me = std::env::current_exe().explain(|| "cannot find this program's own path".into())?;
    let path = me.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::new(Exit::NotFound, format!("cannot find {name}"))
        .why(format!("it should stand beside {}", me.display()))
        .next("build all of it: `cargo build --release`, then run `target/release/tranship demo`"))
}
