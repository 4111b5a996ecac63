//! Many containers at once, while images and containers come and go beside them.

use std::thread;

use super::Scene;
use super::image::greeting;

/// Containers, and images that they are of.
const CONTAINER_COUNT: usize = 50;
const IMAGE_COUNT: usize = 5;

#[test]
fn fifty_containers_of_five_images_start_at_once_while_others_are_deleted() {
    let scene = Scene::start();
    let images: Vec<String> = (0..IMAGE_COUNT)
        .map(|number| scene.image.small(number))
        .collect();
    for image in &images {
        let pulled = scene.pull("test", image);
        assert_eq!(pulled["unpacked"], 0, "{pulled}");
    }
    thread::scope(|scope| {
        for number in 0..CONTAINER_COUNT {
            let (scene, image) = (&scene, number % IMAGE_COUNT);
            let reference = &images[image];
            scope.spawn(move || {
                let id = format!("c{number}");
                let command = ["/bin/cat", "/etc/greeting"];
                let said = scene.containerd.run("test", reference, &id, &command);
                assert_eq!(said, greeting(image), "{id}");
            });
        }
        for round in 0..2 {
            come_and_go(&scene, round);
        }
    });
    let all: Vec<(&str, &str)> = images
        .iter()
        .map(|image| ("test", image.as_str()))
        .collect();
    scene.remove_all(&all);
}

/// An image on the same base is pulled, loses its name while its container runs, which does not notice, and goes.
fn come_and_go(scene: &Scene, round: usize) {
    let both = scene.image.beside();
    scene.pull("test", &both);
    let id = format!("long-{round}");
    let run = ["run", "--detach", "--snapshotter", "tranship", &both, &id];
    let containerd = &scene.containerd;
    containerd.ctr("test", &[&run[..], &["/bin/sleep", "1000"]].concat());
    containerd.ctr("test", &["images", "rm", "--sync", &both]);
    let exec = ["tasks", "exec", "--exec-id", "sum", &id];
    let said = containerd.ctr("test", &[&exec[..], &["/bin/md5sum", "/data"]].concat());
    assert!(said.starts_with(&scene.image.data_sum), "{said}");
    containerd.ctr("test", &["tasks", "rm", "--force", &id]);
    containerd.ctr("test", &["containers", "rm", &id]);
}
