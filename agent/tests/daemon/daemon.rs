//! One daemon process in a folder of its own, and everything of it gone when the test ends, however it ends.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tranship_agent::control::{
    AttachRequest, Client, ControlError, DeviceInfo, FrontEndChoice, MountInfo, MountRequest,
    ReadyLine,
};
use tranship_device::mount;

pub(crate) struct Daemon {
    pub(crate) folder: TempDir,
    process: Option<Child>,
    ready: Option<ReadyLine>,
    runtime: Runtime,
}

impl Daemon {
    /// Starts one with lines added to its settings.
    pub(crate) fn start(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut daemon = Self {
            folder,
            process: None,
            ready: None,
            runtime: Runtime::new().unwrap(),
        };
        let path = |name: &str| daemon.folder.path().join(name);
        let text = format!(
            "state_dir = \"{}\"\ncontrol_socket = \"{}\"\nhttp_listen = \"127.0.0.1:0\"\n[swarm]\nlisten = \"127.0.0.1:0\"\n{settings}\n",
            path("state").display(),
            path("agent.sock").display(),
        );
        fs::write(path("agent.toml"), text).unwrap();
        daemon.restart();
        daemon
    }

    /// Starts it, again, in its folder.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let own = self.path("bin/tranship-agent");
        let program = if own.exists() {
            own
        } else {
            env!("CARGO_BIN_EXE_tranship-agent").into()
        };
        let mut process = Command::new(program)
            .args(["--print-ready", "--config"])
            .arg(self.path("agent.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = process.stdout.take().unwrap();
        self.process = Some(process);
        BufReader::new(out).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line);
        self.ready =
            Some(ready.unwrap_or_else(|_| panic!("no ready line; the log:\n{}", self.log())));
    }

    /// From its next start on it runs from a folder of its own, where `device_program` is that of device processes.
    pub(crate) fn have_programs(&self, device_program: &Path) {
        let dir = self.path("bin");
        fs::create_dir(&dir).unwrap();
        for (program, name) in [
            (env!("CARGO_BIN_EXE_tranship-agent"), "tranship-agent"),
            (env!("CARGO_BIN_EXE_tranship-keeper"), "tranship-keeper"),
            (device_program.to_str().unwrap(), "tranship-device"),
        ] {
            fs::copy(program, dir.join(name)).unwrap();
        }
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Whether a keeper of this daemon's is still there a little later.
    pub(crate) fn has_keeper(&self) -> bool {
        let begun = Instant::now();
        while self.keeper().is_some() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        self.keeper().is_some()
    }

    /// Whether there is a keeper of this daemon's, a little later at the latest.
    pub(crate) fn keeper_comes(&self) -> bool {
        let begun = Instant::now();
        while self.keeper().is_none() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        self.keeper().is_some()
    }

    /// Ends the keeper as a crash would, and waits until it is gone.
    pub(crate) fn kill_keeper(&self) {
        let pid = self.keeper().unwrap();
        let killed = Command::new("kill").args(["-KILL", &pid]).status();
        assert!(killed.unwrap().success());
        let begun = Instant::now();
        while self.keeper() == Some(pid.clone()) {
            assert!(begun.elapsed() < Duration::from_secs(10), "it lives on");
            std::thread::yield_now();
        }
    }

    /// The process id of its keeper.
    fn keeper(&self) -> Option<String> {
        let socket = self.path("state/run/keeper.sock");
        let socket = socket.to_string_lossy();
        let mut processes = fs::read_dir("/proc").unwrap().flatten();
        processes.find_map(|process| {
            // It may be gone by now.
            let command = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
            let is_it = command.contains("--stay") && command.contains(&*socket);
            is_it.then(|| process.file_name().to_string_lossy().into_owned())
        })
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let pid = process.id().to_string();
            assert!(
                Command::new("kill")
                    .args(["-TERM", &pid])
                    .status()
                    .unwrap()
                    .success()
            );
            assert!(process.wait().unwrap().success(), "{}", self.log());
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.path("agent.sock"))
    }

    pub(crate) fn call<T>(
        &self,
        call: impl Future<Output = Result<T, ControlError>>,
    ) -> Result<T, ControlError> {
        self.runtime.block_on(call)
    }

    /// Says what a call gave, or stops the test with the daemon's log.
    pub(crate) fn must<T>(&self, call: impl Future<Output = Result<T, ControlError>>) -> T {
        self.call(call)
            .unwrap_or_else(|error| panic!("{error}; the log:\n{}", self.log()))
    }

    pub(crate) fn attach(&self, reference: &str, front_end: FrontEndChoice) -> DeviceInfo {
        let request = request(reference, front_end);
        self.must(self.client().attach(&request))
    }

    pub(crate) fn attach_fails(&self, reference: &str, front_end: FrontEndChoice) -> ControlError {
        let request = request(reference, front_end);
        self.call(self.client().attach(&request)).unwrap_err()
    }

    pub(crate) fn mount(&self, device: &DeviceInfo, name: &str, writable: bool) -> PathBuf {
        let target = self.path(name);
        let request = MountRequest {
            target: target.clone(),
            writable,
        };
        self.must(self.client().mount(&device.id, &request));
        target
    }

    pub(crate) fn unmount(&self, target: &Path) -> MountInfo {
        self.must(self.client().unmount(target))
    }

    /// Body of an HTTP answer, with its status line.
    pub(crate) fn http(&self, path: &str) -> String {
        let address = self.ready.as_ref().unwrap().http.clone().unwrap();
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The sum of a metric's samples that have `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> u64 {
        self.http("/metrics")
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// Mounts below its folder.
    pub(crate) fn mounts(&self) -> Vec<PathBuf> {
        let folder = self.folder.path().canonicalize().unwrap();
        mount::entries()
            .unwrap()
            .into_iter()
            .map(|entry| entry.target)
            .filter(|target| target.starts_with(&folder))
            .collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = Command::new("kill")
                .args(["-TERM", &process.id().to_string()])
                .status();
            let _ = process.wait();
        }
        for target in self.mounts().iter().rev() {
            let _ = mount::unmount_by_force(target);
        }
    }
}

fn request(reference: &str, front_end: FrontEndChoice) -> AttachRequest {
    AttachRequest {
        reference: reference.to_owned(),
        front_end,
        plain_http: None,
        unserved: None,
    }
}
