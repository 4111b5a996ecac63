//! containerd, runc and our snapshotter: images start lazily by either reference, ordinary ones are unpacked, everything goes when it is
//! removed, and crashes on any side leave everything usable.

mod image;
mod pods;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::{AppImage, DATA_LEN};
use tranship_tests::command::tranship_output;
use tranship_tests::containerd::{Containerd, mounts_below, until};
use tranship_tests::{AgentOptions, Cluster, tranship};

/// A registry with the images, an agent that is containerd's snapshotter, and containerd.
struct Node {
    /// Dropped first: its containers stand on the agent's mounts.
    containerd: Containerd,
    cluster: Cluster,
    image: AppImage,
    root: PathBuf,
}

impl Node {
    fn start() -> Self {
        Self::with(AppImage::make(), "")
    }

    fn with(image: AppImage, extra: &str) -> Self {
        let mut cluster = Cluster::empty();
        let folder = cluster.folder().to_path_buf();
        let (root, socket) = (folder.join("snapshots"), folder.join("snapshotter.sock"));
        cluster.start_agent(&AgentOptions {
            extra: format!("\n[device]\nagent_patience = \"20s\"\n\n[snapshotter]\nsocket = \"{}\"\nroot = \"{}\"\n{extra}", socket.display(), root.display()),
            ..AgentOptions::default()
        });
        let containerd = Containerd::start(&socket, &image.pause());
        Self {
            containerd,
            cluster,
            image,
            root,
        }
    }

    /// containerd leaves a socket alone for a while on which nobody answered; one that systemd holds is never like that.
    fn wait_for_snapshotter(&self) {
        let list = ["snapshots", "--snapshotter", "tranship", "ls"];
        until("containerd finds the snapshotter again", || {
            self.containerd.try_ctr("test", &list).is_ok()
        });
    }

    fn pull(&self, namespace: &str, reference: &str) -> serde_json::Value {
        let socket = self.containerd.socket();
        let printed = tranship(&[
            "pull",
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

    /// The sum of the data file, taken in a container.
    fn sum(&self, namespace: &str, reference: &str, id: &str) -> String {
        let said = self
            .containerd
            .run(namespace, reference, id, &["/bin/md5sum", "/data"]);
        said.split(' ').next().unwrap_or_default().to_owned()
    }

    /// Removes images, and waits until nothing of any is left.
    fn remove_all(&self, images: &[(&str, &str)]) {
        for (namespace, image) in images {
            self.containerd
                .ctr(namespace, &["images", "rm", "--sync", image]);
        }
        until("snapshots, mounts and devices go", || {
            self.leftovers().is_empty()
        });
    }

    fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> = Vec::new();
        let folders = fs::read_dir(self.root.join("snapshots")).expect("a folder");
        left.extend(
            folders
                .flatten()
                .map(|entry| entry.path().display().to_string()),
        );
        let mounts = mounts_below(self.cluster.folder());
        left.extend(mounts.iter().map(|path| path.display().to_string()));
        left.extend(loops(self.cluster.folder()));
        left.extend(self.containerd.shims().iter().map(|pid| format!("{pid:?}")));
        let devices = self.cluster.agents[0].call("GET", "/v1/devices", "");
        left.extend(
            devices
                .as_array()
                .expect("a list")
                .iter()
                .map(ToString::to_string),
        );
        left
    }

    fn images(&self, reason: &str) -> f64 {
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

/// Loop devices on files below a folder.
fn loops(folder: &Path) -> Vec<String> {
    let devices = fs::read_dir("/sys/block").expect("/sys/block").flatten();
    let files = devices
        .filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files
        .filter(|file| Path::new(file.trim()).starts_with(folder))
        .collect()
}

#[test]
fn an_image_starts_lazily_by_its_own_reference_and_by_its_originals() {
    let node = Node::start();
    let (lazy, both) = (node.image.converted(), node.image.beside());
    for (reference, how) in [(&lazy, "converted"), (&both, "sibling")] {
        let before = node.image.registry.sent_len();
        let pulled = node.pull("test", reference);
        assert_eq!(
            (&pulled["lazy"], &pulled["unpacked"]),
            (&2.into(), &0.into()),
            "{pulled}"
        );
        let said = node
            .containerd
            .run("test", reference, "hello", &["/bin/cat", "/etc/greeting"]);
        assert_eq!(said, "hello from the upper layer\n");
        let fetched = node.image.registry.sent_len() - before;
        println!("{how}: {fetched} bytes of an image of {DATA_LEN} and more");
        assert!(fetched < DATA_LEN / 2, "{how}: {fetched} bytes is not lazy");
        assert!(node.images(how) >= 1.0);
    }
    // By its original's reference in a second namespace, to which nobody asks the registry for a layer.
    let pulled = node.pull("other", &both);
    assert_eq!(pulled["lazy"], 2, "{pulled}");
    assert_eq!(node.sum("other", &both, "sum"), node.image.data_sum);
    assert_eq!(node.sum("test", &both, "sum"), node.image.data_sum);
    node.remove_all(&[("test", &lazy), ("test", &both), ("other", &both)]);
}

#[test]
fn an_ordinary_image_is_unpacked_by_the_same_snapshotter() {
    let node = Node::start();
    let plain = node.image.original();
    // Without a word of ours: containerd's own client knows nothing of lazy layers.
    let pull = [
        "images",
        "pull",
        "--plain-http",
        "--snapshotter",
        "tranship",
        &plain,
    ];
    node.containerd.ctr("test", &pull);
    assert_eq!(node.sum("test", &plain, "own-client"), node.image.data_sum);
    node.remove_all(&[("test", &plain)]);
    let pulled = node.pull("test", &plain);
    assert_eq!(
        (&pulled["lazy"], &pulled["unpacked"]),
        (&0.into(), &2.into()),
        "{pulled}"
    );
    assert!(node.images("not-converted") >= 1.0);
    assert_eq!(node.sum("test", &plain, "ours"), node.image.data_sum);
    let said = node.containerd.run(
        "test",
        &plain,
        "written",
        &[
            "/bin/sh",
            "-c",
            "echo new > /etc/greeting && rm /data && cat /etc/greeting",
        ],
    );
    assert_eq!(said, "new\n");
    node.remove_all(&[("test", &plain)]);
}

#[test]
fn an_image_of_a_repository_that_must_be_lazy_is_not_unpacked() {
    let image = AppImage::make();
    let extra = format!("require_lazy = [\"{}/test\"]\n", image.registry.host());
    let node = Node::with(image, &extra);
    let socket = node.containerd.socket().to_string_lossy().into_owned();
    let plain = node.image.original();
    let (code, _, said) = tranship_output(&["pull", "--containerd", &socket, &plain]);
    assert_ne!(code, 0);
    assert!(said.contains("snapshotter.require_lazy"), "{said}");
    let pulled = node.pull("test", &node.image.beside());
    assert_eq!(pulled["lazy"], 2, "{pulled}");
}

#[test]
fn a_crash_of_the_agent_is_not_seen_by_containers_and_hinders_none() {
    let mut node = Node::start();
    let both = node.image.beside();
    node.pull("test", &both);
    let run = [
        "run",
        "--detach",
        "--snapshotter",
        "tranship",
        &both,
        "long",
        "/bin/sleep",
        "1000",
    ];
    node.containerd.ctr("test", &run);
    node.cluster.agents[0].restart();
    let exec = [
        "tasks",
        "exec",
        "--exec-id",
        "sum",
        "long",
        "/bin/md5sum",
        "/data",
    ];
    let said = node.containerd.ctr("test", &exec);
    assert!(said.starts_with(&node.image.data_sum), "{said}");
    node.wait_for_snapshotter();
    assert_eq!(node.sum("test", &both, "after"), node.image.data_sum);

    // The database is lost, and containerd dies as well.
    node.cluster.agents[0].kill();
    fs::remove_file(node.root.join("metadata.redb")).expect("a removed database");
    node.cluster.agents[0].restart();
    node.containerd.restart();
    node.wait_for_snapshotter();
    assert_eq!(node.sum("test", &both, "again"), node.image.data_sum);
    node.pull("test", &both);
    node.containerd
        .ctr("test", &["tasks", "rm", "--force", "long"]);
    node.containerd.ctr("test", &["containers", "rm", "long"]);
    node.remove_all(&[("test", &both)]);
}
