//! Layers without a chunk table, with proofs of them beside the image.

use std::time::{Duration, Instant};

use tranship_agent::control::{FrontEndChoice, MountRequest};
use tranship_format::ChunkTable;
use tranship_source::manifest::{Descriptor, ImageIndex, Manifest};
use tranship_source::proof::manifest_of_proofs;

use crate::daemon::Daemon;
use crate::image::Image;
use crate::registry::Registry;

/// The image as another converter's, without our annotations.
fn push_stock(image: &Image, registry: &Registry) -> (String, Manifest) {
    let change = |layer: &mut Descriptor| {
        let ours = |key: &String| key.contains("/tranship/");
        layer.annotations.retain(|key, _| !ours(key));
    };
    let reference = image.push_changed(registry, "stock", change);
    (reference, image.manifest(change))
}

/// Puts a manifest of proofs beside the image, of these tables.
fn push_proofs(registry: &Registry, image: &Manifest, tables: Vec<ChunkTable>) -> Descriptor {
    let layers = image.image().unwrap().layers;
    let blobs = layers.iter().map(|layer| layer.digest);
    let proofs: Vec<_> = blobs.zip(tables).collect();
    let (manifest, tables) = manifest_of_proofs(image, &proofs).unwrap();
    for table in tables {
        let digest = tranship_format::Digest::of(&table).to_string();
        registry.put_blob(&digest, table.to_vec());
    }
    let name = manifest.digest().to_string();
    registry.put_manifest(&name, manifest.media_type(), manifest.bytes());
    let mut entry = manifest.descriptor();
    entry.artifact_type = manifest.image().unwrap().artifact_type;
    entry
}

fn list(registry: &Registry, image: &Manifest, proofs: Vec<Descriptor>) {
    let index = Manifest::from_index(&ImageIndex::new(proofs)).unwrap();
    let tag = format!("sha256-{}", image.digest().hex());
    registry.put_manifest(&tag, index.media_type(), index.bytes());
}

fn right(image: &Image) -> Vec<ChunkTable> {
    let blobs = image.blobs();
    blobs.map(|blob| ChunkTable::proof(blob).unwrap()).collect()
}

/// Proofs of other bytes of the same length.
fn wrong(image: &Image) -> Vec<ChunkTable> {
    let blobs = image.blobs().map(|blob| vec![0; blob.len()]);
    blobs
        .map(|blob| ChunkTable::proof(blob.as_slice()).unwrap())
        .collect()
}

fn trusting(registry: &Registry) -> String {
    let place = registry.reference("image");
    format!("[registry]\ntrust_proofs = [\"{place}\"]")
}

/// The same, and everything is fetched behind the reader's back.
fn trusting_and_filling(registry: &Registry) -> String {
    format!("{}\n[prefetch]\nbackground = true", trusting(registry))
}

fn until(daemon: &Daemon, what: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !is() {
        let late = Instant::now() > deadline;
        assert!(
            !late,
            "waited in vain until {what}; the log:\n{}",
            daemon.log()
        );
        std::thread::yield_now();
    }
}

#[test]
fn with_a_trusted_proof_a_layer_without_a_table_is_read_lazily() {
    let (registry, image) = (Registry::start(), Image::new());
    let (reference, manifest) = push_stock(&image, &registry);
    let proofs = push_proofs(&registry, &manifest, right(&image));
    list(&registry, &manifest, vec![proofs]);
    let daemon = Daemon::start(&trusting(&registry));
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    let sent = registry.sent_len();
    assert!(sent < image.stored_len() / 2, "{sent} bytes to open it");
    let target = daemon.mount(&device, "mounted", false);
    image.assert_at(&target);
}

#[test]
fn a_proof_that_nobody_trusts_is_not_looked_at() {
    let (registry, image) = (Registry::start(), Image::new());
    let (reference, manifest) = push_stock(&image, &registry);
    let proofs = push_proofs(&registry, &manifest, wrong(&image));
    list(&registry, &manifest, vec![proofs]);
    let daemon = Daemon::start("[registry]\ntrust_proofs = [\"registry.example\"]");
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    let target = daemon.mount(&device, "mounted", false);
    image.assert_at(&target);
}

#[test]
fn proofs_that_contradict_each_other_prove_nothing() {
    let (registry, image) = (Registry::start(), Image::new());
    let (reference, manifest) = push_stock(&image, &registry);
    let tables = [wrong(&image), right(&image)];
    let proofs = tables.map(|tables| push_proofs(&registry, &manifest, tables));
    list(&registry, &manifest, proofs.into());
    let daemon = Daemon::start(&trusting(&registry));
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    let target = daemon.mount(&device, "mounted", false);
    image.assert_at(&target);
    assert!(daemon.log().contains("contradict"), "{}", daemon.log());
}

#[test]
fn a_blob_that_was_read_by_a_proof_needs_it_no_longer_once_its_digest_was_found() {
    let (registry, image) = (Registry::start(), Image::new());
    let (reference, manifest) = push_stock(&image, &registry);
    let proofs = push_proofs(&registry, &manifest, right(&image));
    list(&registry, &manifest, vec![proofs]);
    let mut daemon = Daemon::start(&trusting_and_filling(&registry));
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    until(&daemon, "both blobs are whole", || {
        let log = daemon.log();
        image.blobs().all(|blob| {
            let digest = tranship_format::Digest::of(blob).to_string();
            let is_said = |line: &str| line.contains("has its digest") && line.contains(&digest);
            log.lines().any(is_said)
        })
    });
    daemon.must(daemon.client().detach(&device.id));
    daemon.stop();
    let settings = std::fs::read_to_string(daemon.path("agent.toml")).unwrap();
    let distrustful = settings.replace("trust_proofs", "extra_roots = [] #");
    assert_ne!(settings, distrustful);
    std::fs::write(daemon.path("agent.toml"), distrustful).unwrap();
    daemon.restart();
    let sent = registry.sent_len();
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    let target = daemon.mount(&device, "mounted", false);
    image.assert_at(&target);
    let again = registry.sent_len() - sent;
    assert!(again < 8 << 10, "{again} bytes, more than a manifest");
}

#[test]
fn a_proof_that_lied_is_found_out_and_its_blob_kept_from_readers() {
    let (registry, image) = (Registry::start(), Image::new());
    let (reference, manifest) = push_stock(&image, &registry);
    // The last byte is of no filesystem: nothing but the blob's digest can tell.
    let mut blobs: Vec<Vec<u8>> = image.blobs().map(<[u8]>::to_vec).collect();
    *blobs[1].last_mut().unwrap() ^= 1;
    registry.put_blob(&image.blob(1), blobs[1].clone());
    let tables = blobs
        .iter()
        .map(|blob| ChunkTable::proof(blob.as_slice()).unwrap());
    let proofs = push_proofs(&registry, &manifest, tables.collect());
    list(&registry, &manifest, vec![proofs]);
    let daemon = Daemon::start(&trusting_and_filling(&registry));
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    until(&daemon, "the lie is found", || {
        daemon.metric("tranship_wrong_proofs_total", "") == 1
    });
    let request = MountRequest {
        target: daemon.path("refused"),
        writable: false,
    };
    assert!(
        daemon
            .call(daemon.client().mount(&device.id, &request))
            .is_err()
    );
    let log = daemon.log();
    assert!(
        log.contains("a proof lied") && log.contains(&image.blob(1)),
        "{log}"
    );
    daemon.must(daemon.client().detach(&device.id));

    // The right blob, and the lie still beside it: it is read whole.
    registry.put_blob(&image.blob(1), image.blobs().nth(1).unwrap().to_vec());
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    let target = daemon.mount(&device, "mounted", false);
    image.assert_at(&target);
    assert_eq!(daemon.metric("tranship_wrong_proofs_total", ""), 1);
}
