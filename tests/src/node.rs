//! A node: an agent that is containerd's snapshotter, and containerd.
//!
//! What both leave in the kernel and on disk is looked for here, since whoever tests or measures a node wants to know that it is clean.

use crate::cluster::{AgentOptions, Cluster};
use crate::command::tranship;
use crate::containerd::{Containerd, mounts_below, until, until_none};
use crate::leftovers::{loops, mounts};
use rustix::process::Pid;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long things take to go in the ordinary way; whatever stays longer is asked about.
const ASKED_AFTER: Duration = Duration::from_secs(30);

/// The socket on which the agent answers the kubelet's calls about images.
const IMAGES: &str = "images.sock";

/// An agent and containerd; both end with the value, with everything that they mounted.
#[derive(Debug)]
pub struct Node {
    /// Dropped first: its containers stand on the agent's mounts.
    pub containerd: Containerd,
    /// The one agent and its folder.
    pub cluster: Cluster,
    /// The snapshotter's folder.
    pub root: PathBuf,
}

impl Node {
    /// Starts both. `pause` is the image that pods stand on; `snapshotter` are lines of that section of the agent's settings, after
    /// which others may follow.
    pub fn start(pause: &str, snapshotter: &str) -> Self {
        Self::start_by_way_of(pause, snapshotter, |socket, _| socket.to_path_buf())
    }

    /// The same; `way` is told the snapshotter's socket and folder, and says at which socket containerd calls.
    pub fn start_by_way_of(
        pause: &str,
        snapshotter: &str,
        way: impl FnOnce(&Path, &Path) -> PathBuf,
    ) -> Self {
        let mut cluster = Cluster::empty();
        let folder = cluster.folder().to_path_buf();
        let (root, socket) = (folder.join("snapshots"), folder.join("snapshotter.sock"));
        let (images, containerd) = (folder.join(IMAGES), folder.join("containerd.sock"));
        cluster.start_agent(&AgentOptions {
            extra: format!(
                "\n[image_service]\nsocket = {images:?}\ncontainerd = {containerd:?}\n\n[device]\nagent_patience = \"20s\"\n\n[snapshotter]\nsocket = {socket:?}\nroot = {root:?}\n{snapshotter}"
            ),
            ..AgentOptions::default()
        });
        let started = Containerd::start(&way(&socket, &root), pause);
        symlink(started.socket(), containerd).expect("a name for containerd's socket");
        Self {
            containerd: started,
            cluster,
            root,
        }
    }

    /// Where the agent answers the kubelet's calls about images.
    pub fn image_socket(&self) -> PathBuf {
        self.cluster.folder().join(IMAGES)
    }

    /// containerd leaves a socket alone for a while on which nobody answered; one that systemd holds is never like that.
    pub fn wait_for_snapshotter(&self) {
        let list = ["snapshots", "--snapshotter", "tranship", "ls"];
        until("containerd finds the snapshotter again", || {
            self.containerd.try_ctr("test", &list).is_ok()
        });
    }

    /// `tranship pull` into a namespace; what it says, as JSON.
    pub fn pull(&self, namespace: &str, reference: &str) -> Value {
        let socket = self.containerd.socket();
        let printed = tranship(&[
            "pull",
            "--plain-http",
            "--output",
            "json",
            "--containerd",
            &socket.to_string_lossy(),
            "--namespace",
            namespace,
            reference,
        ]);
        serde_json::from_str(&printed).expect("JSON")
    }

    /// Removes images, and waits until nothing of any is left.
    pub fn remove_all(&self, images: &[(&str, &str)]) {
        for (namespace, image) in images {
            self.containerd
                .ctr(namespace, &["images", "rm", "--sync", image]);
        }
        // In the kubelet's namespace containerd names each image by the digest of its configuration as well.
        let listed = self.containerd.ctr("k8s.io", &["images", "ls", "-q"]);
        for name in listed.lines().filter(|name| name.starts_with("sha256:")) {
            self.containerd
                .ctr("k8s.io", &["images", "rm", "--sync", name]);
        }
        self.wait_until_clean();
    }

    /// Waits until nothing is left of any snapshot; stops the test with what is left, and with what containerd has on record.
    pub fn wait_until_clean(&self) {
        let begun = Instant::now();
        until_none("snapshots, mounts and devices go", || {
            let mut left = self.leftovers();
            if !left.is_empty() && begun.elapsed() > ASKED_AFTER {
                left.push(self.containerd.records());
            }
            left
        });
    }

    /// Folders, mounts, loop devices, processes and devices that are there for snapshots, each with what it is.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> = Vec::new();
        let folders = fs::read_dir(self.root.join("snapshots")).expect("a folder");
        left.extend(folders.flatten().map(|entry| noted(&entry.path())));
        left.extend(mounts(self.cluster.folder()));
        left.extend(loops(self.cluster.folder()));
        left.extend(self.containerd.shims().into_iter().map(process));
        let agent = &self.cluster.agents[0];
        for call in ["/v1/devices", "/v1/orphans"] {
            let listed = agent.call("GET", call, "");
            let listed = listed.as_array().expect("a list").iter();
            left.extend(listed.map(ToString::to_string));
        }
        let records = fs::read_dir(agent.folder().join("state/devices")).expect("a folder");
        left.extend(
            records
                .flatten()
                .map(|entry| entry.path().display().to_string()),
        );
        left
    }

    /// Images that were looked at with this outcome.
    pub fn images(&self, reason: &str) -> f64 {
        let label = format!("reason=\"{reason}\"");
        self.cluster.agents[0].counter("tranship_snapshot_images", &label)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Containers stand on the agent's mounts, which outlive it as long as they are held.
        self.containerd.end();
        self.cluster.agents[0].stop();
        for mount in mounts_below(self.cluster.folder()).iter().rev() {
            drop(Command::new("umount").arg("--lazy").arg(mount).status());
        }
    }
}

/// A snapshot's folder, and what it says that it is of.
fn noted(folder: &Path) -> String {
    let note = fs::read(folder.join("snapshot.json")).unwrap_or_default();
    let note: Value = serde_json::from_slice(&note).unwrap_or_default();
    format!(
        "{}: {} {} on {}",
        folder.display(),
        note["kind"],
        note["name"],
        note["parent"]
    )
}

/// A process and what it was started with.
fn process(pid: Pid) -> String {
    let path = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
    let line = fs::read_to_string(path).unwrap_or_default();
    format!("process {pid:?}: {}", line.replace('\0', " "))
}
