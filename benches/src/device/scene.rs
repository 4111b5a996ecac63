//! What devices are measured on: a registry with one image of this machine's files, and an agent of this build that has all of it.
//!
//! Everything lies in memory where the machine has memory that behaves as a disk, so that the figures are not the disk's.

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tranship_agent::control::{
    AttachRequest, Client, ControlError, DeviceInfo, FrontEndChoice, MountRequest,
};

use crate::format::{Source, scratch, tranship};

/// The longest wait for anything on this machine.
const PATIENCE: Duration = Duration::from_mins(5);
/// How often something is looked at that is waited for.
const LOOK: Duration = Duration::from_millis(20);
/// The agent's programs, and the folder that they are run from.
const PROGRAMS: [&str; 3] = ["tranship-agent", "tranship-keeper", "tranship-device"];
const PROGRAMS_DIR: &str = "programs";
/// Attempts to have a registry listen on a port that was free a moment ago.
const PORT_ATTEMPTS: usize = 10;

/// A process that ends with its value.
#[derive(Debug)]
pub(super) struct Ended(pub(super) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Whoever wants to know how it ended has waited for it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// See the module's words.
pub(super) struct Scene {
    agent: Option<Ended>,
    runtime: Runtime,
    client: Client,
    host: String,
    _registry: Ended,
    /// Ends last.
    folder: TempDir,
}

impl Scene {
    /// Begins with an image of the files below `input`, or of the first `own_len` bytes of this machine's own.
    pub(super) fn set(input: Option<&Path>, own_len: u64) -> Result<Self> {
        let folder = scratch()?;
        let (registry, host) = registry(folder.path())?;
        let source = Source::make(input.map(Path::as_os_str), own_len, folder.path())?;
        let scene = Self {
            agent: None,
            runtime: Runtime::new().context("start a runtime")?,
            client: Client::connect(folder.path().join("agent.sock")),
            host,
            _registry: registry,
            folder,
        };
        scene.publish(&source.reference, "image")?;
        fs::create_dir(scene.path(PROGRAMS_DIR)).context("make a folder")?;
        for name in PROGRAMS {
            scene.place_program(name)?;
        }
        Ok(scene)
    }

    /// Puts a new file of one of the agent's programs in the place of the one before, as an upgrade does.
    pub(super) fn place_program(&self, name: &str) -> Result<()> {
        let beside = env::current_exe().context("find this program")?;
        let (new, place) = (self.path("new-program"), self.path(PROGRAMS_DIR).join(name));
        fs::copy(beside.with_file_name(name), &new)
            .with_context(|| format!("copy {name}, which is built beside this program"))?;
        fs::rename(new, place).with_context(|| format!("put {name} in its place"))
    }

    /// Converts an image and pushes it under `name`.
    pub(super) fn publish(&self, source: &str, name: &str) -> Result<()> {
        let target = format!("docker://{}", self.reference(name));
        tranship(&["convert", "--plain-http", source, &target])
            .with_context(|| format!("publish {name}"))?;
        Ok(())
    }

    /// What the agent is told to attach.
    pub(super) fn reference(&self, name: &str) -> String {
        format!("{}/bench/{name}:latest", self.host)
    }

    /// A path of its own.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A directory of its own.
    pub(super) fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.path(name);
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(dir)
    }

    /// Starts the agent, with devices that graduate or do not.
    pub(super) fn start(&mut self, graduate: bool) -> Result<()> {
        let config = self.path("agent.toml");
        let text = format!(
            "state_dir = \"{}\"\ncontrol_socket = \"{}\"\nhttp_listen = \"off\"\n\n[swarm]\nlisten = \"127.0.0.1:0\"\n\n[device]\nprocesses = true\ngraduate = {graduate}\ndetach_on_stop = false\n\n[prefetch]\nbackground = true\n",
            self.path("state").display(),
            self.path("agent.sock").display(),
        );
        fs::write(&config, text).context("write the agent's settings")?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("agent.log"))
            .context("open the agent's log")?;
        let child = Command::new(self.path(PROGRAMS_DIR).join("tranship-agent"))
            .args(["--print-ready", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("start tranship-agent")?;
        let mut agent = Ended(child);
        let output = agent.0.stdout.take().context("the agent's output")?;
        let mut line = String::new();
        BufReader::new(output)
            .read_line(&mut line)
            .context("read the agent's first line")?;
        let _ready: Value = serde_json::from_str(&line)
            .with_context(|| format!("the agent does not start:\n{}", self.log()))?;
        self.agent = Some(agent);
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    /// Ends the agent as a crash would.
    pub(super) fn kill(&mut self) {
        self.agent = None;
    }

    /// Asks the agent to stop and waits until it has; its devices stay.
    pub(super) fn stop(&mut self) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            kill_process(Pid::from_child(&agent.0), Signal::TERM).context("stop the agent")?;
            agent.0.wait().context("wait for the agent")?;
        }
        Ok(())
    }

    /// CPU seconds that the agent has used so far.
    pub(super) fn agent_seconds(&self) -> Result<f64> {
        let agent = self.agent.as_ref().context("an agent that runs")?;
        crate::cost::cpu_seconds_of(&agent.0.id().to_string())
    }

    /// The same with what the device's own process has used.
    pub(super) fn seconds(&self, id: &str) -> Result<f64> {
        let own = crate::cost::cpu_seconds_of(&self.process(id)?.to_string())?;
        Ok(self.agent_seconds()? + own)
    }

    /// The process that answers a device.
    pub(super) fn process(&self, id: &str) -> Result<u32> {
        let mut found = None;
        self.wait_for(id, "answered by a process", |device| {
            device.process.is_some()
        })?;
        for device in self.call(self.client.devices())? {
            if device.id == id {
                found = device.process;
            }
        }
        found.context("a device process")
    }

    /// One call of the agent's.
    pub(super) fn call<T>(&self, call: impl Future<Output = Result<T, ControlError>>) -> Result<T> {
        let answer = self.runtime.block_on(call);
        answer.with_context(|| format!("the agent refuses; it logged:\n{}", self.log()))
    }

    /// The agent's API.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// A request for the image `name`.
    pub(super) fn request(&self, name: &str, front_end: FrontEndChoice) -> AttachRequest {
        AttachRequest {
            reference: self.reference(name),
            front_end,
            plain_http: Some(true),
            unserved: None,
        }
    }

    /// Makes a device of the image.
    pub(super) fn attach(&self, front_end: FrontEndChoice) -> Result<DeviceInfo> {
        let request = self.request("image", front_end);
        self.call(self.client.attach(&request))
    }

    /// Mounts a device in a directory of its own.
    pub(super) fn mount(&self, device: &DeviceInfo, name: &str) -> Result<PathBuf> {
        let target = self.dir(name)?;
        let request = MountRequest {
            target: target.clone(),
            writable: false,
        };
        self.call(self.client.mount(&device.id, &request))?;
        Ok(target)
    }

    /// Waits until a device is as wanted.
    pub(super) fn wait_for(
        &self,
        id: &str,
        what: &str,
        is_so: impl Fn(&DeviceInfo) -> bool,
    ) -> Result<()> {
        let begun = Instant::now();
        loop {
            let devices = self.call(self.client.devices())?;
            if devices
                .iter()
                .any(|device| device.id == id && is_so(device))
            {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "device {id} is not {what}; the agent logged:\n{}",
                self.log()
            );
            thread::sleep(LOOK);
        }
    }

    /// Takes all devices and the agent away.
    pub(super) fn end(mut self) -> Result<()> {
        for device in self.call(self.client.devices())? {
            self.call(self.client.detach_by_force(&device.id))?;
        }
        self.stop()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // After an error: what is attached must not outlive the folder that it stands on.
        if self.agent.is_some()
            && let Ok(devices) = self.runtime.block_on(self.client.devices())
        {
            for device in devices {
                let _ = self
                    .runtime
                    .block_on(self.client.detach_by_force(&device.id));
            }
        }
        let _ = self.stop();
    }
}

/// An empty registry on a free port of loopback.
fn registry(folder: &Path) -> Result<(Ended, String)> {
    for _ in 0..PORT_ATTEMPTS {
        // It cannot say which port it took, so that a free one is chosen for it; another may be faster to take that.
        let address = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .context("find a free port")?;
        let config = folder.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            folder.join("registry").display()
        );
        fs::write(&config, text).context("write the registry's settings")?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start docker-registry; is it installed?")?;
        let mut registry = Ended(child);
        let begun = Instant::now();
        while matches!(registry.0.try_wait(), Ok(None)) && begun.elapsed() < PATIENCE {
            if TcpStream::connect(address).is_ok() {
                return Ok((registry, address.to_string()));
            }
            thread::sleep(LOOK);
        }
    }
    anyhow::bail!("docker-registry did not answer on any of {PORT_ATTEMPTS} ports")
}
