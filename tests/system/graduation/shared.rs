//! Two graduated images with a layer in common, on a filesystem whose files can share blocks: the second takes little more of the disk
//! than what it has alone, and neither notices the other.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::statvfs;
use serde_json::Value;
use tempfile::TempDir;
use tranship_tests::registry::DockerRegistry;
use tranship_tests::{Agent, AgentOptions, Cluster, need_tools, run, tranship};

use super::ALLOWED;
use crate::faults::{FILE_COUNT, Readers, content, convert_layers, device_bytes, name};

/// Files that each image has besides those of the layer in common.
const OWN_COUNT: usize = 4;
/// XFS wants 300 MiB, and a plain file takes no more than half of what is free.
const DISK_LEN: u64 = 512 << 20;

/// An agent whose state is on a filesystem of its own.
struct Node {
    cluster: Cluster,
    state: PathBuf,
}

/// One image, mounted by the agent.
struct Mounted {
    reference: String,
    target: TempDir,
}

impl Node {
    fn start() -> Self {
        need_tools(&["mkfs.xfs"]);
        let cluster = Cluster::empty();
        let (disk, state) = (
            cluster.folder().join("disk"),
            cluster.folder().join("agent-0/state"),
        );
        let file = File::create(&disk).expect("a disk");
        file.set_len(DISK_LEN).expect("a disk of that length");
        fs::create_dir_all(&state).expect("a folder");
        run("mkfs.xfs", &["-q", &shown(&disk)]);
        run("mount", &["-o", "loop", &shown(&disk), &shown(&state)]);
        let mut node = Self { cluster, state };
        node.cluster.start_agent(&AgentOptions {
            extra: ALLOWED.to_owned(),
            ..AgentOptions::default()
        });
        node.leave_nothing_free();
        node
    }

    /// A floor that is meant for a node's whole disk is more than there is here.
    fn leave_nothing_free(&mut self) {
        let agent = &mut self.cluster.agents[0];
        let path = agent.folder().join("agent.toml");
        let (quota, text) = (
            "quota = \"8GiB\"\n",
            fs::read_to_string(&path).expect("a configuration"),
        );
        assert!(text.contains(quota), "{text}");
        let text = text.replace(quota, &format!("{quota}free_floor = \"0B\"\n"));
        fs::write(path, text).expect("a configuration");
        agent.restart();
    }

    fn agent(&self) -> &Agent {
        &self.cluster.agents[0]
    }

    /// Mounts an image and waits until it has graduated; gives the bytes that this took of the disk, too.
    fn mount(&self, reference: &str) -> (Mounted, u64) {
        let before = self.free_len();
        let target = tempfile::tempdir().expect("a mount point");
        let (socket, path) = (self.agent().socket(), shown(target.path()));
        let with = ["--agent", &socket, "--front-end", "fuse-loop"];
        tranship(&[&["mount"], &with[..], &[reference, &path]].concat());
        let begun = Instant::now();
        while self.device(reference)["graduated"] != Value::Bool(true) {
            assert!(
                begun.elapsed() < Duration::from_mins(1),
                "the device does not move; the agent logged:\n{}",
                self.agent().log()
            );
            thread::yield_now();
        }
        let mounted = Mounted {
            reference: reference.to_owned(),
            target,
        };
        (mounted, before.saturating_sub(self.free_len()))
    }

    fn take_down(&self, mounted: &Mounted) {
        let (socket, path) = (self.agent().socket(), shown(mounted.target.path()));
        tranship(&["umount", "--agent", &socket, &path]);
        tranship(&["detach", "--agent", &socket, &mounted.reference]);
    }

    fn device(&self, reference: &str) -> Value {
        let devices = self.agent().call("GET", "/v1/devices", "");
        let devices = devices.as_array().expect("a list of devices");
        let is_it = |device: &&Value| device["reference"] == reference;
        devices.iter().find(is_it).cloned().expect("the device")
    }

    fn plain(&self, reference: &str) -> PathBuf {
        let device = self.device(reference);
        let id = device["id"].as_str().expect("a device's name");
        self.state.join("run").join(id).join("plain")
    }

    fn free_len(&self) -> u64 {
        let disk = statvfs(&self.state).expect("a filesystem");
        disk.f_bfree * disk.f_frsize
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.cluster.agents[0].stop();
        // Whatever a test that failed has left there goes with its last user.
        run("umount", &["--lazy", &shown(&self.state)]);
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn assert_holds(mounted: &Mounted, files: Range<usize>) {
    for file in files {
        let found = fs::read(mounted.target.path().join(name(file))).expect("a file");
        assert!(found == content(file), "{}", name(file));
    }
}

#[test]
fn images_with_a_layer_in_common_share_its_blocks() {
    let registry = DockerRegistry::start();
    let own = [0, 1].map(|image| {
        let first = FILE_COUNT + image * OWN_COUNT;
        first..first + OWN_COUNT
    });
    let references = [0, 1].map(|image| {
        let layers = [0..FILE_COUNT, own[image].clone()];
        convert_layers(&registry, &format!("shared-{image}"), &layers)
    });
    let node = Node::start();
    let (first, first_len) = node.mount(&references[0]);
    let readers = Readers::start(first.target.path());
    readers.wait_for_progress();
    let (second, second_len) = node.mount(&references[1]);
    readers.wait_for_progress();
    println!(
        "the first plain file took {first_len} bytes, the second {second_len}; longest read {:?}",
        readers.finish()
    );
    let plain = node.plain(&references[1]);
    // Each counts in full what it has in common with another.
    let counted_len = fs::metadata(&plain).expect("a plain file").blocks() * 512;
    assert!(counted_len > first_len / 2, "{counted_len}");
    assert!(second_len < first_len / 4, "{second_len} and {first_len}");
    assert_holds(&second, 0..FILE_COUNT);
    assert_holds(&second, own[1].clone());
    assert_holds(&first, own[0].clone());

    node.take_down(&first);
    let readers = Readers::start(second.target.path());
    readers.wait_for_progress();
    readers.finish();
    let held = fs::read(&plain).expect("a plain file");
    assert!(
        held == device_bytes(&references[1]),
        "the second is changed"
    );
    node.take_down(&second);
    let log = node.agent().log();
    assert!(log.contains("shares bytes"), "the agent logged:\n{log}");
}
