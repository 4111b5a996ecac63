//! Registries that are away at the start, in the middle, or do not let us in any more.

use std::fs;
use std::thread;

use tranship_tests::containerd::until;
use tranship_tests::gate::{Gate, PASS};
use tranship_tests::tranship;

use super::Scene;
use super::image::AppImage;

const CAT: [&str; 2] = ["/bin/cat", "/etc/greeting"];

#[test]
fn a_registry_that_stands_still_at_the_start_and_in_the_middle_is_waited_for() {
    let mut scene = Scene::start();
    let both = scene.image.beside();
    scene.pull("test", &both);
    let said = scene.containerd.run("test", &both, "before", &CAT);
    scene.image.registry.stand_still();
    // What an earlier start read is here, and a start asks nobody for anything else.
    scene.cluster.agents[0].restart();
    scene.containerd.restart();
    scene.wait_for_snapshotter();
    let again = scene.containerd.run("test", &both, "meanwhile", &CAT);
    assert_eq!(said, again);
    let (converted, image) = (scene.image.converted(), &scene.image);
    thread::scope(|scope| {
        let sum = scope.spawn(|| scene.sum("test", &both, "waits"));
        until("a reader waits", || {
            let agent = &scene.cluster.agents[0];
            agent.counter("tranship_device_waiting_reads", "") > 0.0
        });
        let before = image.registry.connections();
        let pull = scope.spawn(|| scene.pull("test", &converted));
        until("a pull asks the registry", || {
            image.registry.connections() > before
        });
        image.registry.go_on();
        assert_eq!(sum.join().expect("a sum"), image.data_sum);
        assert_eq!(pull.join().expect("a pull")["unpacked"], 0);
    });
    scene.remove_all(&[("test", &both), ("test", &converted)]);
}

#[test]
fn tokens_that_expire_are_renewed_once_for_all_readers() {
    let image = AppImage::make();
    let gate = Gate::before(&image.registry.direct_host());
    let folder = tempfile::tempdir().expect("a scratch folder");
    let config = folder.path().join("config.json");
    let text = format!(
        r#"{{"auths": {{"{}": {{"auth": "{PASS}"}}}}}}"#,
        gate.host()
    );
    fs::write(&config, text).expect("credentials");
    let scene = Scene::with(
        image,
        &format!("\n[registry]\ndocker_config = {config:?}\n"),
    );
    let both = scene
        .image
        .beside()
        .replace(&scene.image.registry.host(), &gate.host());
    let socket = scene.containerd.socket().to_string_lossy().into_owned();
    tranship(&[
        "pull",
        "--docker-config",
        &folder.path().to_string_lossy(),
        "--containerd",
        &socket,
        "--namespace",
        "test",
        &both,
    ]);
    let said = scene.containerd.run("test", &both, "hello", &CAT);
    assert_eq!(said, "hello from the upper layer\n");
    for round in 0..2 {
        let issued = gate.issued();
        gate.expire();
        let refused = gate.refused();
        if round == 0 {
            assert_eq!(scene.sum("test", &both, "sum"), scene.image.data_sum);
            assert!(gate.refused() > refused, "an expired token was shown");
            assert_eq!(gate.issued() - issued, 1, "all readers wait for one token");
        } else {
            // Everything is here: nobody is asked for anything.
            assert_eq!(scene.sum("test", &both, "again"), scene.image.data_sum);
            assert_eq!(gate.issued(), issued);
        }
    }
    scene.remove_all(&[("test", &both)]);
}
