//! Images as devices and mounts, through each front end.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;

use tranship_agent::control::{DeviceState, FrontEndChoice};
use tranship_format::erofs::Filesystem;

use crate::daemon::Daemon;
use crate::image::Image;
use crate::registry::Registry;

#[test]
fn every_file_is_right_through_fuse_loop_and_erofs_file() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let daemon = Daemon::start("");
    for front_end in [FrontEndChoice::FuseLoop, FrontEndChoice::ErofsFile] {
        let device = daemon.attach(&reference, front_end);
        assert_eq!(device.front_end.to_string(), front_end.to_string());
        let target = daemon.mount(&device, "mounted", false);
        image.assert_at(&target);
        assert!(
            fs::write(target.join("new"), "x").is_err(),
            "it is read-only"
        );
        daemon.unmount(&target);
        let reply = daemon.must(daemon.client().detach(&device.id));
        assert_eq!(reply.use_count, 0);
    }
    assert!(daemon.must(daemon.client().devices()).is_empty());
    assert_eq!(daemon.mounts(), Vec::<std::path::PathBuf>::new());
    let stored = image.stored_len();
    assert!(
        registry.sent_len() < stored + stored / 10,
        "each chunk was read once"
    );
}

#[test]
fn every_file_is_right_through_nbd() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let daemon = Daemon::start("");
    let device = daemon.attach(&reference, FrontEndChoice::Nbd);
    assert!(
        device
            .nbd_uri
            .as_ref()
            .unwrap()
            .starts_with("nbd+unix:///?socket=")
    );
    let mut stream = UnixStream::connect(&device.path).unwrap();
    let export = nbd::client::handshake(&mut stream, b"").unwrap();
    assert_eq!(export.size, device.size);
    let mut bytes = vec![0; usize::try_from(device.size).unwrap()];
    nbd::client::NbdClient::new(&mut stream, &export)
        .read_exact(&mut bytes)
        .unwrap();
    let filesystem = Filesystem::open(bytes).unwrap();
    for (name, content) in &image.files {
        let inode = filesystem.lookup(name.as_bytes()).unwrap();
        let mut found = vec![0; content.len()];
        let len = filesystem.read(&inode, 0, &mut found).unwrap();
        assert!(len == content.len() && found == *content, "{name} differs");
    }
}

#[test]
fn reading_one_file_fetches_little_of_the_image() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let daemon = Daemon::start("");
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    let target = daemon.mount(&device, "mounted", false);
    assert_eq!(fs::read(target.join("etc/kept")).unwrap(), b"kept\n");
    let (sent, stored) = (registry.sent_len(), image.stored_len());
    assert!(
        sent < stored / 3,
        "{sent} of {stored} bytes for a small file"
    );
    assert!(fs::read(target.join("bin/third")).unwrap() == image.files["bin/third"]);
    let fill = daemon.must(daemon.client().devices())[0].fill;
    assert!(fill.present_len > 1 << 20 && fill.present_len < fill.stored_len);
}

#[test]
fn same_image_is_one_device_until_the_last_detach() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let daemon = Daemon::start("");
    let first = daemon.attach(&reference, FrontEndChoice::FuseLoop);
    let second = daemon.attach(&reference, FrontEndChoice::FuseLoop);
    assert_eq!((&first.id, &first.path), (&second.id, &second.path));
    assert_eq!(second.use_count, 2);
    let other = daemon.attach(&reference, FrontEndChoice::ErofsFile);
    assert_ne!(first.id, other.id);
    assert_eq!(daemon.must(daemon.client().detach(&first.id)).use_count, 1);
    let target = daemon.mount(&first, "mounted", false);
    let refused = daemon.call(daemon.client().detach(&first.id)).unwrap_err();
    assert_eq!(refused.status(), Some(409));
    assert!(refused.hint().unwrap().contains("umount"), "{refused}");
    image.assert_at(&target);
    daemon.unmount(&target);
    assert_eq!(daemon.must(daemon.client().detach(&first.id)).use_count, 0);
    assert_eq!(
        daemon
            .call(daemon.client().detach(&first.id))
            .unwrap_err()
            .status(),
        Some(404)
    );
}

#[test]
fn attaches_at_the_same_time_make_one_device() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let daemon = Daemon::start("");
    let client = daemon.client();
    let request = tranship_agent::control::AttachRequest {
        reference,
        front_end: FrontEndChoice::FuseLoop,
        plain_http: None,
        unserved: None,
    };
    let attaches = futures::future::try_join_all((0..8).map(|_| client.attach(&request)));
    let devices = daemon.must(attaches);
    assert!(devices.iter().all(|device| device.path == devices[0].path));
    assert_eq!(daemon.must(client.devices())[0].use_count, 8);
}

#[test]
fn writable_mount_takes_writes_that_end_with_it() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let daemon = Daemon::start("");
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    let (one, other) = (
        daemon.mount(&device, "one", true),
        daemon.mount(&device, "other", true),
    );
    fs::write(one.join("etc/new"), "written").unwrap();
    fs::remove_file(one.join("etc/kept")).unwrap();
    assert_eq!(fs::read(one.join("etc/new")).unwrap(), b"written");
    image.assert_at(&other);
    daemon.unmount(&one);
    let again = daemon.mount(&device, "one", true);
    image.assert_at(&again);
    daemon.unmount(&again);
    daemon.unmount(&other);
}

#[test]
fn store_that_is_too_small_makes_reads_slow_and_never_wrong() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    for quota in ["1MiB", "0B"] {
        let daemon = Daemon::start(&format!(
            "[store]\nquota = \"{quota}\"\nfree_floor = \"0B\""
        ));
        let device = daemon.attach(&reference, FrontEndChoice::Auto);
        let target = daemon.mount(&device, "mounted", false);
        image.assert_at(&target);
        let store = daemon.must(daemon.client().status()).store;
        assert!(store.used_len <= 1 << 20, "{store:?}");
        assert!(store.evicted_count + store.refused_count > 0, "{store:?}");
    }
}

#[test]
fn corrupt_chunk_from_the_registry_is_thrown_away_and_read_again() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    registry.flip(&image.blob(0), 1 << 20, 1);
    let daemon = Daemon::start("");
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    let target = daemon.mount(&device, "mounted", false);
    image.assert_at(&target);
    assert!(
        daemon.metric("tranship_refused_chunks", "") >= 1,
        "{}",
        daemon.log()
    );
}

#[test]
fn layers_without_a_chunk_table_are_read_whole_and_work() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push_changed(&registry, "stock", |layer| {
        layer
            .annotations
            .retain(|key, _| !key.contains("/tranship/"));
    });
    let daemon = Daemon::start("");
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    let target = daemon.mount(&device, "mounted", false);
    image.assert_at(&target);
    assert_eq!(device.fill.present_len, image.stored_len());
    let plain = image.push(&registry);
    let refused = daemon.attach_fails(&plain, FrontEndChoice::Auto);
    assert!(
        refused.to_string().contains("another chunk table"),
        "{refused}"
    );
    daemon.unmount(&target);
    daemon.must(daemon.client().detach(&device.id));
    let device = daemon.attach(&plain, FrontEndChoice::Auto);
    let target = daemon.mount(&device, "mounted", false);
    image.assert_at(&target);
}

#[test]
fn background_fill_brings_the_rest() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let daemon = Daemon::start("[prefetch]\nbackground = true");
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    let complete = (0..100_000).any(|_| {
        let devices = daemon.must(daemon.client().devices());
        devices[0].fill.present_len == devices[0].fill.stored_len
    });
    assert!(complete, "{}", daemon.log());
    assert_eq!(device.state, DeviceState::Attached);
}

#[test]
fn large_files_of_one_image_are_not_fetched_again_for_another() {
    let (registry, one, other) = (Registry::start(), Image::new(), Image::named("another"));
    let daemon = Daemon::start("");
    let mut sent = Vec::new();
    for image in [&one, &other] {
        let device = daemon.attach(&image.push(&registry), FrontEndChoice::Auto);
        let target = daemon.mount(&device, &device.id, false);
        image.assert_at(&target);
        sent.push(registry.sent_len());
    }
    let again = sent[1] - sent[0];
    assert_ne!(one.blob(0), other.blob(0));
    assert!(
        again < other.stored_len() / 8,
        "{again} bytes were read again"
    );
    let copied = daemon.must(daemon.client().status()).store.copied_count;
    assert!(copied > 10, "{copied} chunks were copied");
}

#[test]
fn image_with_a_trace_of_reads_on_top_is_shown_without_it() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push_with_trace(&registry);
    let daemon = Daemon::start("");
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    let target = daemon.mount(&device, "mounted", false);
    image.assert_at(&target);
    daemon.unmount(&target);
}

#[test]
fn two_hundred_images_attach_at_once_and_come_back_after_a_kill() {
    let (registry, image) = (Registry::start(), Image::new());
    let references: Vec<String> = (0..200)
        .map(|number| {
            image.push_changed(&registry, &format!("number-{number}"), |layer| {
                let note = ("number".to_owned(), number.to_string());
                layer.annotations.extend([note]);
            })
        })
        .collect();
    let mut daemon = Daemon::start("");
    let client = daemon.client();
    let attaching = references.iter().map(|reference| {
        let client = &client;
        async move {
            let request = tranship_agent::control::AttachRequest {
                reference: reference.clone(),
                front_end: FrontEndChoice::FuseLoop,
                plain_http: None,
                unserved: None,
            };
            client.attach(&request).await
        }
    });
    let begun = std::time::Instant::now();
    let devices = daemon.must(futures::future::try_join_all(attaching));
    println!("200 attaches at once took {:?}", begun.elapsed());
    let paths: BTreeSet<_> = devices.iter().map(|device| device.path.clone()).collect();
    assert_eq!(paths.len(), 200, "each has a device of its own");
    let sector = |path: &std::path::Path| {
        let mut bytes = vec![0; 4096];
        fs::File::open(path)
            .unwrap()
            .read_exact(&mut bytes)
            .unwrap();
        bytes
    };
    let first = sector(&devices[0].path);
    assert!(paths.iter().all(|path| sector(path) == first));

    daemon.restart();
    let again = daemon.must(client.devices());
    assert!(
        again
            .iter()
            .all(|device| device.state == DeviceState::Attached)
    );
    let found: BTreeSet<_> = again.iter().map(|device| device.path.clone()).collect();
    assert_eq!(found, paths, "each is where it was");
    assert!(paths.iter().all(|path| sector(path) == first));
    let detaching = devices.iter().map(|device| client.detach(&device.id));
    daemon.must(futures::future::try_join_all(detaching));
    assert_eq!(daemon.must(client.orphans()), []);
    assert_eq!(daemon.mounts(), Vec::<std::path::PathBuf>::new());
}
