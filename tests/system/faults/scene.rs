//! An image mounted by one agent, or attached to a socket, and what can be done to the agent, its keeper and its device's process.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tranship_tests::registry::DockerRegistry;
use tranship_tests::{Agent, AgentOptions, Cluster, run, tranship};

use super::image;
use super::readers::Readers;

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_mins(1);

/// See the module's words.
pub(crate) struct Scene {
    cluster: Cluster,
    pub(crate) front_end: String,
    pub(crate) target: TempDir,
    pub(crate) reference: String,
    pub(crate) registry: Arc<DockerRegistry>,
    /// What the device should hold, where it is read through a socket.
    bytes: Option<Arc<Vec<u8>>>,
    /// Why the last fault did not happen, where this machine did not let it.
    pub(crate) left_out: Option<&'static str>,
    /// The store's directory, where it has a filesystem of its own.
    small_disk: Option<PathBuf>,
}

impl Scene {
    /// An image in a registry of its own, and an agent with `extra` settings that has it mounted.
    pub(crate) fn set(front_end: &str, extra: &str) -> Self {
        let registry = Arc::new(DockerRegistry::start());
        let reference = image::convert(&registry);
        let options = AgentOptions {
            extra: extra.to_owned(),
            ..AgentOptions::default()
        };
        Self::of(&registry, &reference, front_end, &options, None)
    }

    /// The same with an image that is there, and a disk of that size for the store (`32m`) if it is to have one.
    pub(crate) fn of(
        registry: &Arc<DockerRegistry>,
        reference: &str,
        front_end: &str,
        options: &AgentOptions,
        disk: Option<&str>,
    ) -> Self {
        let mut cluster = Cluster::empty();
        let small_disk = disk.map(|size| {
            let store = cluster.folder().join("agent-0/store");
            fs::create_dir_all(&store).expect("a folder");
            let (size, path) = (format!("size={size}"), store.to_string_lossy());
            run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &path]);
            store
        });
        cluster.start_agent(options);
        let bytes = (front_end == "nbd").then(|| Arc::new(image::device_bytes(reference)));
        let scene = Self {
            cluster,
            front_end: front_end.to_owned(),
            target: tempfile::tempdir().expect("a mount point"),
            reference: reference.to_owned(),
            registry: Arc::clone(registry),
            bytes,
            left_out: None,
            small_disk,
        };
        scene.attach();
        scene
    }

    /// Has the agent mount the image, or attach it to its socket.
    pub(crate) fn attach(&self) {
        let (socket, path) = (self.agent_socket(), self.target_path());
        let with = ["--agent", &socket, "--front-end", &self.front_end];
        if self.bytes.is_some() {
            tranship(&[&["attach"], &with[..], &[&self.reference]].concat());
        } else {
            tranship(&[&["mount"], &with[..], &[&self.reference, &path]].concat());
        }
    }

    /// Takes the device away if it is there, whoever reads it.
    pub(crate) fn detach_if_there(&self) {
        if self.device().is_object() {
            let socket = self.agent_socket();
            tranship(&["detach", "--agent", &socket, "--force", &self.reference]);
        }
    }

    /// Puts other words into the agent's settings, for its next start.
    pub(crate) fn configure(&mut self, before: &str, after: &str) {
        let path = self.agent().folder().join("agent.toml");
        let text = fs::read_to_string(&path).expect("a configuration");
        assert!(text.contains(before), "{text}");
        fs::write(path, text.replace(before, after)).expect("a configuration");
    }

    /// Has the store leave nothing of its disk free, from the agent's next start on, and have that start now.
    pub(crate) fn use_all_of_the_disk(&mut self) {
        let quota = "quota = \"8GiB\"\n";
        self.configure(quota, &format!("{quota}free_floor = \"0B\"\n"));
        self.agent().restart();
    }

    pub(crate) fn readers(&self) -> Readers {
        match &self.bytes {
            None => Readers::start(self.target.path()),
            Some(bytes) => {
                let device = self.device();
                let path = device["path"].as_str().expect("the socket's path");
                Readers::of_socket(Path::new(path), bytes)
            }
        }
    }

    /// Whether the kernel reads the device, and its mount is what one sees.
    pub(crate) fn is_mounted(&self) -> bool {
        self.bytes.is_none()
    }

    pub(crate) fn agent(&mut self) -> &mut Agent {
        &mut self.cluster.agents[0]
    }

    /// What its agents have said.
    pub(crate) fn log(&self) -> String {
        self.cluster.agents[0].log()
    }

    /// The store's directory.
    pub(crate) fn store(&self) -> PathBuf {
        self.cluster.agents[0].folder().join("store")
    }

    /// The one device, as the agent tells of it.
    pub(crate) fn device(&self) -> Value {
        self.cluster.agents[0].call("GET", "/v1/devices", "")[0].take()
    }

    /// The process of the one device.
    pub(crate) fn process(&self) -> Pid {
        let begun = Instant::now();
        loop {
            let device = self.device();
            let process = device["process"].as_i64();
            if let Some(pid) = process.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                return pid;
            }
            self.check(begun, &format!("the device has no process: {device}"));
        }
    }

    /// The process of the one device once it is another than `before`.
    pub(crate) fn next_process(&self, before: Pid) -> Pid {
        let begun = Instant::now();
        loop {
            let process = self.process();
            if process != before {
                return process;
            }
            self.check(begun, "no new device process came");
        }
    }

    /// The process id of the agent's keeper.
    pub(crate) fn keeper(&self) -> Pid {
        let socket = self.cluster.agents[0]
            .folder()
            .join("state/run/keeper.sock");
        let socket = socket.to_string_lossy().into_owned();
        let begun = Instant::now();
        loop {
            for entry in fs::read_dir("/proc").expect("/proc").flatten() {
                let Some(pid) = entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse().ok())
                else {
                    continue;
                };
                let mut command = String::new();
                // It may be gone by now.
                let read = File::open(entry.path().join("cmdline"))
                    .and_then(|mut file| file.read_to_string(&mut command));
                if read.is_ok() && command.contains("--stay") && command.contains(&socket) {
                    return Pid::from_raw(pid).expect("a process id");
                }
            }
            self.check(begun, "there is no keeper");
        }
    }

    /// Kills the keeper and waits until there is another that holds everything again.
    pub(crate) fn kill_keeper(&self) {
        let before = self.keeper();
        let known = self.new_keepers();
        kill_process(before, Signal::KILL).expect("a keeper that is killed");
        let begun = Instant::now();
        while self.new_keepers() == known {
            self.check(begun, "no new keeper came");
        }
        assert_ne!(self.keeper(), before);
    }

    fn new_keepers(&self) -> usize {
        let log = self.cluster.agents[0].log();
        log.matches("there is a new one").count()
    }

    /// Fails when something is waited for since `begun` that does not come.
    pub(crate) fn check(&self, begun: Instant, what: &str) {
        assert!(
            begun.elapsed() < PATIENCE,
            "{}: {what}\n{}",
            self.front_end,
            self.cluster.agents[0].log()
        );
        thread::yield_now();
    }

    fn agent_socket(&self) -> String {
        self.cluster.agents[0].socket()
    }

    fn target_path(&self) -> String {
        self.target.path().to_string_lossy().into_owned()
    }

    pub(crate) fn end(self) {
        self.end_with(|| ());
    }

    /// Takes everything down, whatever the agent has logged of what happened to it.
    pub(crate) fn end_after_faults(self) {
        self.take_down();
        let devices = self.cluster.agents[0].call("GET", "/v1/devices", "");
        assert_eq!(devices, serde_json::json!([]));
        let log = self.cluster.agents[0].log();
        assert!(!log.contains("made anew"), "the agent logged:\n{log}");
    }

    fn take_down(&self) {
        let (socket, path) = (self.agent_socket(), self.target_path());
        if self.is_mounted() {
            tranship(&["umount", "--agent", &socket, &path]);
        }
        tranship(&["detach", "--agent", &socket, &self.reference]);
    }

    /// Takes everything down, has `look` look while the agent is there, and looks at its log.
    pub(crate) fn end_with(mut self, look: impl FnOnce()) {
        self.take_down();
        look();
        let log = self.agent().log();
        for sign in ["made anew", "fails", "is stale"] {
            assert!(!log.contains(sign), "the agent logged:\n{log}");
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(store) = self.small_disk.take() {
            self.cluster.agents[0].stop();
            // Whatever a test that failed has left there goes with its last user.
            let path = store.to_string_lossy();
            run("umount", &["--lazy", &path]);
        }
    }
}
