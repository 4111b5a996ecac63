//! containerd, runc and our snapshotter: images start lazily by either reference, ordinary ones are unpacked, everything goes when it is
//! removed, and crashes on any side leave everything usable.

mod away;
mod calls;
mod crashes;
mod crowd;
mod forms;
mod image;
mod pods;

use std::fs;
use std::ops::{Deref, DerefMut};

use serde_json::Value;

use image::{AppImage, DATA_LEN};
use tranship_tests::Node;
use tranship_tests::command::tranship_output;
use tranship_tests::containerd::{mounts_below, until};
use tranship_tests::events::Events;
use tranship_tests::run;

/// An image in its registry, and a node that runs it.
struct Scene {
    /// Dropped first: what it has mounted reads from the registry.
    node: Node,
    image: AppImage,
}

impl Scene {
    fn start() -> Self {
        Self::with(AppImage::make(), "")
    }

    fn with(image: AppImage, snapshotter: &str) -> Self {
        Self {
            node: Node::start(&image.pause(), snapshotter),
            image,
        }
    }

    /// The sum of the data file, taken in a container.
    fn sum(&self, namespace: &str, reference: &str, id: &str) -> String {
        let command = ["/bin/md5sum", "/data"];
        let said = self.containerd.run(namespace, reference, id, &command);
        said.split(' ').next().unwrap_or_default().to_owned()
    }
}

impl Deref for Scene {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl DerefMut for Scene {
    fn deref_mut(&mut self) -> &mut Node {
        &mut self.node
    }
}

#[test]
fn an_image_starts_lazily_by_its_own_reference_and_by_its_originals() {
    let node = Scene::start();
    let events = Events::of(&node.containerd);
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
    told(&events, "test", &lazy, ["true", "converted"]);
    told(&events, "test", &both, ["true", "sibling"]);
    // By its original's reference in a second namespace, to which nobody asks the registry for a layer.
    let pulled = node.pull("other", &both);
    assert_eq!(pulled["lazy"], 2, "{pulled}");
    assert_eq!(node.sum("other", &both, "sum"), node.image.data_sum);
    assert_eq!(node.sum("test", &both, "sum"), node.image.data_sum);
    node.remove_all(&[("test", &lazy), ("test", &both), ("other", &both)]);
}

/// Of each image there is one event, in the namespace that asked first.
fn told(events: &Events, namespace: &str, image: &str, lazy_and_why: [&str; 2]) {
    let of = || -> Vec<(String, Value)> {
        let all = events.on("/tranship/image").into_iter();
        all.filter(|(_, event)| event["name"] == *image).collect()
    };
    until("containerd passes an event on", || !of().is_empty());
    let heard = of();
    let labels = &heard[0].1["labels"];
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(heard[0].0, namespace, "{heard:?}");
    assert_eq!(labels["tranship/lazy"], lazy_and_why[0], "{labels}");
    assert_eq!(labels["tranship/reason"], lazy_and_why[1], "{labels}");
    assert_ne!(labels["tranship/why"], Value::Null, "{labels}");
}

#[test]
fn an_ordinary_image_is_unpacked_by_the_same_snapshotter() {
    let node = Scene::start();
    let events = Events::of(&node.containerd);
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
    told(&events, "test", &plain, ["false", "not-converted"]);
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
    let node = Scene::with(image, &extra);
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
    let mut node = Scene::start();
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
    everything_is_lost(&mut node, &both);
    node.remove_all(&[("test", &both)]);
}

/// The snapshots' folder is emptied, which no note outlives: the doctor says which images containerd wrongly believes in, and with the command
/// that it gives everything is as before.
fn everything_is_lost(node: &mut Scene, image: &str) {
    node.cluster.agents[0].kill();
    for mount in mounts_below(&node.root).iter().rev() {
        run("umount", &["--lazy", &mount.to_string_lossy()]);
    }
    fs::remove_dir_all(&node.root).expect("a removed folder");
    node.cluster.agents[0].restart();
    node.containerd.restart();
    node.wait_for_snapshotter();
    let address = node.containerd.socket().to_string_lossy().into_owned();
    let agent = node.cluster.agents[0].socket();
    let doctor = ["doctor", "--output", "json", "--address", &address];
    let (code, printed, _) = tranship_output(&[&doctor[..], &["--agent", &agent]].concat());
    let report: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(code, 1, "{report:#}");
    let findings = report["findings"].as_array().expect("findings");
    let mut lost = findings
        .iter()
        .filter(|finding| finding["area"] == "images" && finding["state"] == "bad");
    let next = lost.next().and_then(|finding| finding["next"].as_str());
    let next = next.unwrap_or_else(|| panic!("no word of lost images: {report:#}"));
    let command = next.split_once("ctr ").expect("a command").1;
    let words = command.split(';').next().unwrap_or_default();
    let words: Vec<&str> = words.split(' ').collect();
    assert!(words.contains(&image), "{next}");
    run("ctr", &[&["--address", &address], &words[..]].concat());
    let pulled = node.pull("test", image);
    assert_eq!(pulled["lazy"], 2, "{pulled}");
    assert_eq!(node.sum("test", image, "anew"), node.image.data_sum);
}
