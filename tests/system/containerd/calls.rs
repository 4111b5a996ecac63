//! The snapshotter's calls by themselves: how they wait for each other, and who may bind their socket.

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use tranship_tests::Node;
use tranship_tests::snapshots::Snapshots;

use super::Scene;

/// Prepares at once.
const CROWD: usize = 100;
/// Far more than a crowd takes on two cores that are busy, and less than the slow one.
const SOON: Duration = Duration::from_secs(15);

#[test]
fn a_hundred_prepares_do_not_wait_for_a_slow_one() {
    let scene = Scene::start();
    let both = scene.image.beside();
    scene.pull("test", &both);
    let calls = Snapshots::of(&scene);
    let top = calls.top();
    let first = calls.prepare("first", &top);
    // A registry that takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let place = silent.local_addr().expect("its address");
    let labels = HashMap::from([
        (
            "containerd.io/snapshot.ref".to_owned(),
            format!("sha256:{}", "ab".repeat(32)),
        ),
        (
            "containerd.io/snapshot/cri.image-ref".to_owned(),
            format!("{place}/test/slow:v1"),
        ),
    ]);
    let slow = calls.runtime.spawn(calls.preparing("slow", "", labels));
    let (mut asked, _) = silent.accept().expect("somebody asks");
    let keys: Vec<String> = (0..CROWD).map(|number| format!("crowd-{number}")).collect();
    let begun = Instant::now();
    let each = calls.prepare_all(&keys, &top);
    let took = begun.elapsed();
    assert!(!slow.is_finished(), "nobody answers it");
    assert!(took < SOON, "{CROWD} prepares take {took:?}");
    let longest = each.iter().max().expect("one of them");
    println!("the first {first:?}, {CROWD} at once {took:?}, the longest {longest:?}");
    // It has no such image: containerd is left to unpack, and finds out by itself.
    let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    asked.write_all(answer).expect("somebody waits");
    drop((asked, silent));
    let unpack = calls.runtime.block_on(slow).expect("an end");
    unpack.expect("a snapshot to unpack into");
    calls.remove(&[&keys[..], &["first".to_owned(), "slow".to_owned()]].concat());
    scene.remove_all(&[("test", &both)]);
}

#[test]
fn a_socket_that_was_bound_before_is_answered_by_one_agent_after_the_other() {
    let mut scene = Scene::start();
    let both = scene.image.beside();
    scene.pull("test", &both);
    let path = scene.cluster.folder().join("snapshotter.sock");
    scene.cluster.agents[0].kill();
    std::fs::remove_file(&path).expect("a removed socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    scene.cluster.agents[0].listen_on(listener);
    scene.containerd.restart();
    let list = ["snapshots", "--snapshotter", "tranship", "ls"];
    // Nobody runs that could answer; the call waits in the socket.
    let Node {
        containerd,
        cluster,
        ..
    } = &mut scene.node;
    let listed = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| containerd.try_ctr("test", &list));
        cluster.agents[0].restart();
        waiting.join().expect("an answer")
    });
    assert!(listed.expect("a list").contains("sha256:"));
    // At no moment is there nobody to connect to, so no call finds the snapshotter gone.
    scene.cluster.agents[0].restart();
    assert_eq!(scene.sum("test", &both, "sum"), scene.image.data_sum);
    scene.remove_all(&[("test", &both)]);
}
