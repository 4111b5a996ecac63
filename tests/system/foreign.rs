//! An image of overlaybd's own form that holds a program to run, straight from a registry: a shell on ext4, in two layers
//! that an encoder wrote which shares no line with ours, without chunk tables and annotations of ours.

use crate::encoder::{Envelope, Lsmt, Record, Zfile};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tranship_tests::registry::DockerRegistry;
use tranship_tests::{AgentOptions, Cluster, Tracker, need_tools, run, stock, tranship};

const SECTOR: usize = 512;
/// Sectors that one record takes: a little less than its 14 bits could say.
const RUN: usize = 64;
/// Every so many runs the bottom layer holds something else, and the top layer what is right.
const CHANGED: usize = 7;

/// A foreign image in a registry, and the folder that its filesystem was made of.
pub(crate) struct Foreign {
    registry: DockerRegistry,
    name: String,
    stored_len: u64,
    scratch: TempDir,
}

impl Foreign {
    pub(crate) fn push() -> Self {
        need_tools(&["skopeo"]);
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let at = |name: &str| scratch.path().join(name);
        stock::shell_disk(&at("root"), &at("disk.raw"));
        let disk = fs::read(at("disk.raw")).expect("a disk");
        let layers = [at("bottom"), at("top")];
        let mut stored_len = 0;
        for (path, layer) in layers.iter().zip(split(&disk)) {
            // As overlaybd's converters push them: lz4 in blocks of 4 KiB, digests, the size in a PAX record.
            let compressed = Zfile {
                completed: true,
                ..Zfile::MERGED
            };
            let blob = Envelope::Pax.wrap(&compressed.encode(&layer.encode()));
            stored_len += blob.len() as u64;
            fs::write(path, blob).expect("a layer's file");
        }
        let layout = at("layout");
        stock::write(&layout, "v1", &layers);
        let registry = DockerRegistry::start();
        let name = "foreign/shell:v1".to_owned();
        let from = format!("oci:{}:v1", layout.display());
        let to = format!("docker://{}/{name}", registry.direct_host());
        let options = [
            "copy",
            "--quiet",
            "--preserve-digests",
            "--dest-tls-verify=false",
        ];
        run("skopeo", &[&options[..], &[&from, &to]].concat());
        Self {
            registry,
            name,
            stored_len,
            scratch,
        }
    }

    /// Its name as containerd knows it.
    pub(crate) fn named(&self) -> String {
        format!("{}/{}", self.registry.host(), self.name)
    }

    /// Its reference, counted by the registry's relay.
    fn reference(&self) -> String {
        format!("docker://{}", self.named())
    }

    /// Its reference past the relay.
    fn uncounted(&self) -> String {
        format!("docker://{}/{}", self.registry.direct_host(), self.name)
    }

    /// Mounts the image by an agent and compares every file.
    fn assert_mounts(&self, socket: &str) {
        let target = tempfile::tempdir().expect("a mount point");
        let path = target.path().to_string_lossy().into_owned();
        tranship(&["mount", "--agent", socket, &self.reference(), &path]);
        let root = self.scratch.path().join("root");
        let files = files(&root);
        assert!(files.len() > 2, "{files:?}");
        for file in files {
            let [ours, theirs] = [&root, target.path()].map(|root| {
                fs::read(root.join(&file))
                    .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
            });
            assert!(ours == theirs, "{} differs", file.display());
        }
        tranship(&["umount", "--agent", socket, &path]);
    }
}

/// The disk as two layers of which neither alone is right.
fn split(disk: &[u8]) -> [Lsmt; 2] {
    let mut layers = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    let mut put = |layer: usize, sector: usize, bytes: &[u8]| {
        let (records, data): &mut (Vec<Record>, Vec<u8>) = &mut layers[layer];
        records.push(Record {
            sector: sector as u64,
            count: (bytes.len() / SECTOR) as u64,
            // Behind the header of eight sectors.
            stored: 8 + (data.len() / SECTOR) as u64,
            zeroed: false,
            tag: 0,
        });
        data.extend(bytes);
    };
    for (number, run) in disk.chunks(RUN * SECTOR).enumerate() {
        if run.iter().all(|byte| *byte == 0) {
            continue;
        }
        let sector = number * RUN;
        if number % CHANGED == 0 {
            put(0, sector, &vec![0xa5; run.len()]);
            put(1, sector, run);
        } else {
            put(0, sector, run);
        }
    }
    let len = disk.len() as u64;
    layers.map(|(records, data)| Lsmt::committed(records, data, len))
}

/// Files below `root`, relative to it.
fn files(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut pending) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                pending.push(path);
            } else {
                found.push(
                    path.strip_prefix(root)
                        .expect("below the root")
                        .to_path_buf(),
                );
            }
        }
    }
    found
}

fn attach(socket: &str, reference: &str) -> Value {
    let device = tranship(&["attach", "--agent", socket, "--output", "json", reference]);
    serde_json::from_str(&device).expect("JSON")
}

#[test]
fn a_foreign_image_is_verified_attached_mounted_and_shown_by_the_demo() {
    let image = Foreign::push();
    let report = tranship(&["verify", "--output", "json", &image.uncounted()]);
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(
        (&report["ok"], report["proofs_checked"].as_u64()),
        (&true.into(), Some(0))
    );
    let mut cluster = Cluster::empty();
    let agent = cluster.start_agent(&AgentOptions::default());
    let socket = cluster.agents[agent].socket();
    let device = attach(&socket, &image.reference());
    assert_eq!(device["front_end"], "fuse-loop");
    assert!(
        image.registry.sent_len() > image.stored_len,
        "without a proof its layers are read whole first"
    );
    image.assert_mounts(&socket);
    tranship(&["detach", "--agent", &socket, &image.reference()]);

    let said = tranship(&[
        "demo",
        "--nodes",
        "2",
        "--image",
        &image.uncounted(),
        "--output",
        "json",
    ]);
    let report: Value = serde_json::from_str(&said).expect("one JSON object");
    assert_eq!(report["files"]["wrong"], 0, "{report}");
    assert!(
        report["files"]["compared"].as_u64().expect("a count") > 2,
        "{report}"
    );
}

#[test]
fn a_proof_that_verify_pushed_to_a_registry_lets_a_node_read_lazily() {
    let image = Foreign::push();
    let written = tranship(&[
        "verify",
        "--write-proof",
        "--output",
        "json",
        &image.uncounted(),
    ]);
    let written: Value = serde_json::from_str(&written).expect("JSON");
    assert!(written["proof"].is_string(), "{written}");
    let again = tranship(&["verify", "--output", "json", &image.uncounted()]);
    let again: Value = serde_json::from_str(&again).expect("JSON");
    assert_eq!(again["proofs_checked"], 2, "one of each layer: {again}");

    let mut cluster = Cluster::empty();
    let agent = cluster.start_agent(&AgentOptions {
        extra: format!(
            "[registry]\ntrust_proofs = [\"{}\"]\n",
            image.registry.host()
        ),
        ..AgentOptions::default()
    });
    let socket = cluster.agents[agent].socket();
    attach(&socket, &image.reference());
    let sent = image.registry.sent_len();
    assert!(
        sent < image.stored_len / 2,
        "{sent} of {} bytes to open it",
        image.stored_len
    );
    image.assert_mounts(&socket);
    tranship(&["detach", "--agent", &socket, &image.reference()]);
}

#[test]
fn the_tracker_reads_a_foreign_image_once_for_all_who_trust_its_proofs() {
    let image = Foreign::push();
    let mut cluster = Cluster::empty();
    cluster.start_tracker();
    let sockets: Vec<String> = (0..2)
        .map(|_| {
            let agent = cluster.start_agent(&AgentOptions {
                tracker: cluster.tracker.as_ref().map(Tracker::address),
                trust_tracker: true,
                ..AgentOptions::default()
            });
            cluster.agents[agent].socket()
        })
        .collect();
    std::thread::scope(|scope| {
        for socket in &sockets {
            scope.spawn(|| attach(socket, &image.reference()));
        }
    });
    for socket in &sockets {
        image.assert_mounts(socket);
    }
    for agent in &cluster.agents {
        let own = agent.counter("tranship_fetched_bytes_total", "registry");
        let others = agent.counter("tranship_fetched_bytes_total", "seed")
            + agent.counter("tranship_fetched_bytes_total", "peer");
        assert!(
            others > own,
            "{own} bytes from the registry, {others} from the swarm"
        );
    }
    let sent = image.registry.sent_len();
    assert!(
        sent < image.stored_len * 3 / 2,
        "{sent} bytes of an image of {}",
        image.stored_len
    );
    for socket in &sockets {
        tranship(&["detach", "--agent", socket, &image.reference()]);
    }
}
