//! What cannot be done is said, with what to do about it, and costs nobody else anything.

use std::fs;

use tranship_agent::control::{AttachRequest, FrontEndChoice, MountRequest};
use tranship_format::annotation::CHUNKS_DIGEST;

use crate::daemon::Daemon;
use crate::image::Image;
use crate::registry::Registry;

#[test]
fn registry_and_tracker_that_are_away_stop_nobody() {
    let mut registry = Registry::start();
    let reference = format!("{}:plain", registry.reference("image"));
    registry.close();
    let tracker = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWFUyoKPhtzhjyHTc7G6qr7F96sz1vzUEYtFR364BN8UvW";
    let daemon = Daemon::start(&format!(
        "tracker = \"{tracker}\"\ntoken = \"t\"\n[registry]\ndeadline = \"1s\""
    ));
    let error = daemon.attach_fails(&reference, FrontEndChoice::Auto);
    assert_eq!(error.status(), Some(502), "{error}");
    assert!(error.hint().unwrap().contains("reachable"), "{error}");
    let status = daemon.must(daemon.client().status());
    assert!(!status.swarm.joined && !status.swarm.trackers.is_empty());
    assert!(daemon.http("/healthz").starts_with("HTTP/1.1 200"));
    assert!(daemon.http("/readyz").starts_with("HTTP/1.1 200"));
    assert!(daemon.must(daemon.client().devices()).is_empty());
}

#[test]
fn chunk_table_that_the_manifest_does_not_vouch_for_is_refused() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    registry.flip(&image.blob(1), image.table_offset(1) + 20, u32::MAX);
    let daemon = Daemon::start("");
    let error = daemon.attach_fails(&reference, FrontEndChoice::Auto);
    let said = error.to_string();
    assert!(
        said.contains("chunk table") && said.contains(&image.blob(1)),
        "{said}"
    );
    assert_eq!(error.status(), Some(502));
    let wrong = image.push_changed(&registry, "wrong", |layer| {
        let other = tranship_format::Digest::of(b"another table").to_string();
        layer.annotations.insert(CHUNKS_DIGEST.to_owned(), other);
    });
    let said = daemon
        .attach_fails(&wrong, FrontEndChoice::Auto)
        .to_string();
    assert!(
        said.contains("chunk table") && said.contains("the manifest says"),
        "{said}"
    );
    assert!(daemon.must(daemon.client().devices()).is_empty());
}

#[test]
fn descriptor_that_names_another_blob_than_its_annotations_is_refused() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push_changed(&registry, "mixed", |layer| layer.size += 1);
    let daemon = Daemon::start("");
    let error = daemon.attach_fails(&reference, FrontEndChoice::Auto);
    assert_eq!(error.status(), Some(422), "{error}");
}

#[test]
fn image_that_was_never_converted_is_refused_with_the_way_to_do_it() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push_changed(&registry, "tars", |layer| layer.annotations.clear());
    let daemon = Daemon::start("");
    let error = daemon.attach_fails(&reference, FrontEndChoice::Auto);
    assert_eq!(error.status(), Some(422), "{error}");
    assert!(
        error.hint().unwrap().contains("tranship convert"),
        "{error}"
    );
}

#[test]
fn wrong_requests_are_told_from_each_other() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let daemon = Daemon::start("");
    let absent = daemon.attach_fails(
        &format!("{}:absent", registry.reference("image")),
        FrontEndChoice::Auto,
    );
    assert_eq!(absent.status(), Some(404), "{absent}");
    assert_eq!(
        daemon
            .attach_fails("http://no", FrontEndChoice::Auto)
            .status(),
        Some(400)
    );
    assert_eq!(
        daemon
            .attach_fails("oci:/tmp/x", FrontEndChoice::Auto)
            .status(),
        Some(400)
    );
    let device = daemon.attach(&reference, FrontEndChoice::Nbd);
    let mount = |target: &str| MountRequest {
        target: target.into(),
        writable: false,
    };
    let target = daemon.path("mounted");
    let nbd = daemon.call(
        daemon
            .client()
            .mount(&device.id, &mount(target.to_str().unwrap())),
    );
    assert_eq!(nbd.unwrap_err().status(), Some(422));
    let relative = daemon.call(daemon.client().mount(&device.id, &mount("here")));
    assert_eq!(relative.unwrap_err().status(), Some(400));
    let nobody = daemon.call(daemon.client().mount("nobody", &mount("/here")));
    assert_eq!(nobody.unwrap_err().status(), Some(404));
    let device = daemon.attach(&reference, FrontEndChoice::FuseLoop);
    let target = daemon.mount(&device, "mounted", false);
    let taken = daemon.call(
        daemon
            .client()
            .mount(&device.id, &mount(target.to_str().unwrap())),
    );
    assert_eq!(taken.unwrap_err().status(), Some(409));
    let held = fs::File::open(target.join("etc/kept")).unwrap();
    let busy = daemon.call(daemon.client().unmount(&target)).unwrap_err();
    assert_eq!(busy.status(), Some(409), "{busy}");
    drop(held);
    daemon.unmount(&target);
}

#[test]
fn socket_is_its_owners_alone_and_a_second_daemon_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let daemon = Daemon::start("");
    let mode = fs::metadata(daemon.path("agent.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_tranship-agent"))
        .arg("--config")
        .arg(daemon.path("agent.toml"))
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("in use"), "{said}");
    daemon.must(daemon.client().status());
}

#[test]
fn registry_that_ignores_ranges_is_read_whole_and_once() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    registry.ignore_ranges();
    let daemon = Daemon::start("");
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    let target = daemon.mount(&device, "mounted", false);
    image.assert_at(&target);
    daemon.unmount(&target);
    let (passes, blobs) = (daemon.log().matches("ignores ranges").count(), 2);
    assert_eq!(passes, blobs, "{}", daemon.log());
}

#[test]
fn image_decides_whether_its_reads_wait_for_a_registry_that_is_gone() {
    let (mut registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let daemon = Daemon::start("[registry]\ndeadline = \"1s\"");
    let attach = |word: &str| {
        let request = AttachRequest {
            reference: reference.clone(),
            front_end: FrontEndChoice::ErofsFile,
            plain_http: None,
            unserved: Some(word.parse().unwrap()),
        };
        daemon.must(daemon.client().attach(&request))
    };
    let device = attach("error");
    let target = daemon.mount(&device, "mounted", false);
    registry.close();
    let errno = || {
        fs::read(target.join("bin/first"))
            .unwrap_err()
            .raw_os_error()
    };
    // The kernel's EROFS says EIO whatever the device said.
    assert!(errno().is_some());
    assert!(
        daemon.log().contains("no source gives chunk"),
        "{}",
        daemon.log()
    );
    let shared = attach("wait=1s");
    assert_eq!(shared.unserved.to_string(), "wait=1s");
    assert!(errno().is_some());
    assert!(
        daemon.log().contains("did not arrive in"),
        "{}",
        daemon.log()
    );
}
