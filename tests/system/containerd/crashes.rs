//! `kill -9` of the agent, and of containerd, in the middle of each call: then everything is usable again, and nothing is left over.
//!
//! A relay between the two gives the signal as a call comes, while it changes folders and database, or when it is answered and containerd has
//! not heard so. After each, the whole story is told once more, from the pull to the removal. In the ordinary run each of the two dies once in
//! each call, at one moment; with `CONTAINERD_CRASHES=all`, at all of them.

use std::cell::Cell;
use std::collections::BTreeSet;

use tokio::runtime::Runtime;
use tranship_containerd::snapshots::v1::ViewSnapshotRequest;
use tranship_containerd::snapshots::v1::snapshots_client::SnapshotsClient;
use tranship_containerd::{connect, in_namespace};
use tranship_tests::Node;
use tranship_tests::call_relay::{Blow, CallRelay, Moment};
use tranship_tests::command::tranship_output;
use tranship_tests::containerd::Containerd;

use super::image::{AppImage, greeting};

/// The snapshotter's calls, and whether each changes what is on disk.
const CALLS: [(&str, bool); 10] = [
    ("Prepare", true),
    ("Stat", false),
    ("List", false),
    ("Mounts", false),
    ("Commit", true),
    ("View", true),
    ("Update", true),
    ("Usage", false),
    ("Remove", true),
    ("Cleanup", true),
];

struct Scene {
    /// Dropped first: its containers read from the registry.
    node: Node,
    relay: CallRelay,
    /// An image that is shown lazily, and one of which the upper layer is unpacked.
    lazy: String,
    plain: String,
    /// Counts the stories.
    telling: Cell<u32>,
    _image: AppImage,
}

impl Scene {
    fn start() -> Self {
        let image = AppImage::make();
        let mut relay = None;
        let node = Node::start_by_way_of(&image.pause(), "", |socket, root| {
            // The snapshots, and the devices behind them.
            let devices = socket.with_file_name("agent-0/state/devices");
            let watched = vec![root.to_path_buf(), root.join("snapshots"), devices];
            relay.insert(CallRelay::before(socket, watched)).socket()
        });
        Self {
            node,
            relay: relay.expect("a relay"),
            lazy: image.small(0),
            plain: image.small(1).replace(":both", ":plain"),
            telling: Cell::new(0),
            _image: image,
        }
    }

    fn containerd(&self) -> &Containerd {
        &self.node.containerd
    }

    fn ctr(&self, args: &[&str]) -> Result<String, String> {
        self.containerd().try_ctr("test", args)
    }

    fn snapshots(&self, args: &[&str]) -> Result<String, String> {
        self.ctr(&[&["snapshots", "--snapshotter", "tranship"], args].concat())
    }

    /// `ctr` does not say that a view is to stay, and containerd may collect it at once.
    fn view(&self, key: &str, parent: String) -> Result<(), String> {
        let request = ViewSnapshotRequest {
            snapshotter: "tranship".to_owned(),
            key: key.to_owned(),
            parent,
            labels: [("containerd.io/gc.root".to_owned(), "test".to_owned())].into(),
        };
        let request = in_namespace("test", request).expect("a namespace");
        let runtime = Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let channel = connect(&self.containerd().socket()).await;
            let channel = channel.map_err(|error| error.to_string())?;
            let viewed = SnapshotsClient::new(channel).view(request).await;
            viewed.map(drop).map_err(|status| status.to_string())
        })
    }

    /// The name of a container of the story that is being told. No other has it: containerd may leave a task's folder behind when it is
    /// killed, and then makes none of that name again.
    fn container(&self, number: usize) -> String {
        format!("run-{}-{number}", self.telling.get())
    }

    /// Images are pulled, looked at, run, and go. Whatever fails ends the story.
    fn tell(&self) -> Result<(), String> {
        self.telling.set(self.telling.get() + 1);
        let socket = self.containerd().socket().to_string_lossy().into_owned();
        let pull = ["pull", "--namespace", "test", "--containerd", &socket];
        let (code, _, said) = tranship_output(&[&pull[..], &[&self.lazy]].concat());
        if code != 0 {
            return Err(said);
        }
        let pull = ["images", "pull", "--plain-http", "--snapshotter"];
        self.ctr(&[&pull[..], &["tranship", &self.plain]].concat())?;
        let listed = self.snapshots(&["ls"])?;
        let top = top(&listed).ok_or_else(|| format!("nothing on top of {listed}"))?;
        self.view("look", top)?;
        self.snapshots(&["mounts", "/mnt", "look"])?;
        self.snapshots(&["label", "look", "containerd.io/snapshot/seen=yes"])?;
        self.snapshots(&["usage", "look"])?;
        self.snapshots(&["rm", "look"])?;
        for (number, image) in [&self.lazy, &self.plain].into_iter().enumerate() {
            let id = self.container(number);
            let run = ["run", "--rm", "--snapshotter", "tranship", image, &id];
            // By its end and not by what it prints: what a container prints passes through pipes that are not ours.
            let check = format!(
                "[ \"$(cat /etc/greeting)\" = '{}' ]",
                greeting(number).trim()
            );
            let said = self.ctr(&[&run[..], &["/bin/sh", "-c", &check]].concat());
            said.map_err(|said| format!("{id} does not read its greeting: {said}"))?;
        }
        let remove = ["images", "rm", "--sync", &self.lazy, &self.plain];
        self.ctr(&remove).map(drop)
    }

    /// Takes away what a story that did not come to its end left with containerd, as its teller would.
    fn clear(&self, is_agent: bool) {
        for number in 0..2 {
            let id = self.container(number);
            // Most of it is not there.
            let _ = self.ctr(&["tasks", "rm", "--force", &id]);
            let _ = self.ctr(&["containers", "rm", &id]);
        }
        if !is_agent {
            self.containerd().end_lost_tasks("test");
        }
        let _ = self.snapshots(&["rm", "look"]);
        for image in [&self.lazy, &self.plain] {
            let _ = self.ctr(&["images", "rm", image]);
        }
        self.containerd().collect("test");
    }

    /// Tells the story, in the middle of which somebody dies; and then the whole of it.
    fn dies(&mut self, is_agent: bool, call: &'static str, number: usize, moment: Moment) {
        let victim = if is_agent {
            self.node.cluster.agents[0].pid()
        } else {
            self.containerd().pid()
        };
        self.relay.prepare(Some(Blow {
            call,
            number,
            moment,
            victim,
        }));
        // It may come to its end all the same.
        let _ = self.tell();
        let name = if is_agent { "agent" } else { "containerd" };
        let what = format!("{name} dies {moment:?} {call} {number}");
        assert!(!self.relay.calls_off(), "{what}: there was no such call");
        if is_agent {
            self.node.cluster.agents[0].restart();
        } else {
            self.node.containerd.restart();
        }
        self.node.wait_for_snapshotter();
        self.clear(is_agent);
        if let Err(said) = self.tell() {
            let (agent, containerd) = (self.node.cluster.agents[0].log(), self.containerd().log());
            panic!("{what}; then: {said}\nthe agent logged:\n{agent}\ncontainerd:\n{containerd}");
        }
        self.node.wait_until_clean();
    }
}

/// A committed snapshot of a list on which no other stands.
fn top(listed: &str) -> Option<String> {
    let rows = listed.lines().skip(1);
    let rows: Vec<Vec<&str>> = rows.map(|row| row.split_whitespace().collect()).collect();
    let below: BTreeSet<&str> = rows
        .iter()
        .filter(|row| row.len() == 3)
        .map(|row| row[1])
        .collect();
    let mut committed = rows.iter().filter(|row| row.last() == Some(&"Committed"));
    let top = committed.find(|row| !below.contains(row[0]))?;
    Some(top[0].to_owned())
}

/// Where in calls of this kind one can die; those that change nothing are not long enough to die within.
fn moments(changes: bool) -> Vec<Moment> {
    if changes {
        vec![
            Moment::Before,
            Moment::Within(1),
            Moment::Within(2),
            Moment::Within(4),
            Moment::Within(8),
            Moment::After,
        ]
    } else {
        vec![Moment::Before, Moment::After]
    }
}

#[test]
fn after_a_kill_in_the_middle_of_any_call_everything_is_usable_again() {
    let mut scene = Scene::start();
    scene.relay.prepare(None);
    assert_eq!(scene.tell(), Ok(()), "with nobody killed");
    let seen = scene.relay.seen();
    scene.node.wait_until_clean();
    let is_whole = std::env::var("CONTAINERD_CRASHES").is_ok_and(|which| which == "all");
    for (place, (call, changes)) in CALLS.into_iter().enumerate() {
        let count = seen.get(call).copied().unwrap_or_default();
        assert!(count > 0, "a story without {call}: {seen:?}");
        let moments = moments(changes);
        for is_agent in [true, false] {
            for (turn, moment) in moments.iter().enumerate() {
                // Not always the first of them, and another one each time; a few of them depend on what is collected when.
                let round = place + usize::from(is_agent);
                let number = (turn + round) % count.div_ceil(2);
                if is_whole || turn == round % moments.len() {
                    scene.dies(is_agent, call, number, *moment);
                }
            }
        }
    }
}
