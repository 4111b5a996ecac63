//! Roots of every form that containers ask for, and images of every form that registries hold; then what they take on disk.

use std::fs;
use std::path::Path;

use tranship_tests::containerd::until;
use tranship_tests::pods::Pods;
use tranship_tests::run;
use tranship_tests::snapshots::Snapshots;

use super::Scene;
use crate::foreign::Foreign;

/// The kubelet's namespace of containerd: its accounts are kept for that one alone.
const NAMESPACE: &str = "k8s.io";

#[test]
fn roots_of_every_form_start_and_what_they_take_is_what_du_says() {
    let mut scene = Scene::start();
    let both = scene.image.beside();
    let pulled = scene.pull(NAMESPACE, &both);
    assert_eq!(pulled["unpacked"], 0, "{pulled}");
    sealed(&scene, &both);
    // While there is one image alone.
    viewed(&scene);
    mapped(&scene, &both);
    let foreign = Foreign::push();
    let stock = foreign.named();
    let pulled = scene.pull(NAMESPACE, &stock);
    assert_eq!(
        (&pulled["lazy"], &pulled["unpacked"]),
        (&2.into(), &0.into()),
        "{pulled}"
    );
    let said = said_by(&scene, &stock, &[], &["/bin/sh", "-c", "echo $((6 * 7))"]);
    assert_eq!(said, "42\n");
    // Unpacked, on a base that is lazy.
    let plain = scene.image.small(0).replace(":both", ":plain");
    let pulled = scene.pull(NAMESPACE, &plain);
    assert_eq!(pulled["unpacked"], 1, "{pulled}");
    accounts(&mut scene, &both);
    scene.remove_all(&[(NAMESPACE, &both), (NAMESPACE, &plain), (NAMESPACE, &stock)]);
}

/// Runs a command in a container of an image with some options, and returns what it printed.
fn said_by(scene: &Scene, image: &str, options: &[&str], command: &[&str]) -> String {
    let run = ["run", "--rm", "--snapshotter", "tranship"];
    let all = [&run[..], options, &[image, "form"], command].concat();
    scene.containerd.ctr(NAMESPACE, &all)
}

/// Nobody writes to a root that is for reading.
fn sealed(scene: &Scene, image: &str) {
    let script = "cat /etc/greeting; echo x > /etc/new || echo sealed";
    let command = ["/bin/sh", "-c", script];
    let said = said_by(scene, image, &["--read-only"], &command);
    assert_eq!(said, "hello from the upper layer\nsealed\n");
}

/// In a container with users of its own, root owns the files, and outside somebody else does.
fn mapped(scene: &Scene, image: &str) {
    let map = "0:100000:65536";
    let options = ["--uidmap", map, "--gidmap", map];
    let script = "cat /proc/self/uid_map; echo mine > /etc/greeting && cat /etc/greeting";
    let said = said_by(scene, image, &options, &["/bin/sh", "-c", script]);
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words, ["0", "100000", "65536", "mine"]);
    // containerd keeps the root that it gave away to them, until its image goes.
}

/// An image that is looked at: what a volume of an image is. `ctr images mount` would unpack it first, so the snapshot is viewed.
fn viewed(scene: &Scene) {
    let top = Snapshots::of(scene).top();
    let target = tempfile::tempdir().expect("a mount point");
    let path = target.path().to_string_lossy().into_owned();
    let view = ["snapshots", "--snapshotter", "tranship", "view", "--target"];
    // It prints the command that mounts it.
    let mount = scene
        .containerd
        .ctr(NAMESPACE, &[&view[..], &[&path, "volume", &top]].concat());
    run("/bin/sh", &["-ec", &mount]);
    let greeting = fs::read_to_string(target.path().join("etc/greeting"));
    let refused = fs::write(target.path().join("etc/new"), "x").is_err();
    run("umount", &[&path]);
    let remove = ["snapshots", "--snapshotter", "tranship", "rm", "volume"];
    if let Err(said) = scene.containerd.try_ctr(NAMESPACE, &remove) {
        // Nothing refers to it, so containerd's collector may have come first.
        assert!(said.contains("not found"), "{said}");
    }
    assert_eq!(greeting.expect("a file"), "hello from the upper layer\n");
    assert!(refused, "a view is not written to");
}

/// What the kubelet is told beside what `du` counts, with a container that has written something: by the agent, and by containerd itself. That
/// asks once what a committed snapshot takes, and lazy ones grow; so it is asked after it was started anew.
fn accounts(scene: &mut Scene, image: &str) {
    assert_eq!(scene.sum(NAMESPACE, image, "sum"), scene.image.data_sum);
    let run = ["run", "--detach", "--snapshotter", "tranship", image];
    let script = "dd if=/bin/busybox of=/written bs=1M count=1 2>/dev/null; sleep 1000";
    let command = ["writer", "/bin/sh", "-c", script];
    scene
        .containerd
        .ctr(NAMESPACE, &[&run[..], &command].concat());
    agree_with_du(scene, |pods| pods.with_images_at(&scene.image_socket()));
    scene.containerd.restart();
    agree_with_du(scene, |pods| pods);
    each_account(scene);
    let remove = ["tasks", "rm", "--force", "writer"];
    scene.containerd.ctr(NAMESPACE, &remove);
    scene
        .containerd
        .ctr(NAMESPACE, &["containers", "rm", "writer"]);
}

fn agree_with_du(scene: &Scene, asked: impl FnOnce(Pods) -> Pods) {
    let store = scene.cluster.agents[0].folder().join("store/blobs");
    let mut pods = asked(Pods::of(&scene.containerd));
    let mut told = || pods.image_usage().map_or(0, |(_, len)| len);
    let counted = || du(&scene.root.join("snapshots")) + du(&store);
    let mut last = (0, 0);
    // containerd takes its time to know of a filesystem.
    until("the kubelet is told what is used", || {
        last = (told(), counted());
        last.0.abs_diff(last.1) * 100 <= last.1
    });
    assert!(last.1 > 24 << 20, "two images and more: {last:?}");
}

/// The same for each unpacked layer and each container alone.
fn each_account(scene: &Scene) {
    let usage = ["snapshots", "--snapshotter", "tranship", "usage", "-b"];
    let said = scene.containerd.ctr(NAMESPACE, &usage);
    let mut told: Vec<u64> = said
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().nth(1)?.parse().ok())
        .collect();
    assert!(
        told.len() >= 6,
        "of both images, of one on a lazy base, and the writer's: {said}"
    );
    let folders = fs::read_dir(scene.root.join("snapshots")).expect("a folder");
    for folder in folders {
        let path = folder.expect("an entry").path();
        let note = fs::read(path.join("snapshot.json")).expect("a note");
        let note: serde_json::Value = serde_json::from_slice(&note).expect("JSON");
        if !note["lazy"].is_null() {
            continue;
        }
        let counted = du(&path.join("fs"));
        let place = told
            .iter()
            .position(|told| told.abs_diff(counted) * 100 <= counted);
        let place = place.unwrap_or_else(|| panic!("{counted} bytes of {note} are not in {said}"));
        told.remove(place);
    }
}

/// What files take on disk below a folder, on its filesystem alone.
fn du(folder: &Path) -> u64 {
    let options = ["-x", "--summarize", "--block-size=1"];
    let said = run("du", &[&options[..], &[&folder.to_string_lossy()]].concat());
    let len = said.split_whitespace().next().expect("a number");
    len.parse().expect("a number")
}
