//! Agents of the lab: their settings, their starts and what they count.

use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::figures::{Counted, sample};
use super::image;
use super::lab::Lab;
use super::origin::Registry;
use super::process::{Process, call, get, last_lines};
use super::scenario::CORRUPT_SHARE;

/// The token with which agents join.
pub(super) const TOKEN: &str = "a-token-for-the-bench-0123456789abcdef";
/// Every host is a machine of its own: ports are fixed.
pub(super) const METRICS: &str = "127.0.0.1:9477";
const AGENT_PORT: u16 = 9478;
/// An agent has joined within this.
const JOIN: Duration = Duration::from_secs(30);

/// Where our programs are.
#[derive(Clone, Debug)]
pub(super) struct Programs(PathBuf);

impl Programs {
    /// Those in `TRANSHIP_BIN_DIR`, else those beside this program.
    pub(super) fn find() -> Result<Self> {
        let own = std::env::current_exe().context("the path of this program")?;
        let mut dir = own.parent().context("its folder")?;
        // A test's own program is one folder deeper.
        if dir.ends_with("deps") {
            dir = dir.parent().context("the folder of the profile")?;
        }
        let given = std::env::var_os("TRANSHIP_BIN_DIR").map(PathBuf::from);
        let programs = Self(given.unwrap_or_else(|| dir.to_path_buf()));
        for name in ["tranship", "tranship-agent", "tranship-tracker"] {
            let path = programs.path(name);
            ensure!(
                path.exists(),
                "{} is not built: build the workspace with the same profile first",
                path.display()
            );
        }
        Ok(programs)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// An agent's host, its agent running or not.
#[derive(Debug)]
pub(super) struct Machine {
    namespace: String,
    folder: PathBuf,
    process: Option<Process>,
    /// What its agents counted before they were ended.
    past: Counted,
}

/// What an agent is told beside its defaults.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AgentOptions<'a> {
    /// None: it reads the registry alone.
    pub(super) trackers: &'a [String],
    pub(super) zone: usize,
    pub(super) corrupts: bool,
}

impl Machine {
    /// Starts an agent on a host.
    pub(super) fn start(
        lab: &Lab,
        programs: &Programs,
        host: &str,
        registry: &Registry,
        (name, folder): (&str, &Path),
        options: AgentOptions<'_>,
    ) -> Result<Self> {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).context("make an agent's folder")?;
        let from = registry.host();
        let mut config = format!(
            "state_dir = {:?}\ncontrol_socket = {:?}\nhttp_listen = \"{METRICS}\"\n\
             [registry]\nplain_http = [{from:?}]\ndocker_config = {:?}\nprove_by_secret = [{from:?}]\n\
             [store]\ndir = {:?}\nquota = \"8GiB\"\n[device]\nfront_end = \"nbd\"\n",
            inside(&folder, "state"),
            inside(&folder, "agent.sock"),
            registry.login().to_string_lossy(),
            inside(&folder, "store"),
        );
        if !options.trackers.is_empty() {
            writeln!(
                config,
                "[swarm]\ntrackers = {:?}\ntoken = {TOKEN:?}\nlisten = \"{}:{AGENT_PORT}\"\nzone = \"zone-{}\"",
                options.trackers,
                lab.address(host)?,
                options.zone
            )?;
        }
        if options.corrupts {
            writeln!(config, "[fault]\ncorrupt_share = {CORRUPT_SHARE:?}")?;
        }
        fs::write(folder.join("agent.toml"), config).context("write an agent's configuration")?;
        let mut machine = Self {
            namespace: lab.namespace(host),
            folder,
            process: None,
            past: Counted::default(),
        };
        machine.run(programs)?;
        Ok(machine)
    }

    fn run(&mut self, programs: &Programs) -> Result<()> {
        let config = self.folder.join("agent.toml");
        self.process = Some(Process::start(
            &self.namespace,
            &programs.path("tranship-agent"),
            &["--config", &config.to_string_lossy(), "--print-ready"],
            self.folder.join("agent.log"),
            true,
        )?);
        Ok(())
    }

    /// Waits until so many trackers have taken it in.
    pub(super) fn wait_joined(&self, trackers: usize) -> Result<()> {
        let deadline = Instant::now() + JOIN;
        while sample(&self.metrics()?, "tranship_swarm_joined") < trackers as u64 {
            ensure!(
                Instant::now() < deadline,
                "an agent does not join:\n{}",
                last_lines(&self.folder.join("agent.log"))
            );
            thread::park_timeout(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What it takes to attach an image here, without this value.
    pub(super) fn attaching(&self) -> Attaching {
        Attaching(self.folder.clone())
    }

    /// Attaches the image; the NBD socket of its device.
    pub(super) fn attach(&self, registry: &Registry) -> Result<PathBuf> {
        self.attaching().attach(&image::reference(registry))
    }

    fn metrics(&self) -> Result<String> {
        get(&self.namespace, METRICS, "/metrics")
    }

    /// What its agents counted so far, ended ones too.
    pub(super) fn counted(&self) -> Result<Counted> {
        let mut counted = self.past;
        if self.process.is_some() {
            counted.add(&Counted::of(&self.metrics()?));
        }
        Ok(counted)
    }

    /// Fails if its agent ended by itself.
    pub(super) fn check_runs(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check_runs)
    }

    /// Ends its agent at once, as a crash would.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.past = self.counted()?;
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Stops its agent in order.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.past = self.counted()?;
        match self.process.take() {
            Some(mut process) => process.stop(),
            None => Ok(()),
        }
    }

    /// Stops its agent and starts it again.
    pub(super) fn restart(&mut self, programs: &Programs) -> Result<()> {
        self.stop()?;
        self.run(programs)
    }
}

/// An agent's folder: attaches images while others do something to the machine.
#[derive(Debug)]
pub(super) struct Attaching(PathBuf);

impl Attaching {
    /// Attaches an image; the NBD socket of its device.
    pub(super) fn attach(&self, reference: &str) -> Result<PathBuf> {
        let asked = serde_json::json!({
            "reference": reference,
            "front_end": "nbd",
            "plain_http": true,
        });
        let said = call(
            &self.0.join("agent.sock"),
            "POST",
            "/v1/devices",
            &asked.to_string(),
        )
        .with_context(|| {
            format!(
                "attach the image; the agent logged:\n{}",
                last_lines(&self.0.join("agent.log"))
            )
        })?;
        let said: serde_json::Value = serde_json::from_str(&said).context("the agent's JSON")?;
        let path = said.get("path").and_then(serde_json::Value::as_str);
        let path = path.context("the device's path")?;
        Ok(PathBuf::from(path))
    }
}

/// A path for a configuration.
pub(super) fn inside(folder: &Path, name: &str) -> String {
    folder.join(name).to_string_lossy().into_owned()
}
