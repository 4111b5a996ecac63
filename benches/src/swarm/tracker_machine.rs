//! Trackers of the lab: their settings, their starts and what their seeds count.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::figures::sample;
use super::image::reference;
use super::lab::Lab;
use super::machine::{METRICS, Programs, TOKEN, inside};
use super::origin::Registry;
use super::process::{Process, get};

/// Where it listens for the swarm.
pub(super) const TRACKER_PORT: u16 = 9475;

/// The tracker's host.
#[derive(Debug)]
pub(super) struct TrackerMachine {
    namespace: String,
    folder: PathBuf,
    process: Option<Process>,
    /// What agents are told.
    address: String,
    past: (u64, u64),
}

impl TrackerMachine {
    /// Starts the tracker on a host; `others` are the peer ids of all that share the swarm.
    pub(super) fn start(
        lab: &Lab,
        programs: &Programs,
        host: &str,
        registry: &Registry,
        (folder, others): (&Path, &[String]),
        seed: bool,
    ) -> Result<Self> {
        let folder = folder.join(host);
        fs::create_dir_all(&folder).context("make a tracker's folder")?;
        fs::write(folder.join("token"), TOKEN).context("write the token")?;
        fs::write(
            folder.join("tracker.toml"),
            format!(
                "state_dir = {:?}\nlisten = \"{}:{TRACKER_PORT}\"\nhttp_listen = \"{METRICS}\"\ntoken_file = {:?}\ntrackers = {others:?}\n\
                 [seed]\nmode = {:?}\nquota = \"8GiB\"\n[registry]\nplain_http = [{:?}]\ndocker_config = {:?}\n",
                inside(&folder, "state"),
                lab.address(host)?,
                inside(&folder, "token"),
                if seed { "on-open" } else { "off" },
                registry.host(),
                registry.login().to_string_lossy(),
            ),
        )
        .context("write a tracker's configuration")?;
        let mut machine = Self {
            namespace: lab.namespace(host),
            folder,
            process: None,
            address: String::new(),
            past: (0, 0),
        };
        machine.run(programs)?;
        Ok(machine)
    }

    /// The peer id of the tracker that will be on a host; its key is made for it.
    pub(super) fn peer_id(programs: &Programs, host: &str, folder: &Path) -> Result<String> {
        let folder = folder.join(host);
        fs::create_dir_all(&folder).context("make a tracker's folder")?;
        let config = folder.join("tracker.toml");
        let state = inside(&folder, "state");
        fs::write(&config, format!("state_dir = {state:?}\n")).context("write its settings")?;
        let program = programs.path("tranship-tracker");
        let done = Command::new(program)
            .args(["--print-peer-id", "--config"])
            .arg(&config)
            .output()
            .context("start a tracker for its peer id")?;
        ensure!(
            done.status.success(),
            "a tracker has no peer id: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
    }

    /// Requests that it answered since it was started last.
    pub(super) fn request_count(&self) -> Result<u64> {
        let metrics = get(&self.namespace, METRICS, "/metrics")?;
        Ok(sample(&metrics, "tranship_tracker_requests_total"))
    }

    /// Starts its process, again or for the first time.
    pub(super) fn run(&mut self, programs: &Programs) -> Result<()> {
        let config = self.folder.join("tracker.toml");
        let process = Process::start(
            &self.namespace,
            &programs.path("tranship-tracker"),
            &["--config", &config.to_string_lossy(), "--print-ready"],
            self.folder.join("tracker.log"),
            true,
        )?;
        let listen = process.ready.pointer("/listen/0");
        let listen = listen.and_then(serde_json::Value::as_str);
        listen
            .context("where the tracker listens")?
            .clone_into(&mut self.address);
        self.process = Some(process);
        Ok(())
    }

    pub(super) fn address(&self) -> String {
        self.address.clone()
    }

    /// Bytes that its seed read of the registry, and that it served.
    pub(super) fn seed_lens(&self) -> Result<(u64, u64)> {
        let (mut read, mut served) = self.past;
        if self.process.is_some() {
            let metrics = get(&self.namespace, METRICS, "/metrics")?;
            read += sample(
                &metrics,
                "tranship_seed_fetched_bytes_total{source=\"registry\"}",
            );
            served += sample(&metrics, "tranship_seed_served_bytes_total");
        }
        Ok((read, served))
    }

    /// Has its seed fetch the image whole, as an operator on its host does.
    pub(super) fn order_seed(&self, tranship: &Path, registry: &Registry) -> Result<()> {
        let done = Command::new("ip")
            .args(["netns", "exec", &self.namespace])
            .arg(tranship)
            .args(["swarm", "seed", "--plain-http"])
            .arg(reference(registry))
            .args(["--tracker", &format!("http://{METRICS}"), "--token-file"])
            .arg(self.folder.join("state/operator-token"))
            .output()
            .context("start tranship")?;
        ensure!(
            done.status.success(),
            "tranship swarm seed fails: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(())
    }

    /// Fails if it ended by itself.
    pub(super) fn check_runs(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check_runs)
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.past = self.seed_lens()?;
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Stops it in order.
    pub(super) fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.stop(),
            None => Ok(()),
        }
    }
}
