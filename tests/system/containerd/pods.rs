//! Pods, as the kubelet makes them: with labels that containerd gives by itself.

use std::fs;

use tranship_tests::containerd::until;
use tranship_tests::pods::Pods;

use super::Scene;
use super::image::{DATA_LEN, IN_VOLUME};

/// The root is for reading; the volume, filled from the image, is the container's own.
const SCRIPT: &str = "cat /etc/greeting /volume/kept; echo new > /volume/new && cat /volume/new; \
    echo new > /etc/new || echo sealed; sleep 1000";

#[test]
fn a_pod_that_names_the_original_image_starts_lazily() {
    let scene = Scene::start();
    let mut pods = Pods::of(&scene.containerd);
    let reference = scene.image.beside();
    let before = scene.image.registry.sent_len();
    pods.pull(&reference);
    let fetched = scene.image.registry.sent_len() - before;
    assert!(fetched < DATA_LEN / 2, "{fetched} bytes is not lazy");
    assert!(scene.images("sibling") >= 1.0);

    let logs = scene.cluster.folder().join("logs");
    let pod = pods.start(&reference, &["/bin/sh", "-c", SCRIPT], &logs);
    until("the container says what it reads and writes", || {
        let log = fs::read_to_string(logs.join("app.log")).unwrap_or_default();
        let said = [
            "hello from the upper layer",
            IN_VOLUME.trim(),
            "F new",
            "F sealed",
        ];
        said.iter().all(|line| log.contains(line))
    });
    let (place, _) = pods.image_usage().expect("the usage");
    assert!(
        place.ends_with("io.containerd.snapshotter.v1.tranship"),
        "{place}"
    );
    pods.remove(pod);
    pods.remove_image(&reference);
    until("everything of the pod goes", || {
        let left = scene.leftovers();
        // What pods stand on stays, as the kubelet keeps it.
        left.iter()
            .all(|left| left.contains("/snapshots/snapshots/"))
            && left.len() == 1
    });
}
