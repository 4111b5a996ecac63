//! Conversion: the same digest twice, proof that finds one wrong byte, and layers that others can read.

use crate::image::{Converted, LoopMount, convert};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use tranship_tests::command::tranship_output;
use tranship_tests::compare::assert_equal_trees;
use tranship_tests::{independent, need_tools, run, tranship};

#[test]
fn converting_twice_gives_one_digest_and_verify_finds_each_flipped_byte() {
    let image = Converted::make();
    let again = convert(
        &image.debian.reference(),
        &image.registry.direct_host(),
        "v2",
    );
    assert_eq!(image.digest, again, "same input, same digest");
    tranship(&["verify", &image.direct_reference()]);

    for (number, file) in image.layer_files().iter().enumerate() {
        let blob = OpenOptions::new()
            .read(true)
            .write(true)
            .open(file)
            .expect("a blob");
        let len = blob.metadata().expect("its length").len();
        // The tar header, the ZFile header, data, the indexes' region, the chunk table, the last zero.
        for at in [
            0,
            1537,
            len / 3,
            len - 40_000.min(len / 2),
            len - 1500,
            len - 1,
        ] {
            let mut byte = [0];
            blob.read_exact_at(&mut byte, at).expect("a byte");
            blob.write_all_at(&[byte[0] ^ 0x10], at)
                .expect("a flipped byte");
            let (code, _, said) = tranship_output(&["verify", &image.direct_reference()]);
            blob.write_all_at(&byte, at).expect("the byte restored");
            assert_eq!(code, 3, "layer {number}, byte {at} of {len}: {said}");
            assert!(said.contains("sha256:"), "the layer is named: {said}");
        }
    }
    tranship(&["verify", &image.direct_reference()]);
}

#[test]
fn stock_readers_find_what_we_wrote() {
    need_tools(&["fsck.erofs", "dump.erofs"]);
    let image = Converted::make();
    let blobs: Vec<Vec<u8>> = image
        .layer_files()
        .iter()
        .map(|file| fs::read(file).expect("a blob"))
        .collect();
    let folder = tempfile::tempdir().expect("a scratch folder");
    // Each prefix of the layers is an image of its own, and the filesystem is whole in each.
    for count in 1..=blobs.len() {
        let path = folder.path().join(format!("device-{count}"));
        let device = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .expect("a device file");
        independent::paint(&blobs[..count], &device);
        run("fsck.erofs", &[&path.to_string_lossy()]);
        run("dump.erofs", &["-s", &path.to_string_lossy()]);
    }
    let device = folder.path().join(format!("device-{}", blobs.len()));
    let mount = LoopMount::of(&device);
    let compared = assert_equal_trees(&image.debian.unpacked(), mount.path());
    assert!(compared.entries > 15_000, "{compared:?}");

    // Our own reader agrees with the independent one on every byte of the device.
    let exported = folder.path().join("exported");
    tranship(&[
        "export",
        &image.direct_reference(),
        "--raw",
        &exported.to_string_lossy(),
    ]);
    run(
        "cmp",
        &[&device.to_string_lossy(), &exported.to_string_lossy()],
    );
}

#[test]
fn annotations_are_overlaybds_and_ours() {
    let image = Converted::make();
    let manifest = image.manifest();
    for layer in manifest["layers"].as_array().expect("layers") {
        let annotations = &layer["annotations"];
        assert_eq!(
            layer["mediaType"], "application/vnd.oci.image.layer.v1.tar",
            "an overlaybd layer is a plain tar to others"
        );
        assert_eq!(
            annotations["containerd.io/snapshot/overlaybd/blob-digest"], layer["digest"],
            "overlaybd's snapshotter finds the blob by this"
        );
        assert_eq!(
            annotations["containerd.io/snapshot/overlaybd/blob-size"],
            layer["size"].to_string().as_str()
        );
        for key in ["chunks-digest", "chunks-offset", "chunks-size"] {
            let key = format!("containerd.io/snapshot/tranship/{key}");
            assert!(annotations[&key].is_string(), "{key} is there");
        }
    }
}
