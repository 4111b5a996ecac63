//! A containerd of one's own: its own root, state and sockets, our snapshotter for all images, and nothing left when it ends.

use crate::command::{need_tools, run};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tranship_containerd::connect;
use tranship_containerd::tonic::transport::Channel;

/// How long containerd is waited for.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running containerd; it, its containers and what they left end with the value.
#[derive(Debug)]
pub struct Containerd {
    process: Child,
    folder: TempDir,
}

impl Containerd {
    /// Starts it with the snapshotter at `socket`; pods of the container runtime interface stand on the image `pause`.
    pub fn start(socket: &Path, pause: &str) -> Self {
        need_tools(&["containerd", "ctr", "runc"]);
        let folder = tempfile::tempdir().expect("a scratch folder");
        // Containers with users of their own go through it to their roots.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).expect("a mode");
        fs::write(
            folder.path().join("config.toml"),
            config(folder.path(), socket, pause),
        )
        .expect("a configuration");
        let process = spawn(folder.path());
        let containerd = Self { process, folder };
        containerd.wait();
        containerd
    }

    fn wait(&self) {
        until("containerd answers", || {
            UnixStream::connect(self.socket()).is_ok()
                && self
                    .command(&["--namespace", "default", "version"])
                    .output()
                    .is_ok_and(|output| output.status.success())
        });
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("containerd.sock")
    }

    /// Has pods' images of the registry at `host` come without TLS; those on this machine do anyway.
    pub fn speak_plainly_to(&self, host: &str) {
        let folder = self.folder.path().join("certs.d").join(host);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(
            folder.join("hosts.toml"),
            format!(
                "server = \"http://{host}\"\n[host.\"http://{host}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
            ),
        )
        .expect("a configuration");
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Ends it at once, as a crash would, and starts it again; containers run on.
    pub fn restart(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        self.process = spawn(self.folder.path());
        self.wait();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.socket()).args(args);
        command
    }

    /// Runs `ctr` in a namespace and returns what it printed; stops the test where it failed.
    pub fn ctr(&self, namespace: &str, args: &[&str]) -> String {
        let socket = self.socket().to_string_lossy().into_owned();
        let all = [&["--address", &socket, "--namespace", namespace], args].concat();
        run("ctr", &all)
    }

    /// The same; what it said, failed or not.
    pub fn try_ctr(&self, namespace: &str, args: &[&str]) -> Result<String, String> {
        let output = self
            .command(&[&["--namespace", namespace], args].concat())
            .output()
            .expect("ctr starts");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Runs a command in a container of an image to its end, and returns what it printed.
    pub fn run(&self, namespace: &str, image: &str, id: &str, command: &[&str]) -> String {
        let args = ["run", "--rm", "--snapshotter", "tranship", image, id];
        self.ctr(namespace, &[&args, command].concat())
    }

    /// A connection to it, for calls that `ctr` does not have.
    pub async fn channel(&self) -> Channel {
        connect(&self.socket()).await.expect("a connection")
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("containerd.log")).unwrap_or_default()
    }

    /// Ends what still runs in a namespace.
    fn clear(&self, namespace: &str) {
        let listed = |args: &[&str]| self.try_ctr(namespace, args).unwrap_or_default();
        for task in listed(&["tasks", "ls", "-q"]).lines() {
            // It may end by itself meanwhile.
            let _ = self.try_ctr(namespace, &["tasks", "rm", "-f", task]);
        }
        for container in listed(&["containers", "ls", "-q"]).lines() {
            let _ = self.try_ctr(namespace, &["containers", "rm", container]);
        }
    }

    /// What it has on record in each namespace, for people.
    pub fn records(&self) -> String {
        let namespaces = self.try_ctr("default", &["namespaces", "ls", "-q"]);
        let namespaces = namespaces.unwrap_or_else(|said| said);
        let mut text = String::new();
        for namespace in namespaces.lines() {
            for verb in [
                &["leases", "ls"][..],
                &["images", "ls", "-q"],
                &["containers", "ls", "-q"],
                &["tasks", "ls"],
                &["snapshots", "--snapshotter", "tranship", "ls"],
            ] {
                let said = self.try_ctr(namespace, verb);
                let said = said.unwrap_or_else(|said| said);
                let _ = writeln!(text, "{namespace}: {}:\n{said}", verb.join(" "));
            }
        }
        text
    }

    /// Gives back leases of clients that died, as time would, and has what nobody wants collected.
    pub fn collect(&self, namespace: &str) {
        let leases = self.ctr(namespace, &["leases", "ls", "-q"]);
        for lease in leases.lines() {
            // One whose client still lives is given back by that.
            let _ = self.try_ctr(namespace, &["leases", "rm", lease]);
        }
        self.ctr(namespace, &["leases", "create", "--id", "last"]);
        self.ctr(namespace, &["leases", "rm", "--sync", "last"]);
    }

    /// Ends what still runs of containers that it does not know any more: one that went while it was away leaves a task that
    /// containerd 1.6 has nobody to ask to remove.
    pub fn end_lost_tasks(&self, namespace: &str) {
        for shim in self.shims() {
            // Gone already is as good.
            let _ = kill_process(shim, Signal::KILL);
        }
        until("lost tasks end", || {
            let tasks = self.try_ctr(namespace, &["tasks", "ls", "-q"]);
            self.shims().is_empty() && tasks.is_ok_and(|tasks| tasks.is_empty())
        });
    }

    /// Processes that keep containers of this containerd.
    pub fn shims(&self) -> Vec<Pid> {
        let ours = self.folder.path().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            let pid = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok());
            if line.contains("containerd-shim") && line.contains(&ours) {
                found.extend(pid.and_then(Pid::from_raw));
            }
        }
        found
    }
}

impl Containerd {
    /// Ends all containers, then containerd itself.
    pub fn end(&mut self) {
        if !matches!(self.process.try_wait(), Ok(None)) {
            return;
        }
        let namespaces = self.try_ctr("default", &["namespaces", "ls", "-q"]);
        for namespace in namespaces.unwrap_or_default().lines() {
            self.clear(namespace);
        }
        drop(self.process.kill());
        drop(self.process.wait());
        for shim in self.shims() {
            // Gone already is as good.
            let _ = kill_process(shim, Signal::KILL);
        }
        for mount in mounts_below(self.folder.path()).iter().rev() {
            drop(Command::new("umount").arg("--lazy").arg(mount).status());
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where something is mounted below a folder.
pub fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the table of mounts");
    let targets = table.lines().filter_map(|line| line.split(' ').nth(4));
    targets
        .map(PathBuf::from)
        .filter(|target| target.starts_with(folder))
        .collect()
}

/// Waits until something is so; stops the test when it never is.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Waits until nothing is left; stops the test with all that still is when that never happens.
pub fn until_none(what: &str, mut left: impl FnMut() -> Vec<String>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = left();
        if left.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: not within {PATIENCE:?}; there is still\n{}",
            left.join("\n")
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn spawn(folder: &Path) -> Child {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("containerd.log"))
        .expect("a log file");
    Command::new("containerd")
        .arg("--config")
        .arg(folder.join("config.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log file"))
        .stderr(log)
        .spawn()
        .expect("containerd starts")
}

fn config(folder: &Path, snapshotter: &Path, pause: &str) -> String {
    let mut text = String::from("version = 2\n");
    let folder = folder.display();
    let _ = write!(
        text,
        r#"root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{folder}/containerd.sock"
[ttrpc]
  address = "{folder}/containerd.ttrpc.sock"
[proxy_plugins.tranship]
  type = "snapshot"
  address = "{}"
[plugins."io.containerd.gc.v1.scheduler"]
  schedule_delay = "0s"
  startup_delay = "100ms"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stats_collect_period = 1
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{folder}/certs.d"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{folder}/cni/bin"
    conf_dir = "{folder}/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "tranship"
    disable_snapshot_annotations = false
"#,
        snapshotter.display()
    );
    text
}
