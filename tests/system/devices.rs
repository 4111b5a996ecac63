//! Every file of the image, through every front end, equal to what `umoci` unpacks.

use crate::image::{Converted, LoopMount};
use tranship_tests::compare::assert_equal_trees;
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
