//! Every file of the image, through every front end, equal to what `umoci` unpacks.

use crate::faults::convert;
use crate::image::{Converted, LoopMount};
use tranship_tests::command::tranship_output;
use tranship_tests::compare::assert_equal_trees;
use tranship_tests::registry::DockerRegistry;
use tranship_tests::{AgentOptions, Cluster, need_tools, run, tranship};

#[test]
fn every_file_is_equal_through_fuse_loop_and_erofs_file() {
    let image = Converted::make();
    let mut cluster = Cluster::empty();
    let agent = cluster.start_agent(&AgentOptions::default());
    let socket = cluster.agents[agent].socket();
    for front_end in ["fuse-loop", "erofs-file"] {
        let target = tempfile::tempdir().expect("a mount point");
        let path = target.path().to_string_lossy().into_owned();
        tranship(&[
            "mount",
            "--agent",
            &socket,
            "--front-end",
            front_end,
            &image.reference(),
            &path,
        ]);
        let compared = assert_equal_trees(&image.debian.unpacked(), target.path());
        println!("{front_end}: {compared:?}");
        tranship(&["umount", "--agent", &socket, &path]);
        tranship(&["detach", "--agent", &socket, &image.reference()]);
    }
    let devices = tranship(&["devices", "--agent", &socket, "--output", "json"]);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&devices).expect("JSON"),
        serde_json::json!([]),
        "nothing is left attached"
    );
}

#[test]
fn every_file_is_equal_through_nbd() {
    need_tools(&["nbdinfo", "nbdcopy", "qemu-img", "qemu-io"]);
    let image = Converted::make();
    let mut cluster = Cluster::empty();
    let agent = cluster.start_agent(&AgentOptions::default());
    let socket = cluster.agents[agent].socket();
    let device = tranship(&[
        "attach",
        "--agent",
        &socket,
        "--front-end",
        "nbd",
        "--output",
        "json",
        &image.reference(),
    ]);
    let device: serde_json::Value = serde_json::from_str(&device).expect("JSON");
    let path = device["path"].as_str().expect("the socket's path");
    let uri = format!("nbd+unix:///?socket={path}");
    run("nbdinfo", &["--list", &uri]);
    run("qemu-io", &["-r", "-f", "raw", "-c", "read 0 64k", &uri]);
    let folder = tempfile::tempdir().expect("a scratch folder");
    let (copied, converted) = (
        folder.path().join("copied"),
        folder.path().join("converted"),
    );
    run("nbdcopy", &[&uri, &copied.to_string_lossy()]);
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "raw",
            &uri,
            &converted.to_string_lossy(),
        ],
    );
    run(
        "cmp",
        &[&copied.to_string_lossy(), &converted.to_string_lossy()],
    );
    let mount = LoopMount::of(&copied);
    let compared = assert_equal_trees(&image.debian.unpacked(), mount.path());
    println!("nbd: {compared:?}");
}

#[test]
fn a_program_runs_from_a_writable_mount() {
    let image = Converted::make();
    let mut cluster = Cluster::empty();
    let agent = cluster.start_agent(&AgentOptions::default());
    let socket = cluster.agents[agent].socket();
    let target = tempfile::tempdir().expect("a mount point");
    let path = target.path().to_string_lossy().into_owned();
    tranship(&[
        "mount",
        "--agent",
        &socket,
        "--writable",
        &image.reference(),
        &path,
    ]);
    let said = run(
        "chroot",
        &[
            &path,
            "/bin/sh",
            "-c",
            "echo new > /srv/written && rm /srv/owned && perl -e 'print 6 * 7' && cat /srv/written",
        ],
    );
    assert_eq!(said, "42new\n");
    assert!(!target.path().join("srv/owned").exists());
    tranship(&["umount", "--agent", &socket, &path]);
    let fetched = image.registry.sent_len();
    assert!(
        fetched < image.blobs_len() / 2,
        "running a program fetched {fetched} of {} bytes: that is not lazy",
        image.blobs_len()
    );
}

#[test]
fn an_image_is_detached_from_all_its_front_ends() {
    let registry = DockerRegistry::start();
    let reference = convert(&registry);
    let mut cluster = Cluster::empty();
    let agent = cluster.start_agent(&AgentOptions::default());
    let socket = cluster.agents[agent].socket();
    let by = ["--agent", &*socket];
    let attach = |front_end: &str| {
        let with = ["attach", "--front-end", front_end, &reference];
        tranship(&[&with[..], &by].concat());
    };
    let detach = |args: &[&str]| tranship_output(&[&["detach"], args, &by].concat());
    let ids = || {
        let devices = cluster.agents[agent].call("GET", "/v1/devices", "");
        let devices = devices.as_array().expect("a list").clone();
        let ids = devices.iter().map(|device| device["id"].as_str());
        ids.map(|id| id.expect("an id").to_owned())
            .collect::<Vec<String>>()
    };

    for front_end in ["fuse-loop", "nbd"] {
        attach(front_end);
    }
    let [by_loop, by_nbd] = <[String; 2]>::try_from(ids()).expect("two devices");
    let (code, _, told) = tranship_output(&[&["trace", &reference], &by[..]].concat());
    assert!(code == 2 && told.contains("more than one device"), "{told}");
    let (code, printed, told) = detach(&[&reference, "--output", "json"]);
    assert_eq!(code, 0, "{told}");
    let printed: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
    let given_up = |id: &str| serde_json::json!({ "id": id, "use_count": 0 });
    assert_eq!(
        printed,
        serde_json::json!([given_up(&by_loop), given_up(&by_nbd)])
    );
    assert!(ids().is_empty());

    // By its id it is that one alone.
    for front_end in ["fuse-loop", "nbd"] {
        attach(front_end);
    }
    let (code, printed, told) = detach(&[&by_nbd, "--output", "json"]);
    assert_eq!(code, 0, "{told}");
    let printed: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!((printed, ids()), (given_up(&by_nbd), vec![by_loop.clone()]));

    // What is mounted stays, and is told of.
    attach("nbd");
    let target = tempfile::tempdir().expect("a mount point");
    let path = target.path().to_string_lossy().into_owned();
    tranship(&[&["mount", &by_loop, &path], &by[..]].concat());
    let (code, _, told) = detach(&[&reference]);
    assert!(code == 7 && told.contains(&by_loop), "{code} {told}");
    assert!(!told.contains(&by_nbd), "{told}");
    assert_eq!(ids(), [by_loop]);
    tranship(&[&["umount", &path], &by[..]].concat());
    assert_eq!(detach(&[&reference]).0, 0);
    assert!(ids().is_empty());
}
