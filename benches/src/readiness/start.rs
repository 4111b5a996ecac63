//! Starts of the application on one node, cold and warm, each way.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tranship_tests::Node;
use tranship_tests::pods::Pods;
use tranship_tests::snapshots::Snapshots;
use tranship_tests::web::{PORT, WebImage};

use crate::swarm::origin::Registry;

/// The kubelet's namespace of containerd.
const NAMESPACE: &str = "k8s.io";
/// The container.
const NAME: &str = "web";
/// How often the application is asked whether it answers.
const ASKING: Duration = Duration::from_millis(2);
/// How long it is waited for.
const PATIENCE: Duration = Duration::from_mins(10);
/// Prepares one after the other, and at once.
const NEXT: usize = 20;
const CROWD: usize = 100;

/// How an image comes to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By us.
    Lazy,
    /// By containerd and its overlayfs snapshotter.
    Full,
}

impl Way {
    fn snapshotter(self) -> &'static str {
        match self {
            Self::Lazy => "tranship",
            Self::Full => "overlayfs",
        }
    }
}

/// The image's name: two, so that containerd has no part of the one when it is asked for the other.
pub(super) fn reference(host: &str, way: Way) -> String {
    let tag = match way {
        Way::Lazy => "both",
        Way::Full => "plain",
    };
    format!("{host}/bench/web:{tag}")
}

/// What pods stand on.
pub(super) fn pause(host: &str) -> String {
    format!("{host}/bench/pause:v1")
}

/// A start from nothing; times count from the beginning of the pull.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cold {
    pub(super) pulled: Duration,
    /// containerd said that the container runs.
    pub(super) started: Duration,
    pub(super) answered: Duration,
    /// Bytes that left the registry meanwhile.
    pub(super) fetched_len: u64,
}

/// What one node took.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) lazy: Cold,
    pub(super) full: Cold,
    /// Lazily, by the container runtime interface.
    pub(super) pod: Cold,
    pub(super) warm_lazy: Vec<Duration>,
    pub(super) warm_full: Vec<Duration>,
    pub(super) prepares: Prepares,
}

/// What the snapshotter alone takes, with everything about the image on the node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prepares {
    /// The first for an image, which attaches and mounts it.
    pub(super) first: Duration,
    /// One that follows; the median.
    pub(super) next: Duration,
    /// Many at once, until the last is answered.
    pub(super) crowd: Duration,
}

/// Measures on nodes that have nothing. The calling thread is on their host.
pub(super) fn on_new_nodes(registry: &Registry, web: &WebImage, warm_runs: usize) -> Result<Run> {
    let node = new_node(registry);
    let (lazy, full) = (
        cold(&node, registry, web, Way::Lazy)?,
        cold(&node, registry, web, Way::Full)?,
    );
    let (mut warm_lazy, mut warm_full) = (Vec::new(), Vec::new());
    for _ in 0..warm_runs {
        for (way, all) in [(Way::Lazy, &mut warm_lazy), (Way::Full, &mut warm_full)] {
            let begun = Instant::now();
            start(&node, registry, web, way);
            wait(begun)?;
            all.push(begun.elapsed());
            stop(&node);
        }
    }
    let names = [Way::Lazy, Way::Full].map(|way| reference(registry.host(), way));
    node.remove_all(&names.each_ref().map(|name| (NAMESPACE, name.as_str())));
    let prepares = prepares(&node, &reference(registry.host(), Way::Lazy));
    drop(node);
    Ok(Run {
        lazy,
        full,
        pod: pod(&new_node(registry), registry, web)?,
        warm_lazy,
        warm_full,
        prepares,
    })
}

fn new_node(registry: &Registry) -> Node {
    let host = registry.host();
    let settings = format!("\n[registry]\nplain_http = [{host:?}]\n");
    let node = Node::start(&pause(host), &settings);
    node.containerd.speak_plainly_to(host);
    node
}

/// The same as the kubelet does it, the pod that it makes for the container included.
fn pod(node: &Node, registry: &Registry, web: &WebImage) -> Result<Cold> {
    let mut pods = Pods::of(&node.containerd);
    let before = registry.sent_len();
    let begun = Instant::now();
    let name = reference(registry.host(), Way::Lazy);
    pods.pull(&name);
    let pulled = begun.elapsed();
    let pod = pods.start(&name, web.command, &node.cluster.folder().join("logs"));
    let started = begun.elapsed();
    wait(begun)?;
    let answered = begun.elapsed();
    let fetched_len = registry.sent_len().saturating_sub(before);
    pods.remove(pod);
    for image in [&name, &pause(registry.host())] {
        pods.remove_image(image);
    }
    node.wait_until_clean();
    Ok(Cold {
        pulled,
        started,
        answered,
        fetched_len,
    })
}

fn prepares(node: &Node, name: &str) -> Prepares {
    node.pull(NAMESPACE, name);
    let calls = Snapshots::of(node);
    let top = calls.top();
    let keys: Vec<String> = (0..=NEXT + CROWD)
        .map(|number| format!("{NAME}-{number}"))
        .collect();
    let mut each: Vec<Duration> = keys
        .iter()
        .take(NEXT + 1)
        .map(|key| calls.prepare(key, &top))
        .collect();
    let first = each.remove(0);
    each.sort_unstable();
    let begun = Instant::now();
    calls.prepare_all(keys.get(NEXT + 1..).unwrap_or_default(), &top);
    let crowd = begun.elapsed();
    calls.remove(&keys);
    node.remove_all(&[(NAMESPACE, name)]);
    Prepares {
        first,
        next: each.get(NEXT / 2).copied().unwrap_or_default(),
        crowd,
    }
}

fn cold(node: &Node, registry: &Registry, web: &WebImage, way: Way) -> Result<Cold> {
    let before = registry.sent_len();
    let begun = Instant::now();
    let name = reference(registry.host(), way);
    if way == Way::Lazy {
        node.pull(NAMESPACE, &name);
    } else {
        let pull = ["images", "pull", "--plain-http", "--snapshotter"];
        let pull = [&pull[..], &[way.snapshotter(), &name]].concat();
        node.containerd.ctr(NAMESPACE, &pull);
    }
    let pulled = begun.elapsed();
    start(node, registry, web, way);
    let started = begun.elapsed();
    wait(begun)?;
    let answered = begun.elapsed();
    let fetched_len = registry.sent_len().saturating_sub(before);
    stop(node);
    Ok(Cold {
        pulled,
        started,
        answered,
        fetched_len,
    })
}

/// Starts the application on the host's network.
fn start(node: &Node, registry: &Registry, web: &WebImage, way: Way) {
    let name = reference(registry.host(), way);
    let run = ["run", "--detach", "--net-host", "--snapshotter"];
    let run = [&run[..], &[way.snapshotter(), &name, NAME], web.command].concat();
    node.containerd.ctr(NAMESPACE, &run);
}

/// Waits for the first answer.
fn wait(begun: Instant) -> Result<()> {
    while !answers().unwrap_or(false) {
        ensure!(
            begun.elapsed() < PATIENCE,
            "the application does not answer within {PATIENCE:?}"
        );
        thread::sleep(ASKING);
    }
    Ok(())
}

fn answers() -> Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT)).context("nobody listens")?;
    write!(stream, "GET / HTTP/1.0\r\n\r\n").context("ask")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("no answer")?;
    Ok(answer
        .lines()
        .next()
        .is_some_and(|line| line.contains(" 200 ")))
}

fn stop(node: &Node) {
    let remove = ["tasks", "rm", "--force", NAME];
    node.containerd.ctr(NAMESPACE, &remove);
    node.containerd.ctr(NAMESPACE, &["containers", "rm", NAME]);
}
