//! Conversion: the same digest twice, proof that finds one wrong byte, and layers that others can read.

use crate::image::{Converted, LoopMount, convert};
use std::fs::Permissions;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use tranship_tests::awkward::Awkward;
use tranship_tests::command::tranship_output;
use tranship_tests::compare::assert_equal_trees;
use tranship_tests::registry::DockerRegistry;
use tranship_tests::{binary, independent, need_tools, run, tranship};

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
fn the_kernel_shows_what_each_form_of_tar_says() {
    let image = Awkward::make();
    let folder = tempfile::tempdir().expect("a scratch folder");
    let lazy = format!("oci:{}:v1", folder.path().join("lazy").display());
    tranship(&["convert", &image.reference(), &lazy]);
    let device = folder.path().join("device");
    tranship(&["export", &lazy, "--raw", &device.to_string_lossy()]);
    run("fsck.erofs", &[&device.to_string_lossy()]);
    let mount = LoopMount::of(&device);
    let compared = assert_equal_trees(&image.unpacked(), mount.path());
    assert!(compared.entries > 60, "{compared:?}");
}

#[test]
fn whoever_has_no_rights_makes_the_same_image_and_leaves_nothing_behind() {
    need_tools(&["setpriv"]);
    let image = Awkward::make();
    let folder = tempfile::tempdir().expect("a scratch folder");
    // The program and the image in places that everybody may read, and folders that nobody's user may write to.
    let at = |name: &str| folder.path().join(name);
    let open = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("permissions");
    };
    open(folder.path(), 0o755);
    fs::copy(binary("tranship"), at("tranship")).expect("the program");
    run(
        "cp",
        &[
            "-r",
            &image.layout().to_string_lossy(),
            &at("source").to_string_lossy(),
        ],
    );
    run("chmod", &["-R", "a+rX", &at("source").to_string_lossy()]);
    for name in ["made", "tmp"] {
        fs::create_dir(at(name)).expect("a folder");
        open(&at(name), 0o777);
    }
    let made = format!("oci:{}:v1", at("made/image").display());
    let source = format!("oci:{}:v1", at("source").display());
    let program = at("tranship").to_string_lossy().into_owned();
    let temporary = at("tmp").to_string_lossy().into_owned();
    let user = [
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
        "--no-new-privs",
    ];
    let convert = [&program, "convert", "--tmp-dir", &temporary, &source, &made];
    let said = run("setpriv", &[&user[..], &convert[..]].concat());
    let by_root = format!("oci:{}:v1", at("by-root").display());
    let digest = |said: &str| said.trim().rsplit('@').next().map(str::to_owned);
    let again = tranship(&["convert", &image.reference(), &by_root]);
    assert_eq!(digest(&said), digest(&again));
    let left: Vec<_> = fs::read_dir(at("tmp")).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn layout_archive_and_registry_give_one_manifest_and_reuse_the_same() {
    need_tools(&["skopeo"]);
    let image = Awkward::make();
    let registry = DockerRegistry::start();
    let folder = tempfile::tempdir().expect("a scratch folder");
    let archive = format!(
        "oci-archive:{}:v1",
        folder.path().join("image.tar").display()
    );
    let pushed = format!("docker://{}/test/awkward:v1", registry.direct_host());
    for copy in [&archive, &pushed] {
        let from = image.reference();
        let arguments = [
            "--insecure-policy",
            "copy",
            "--quiet",
            "--preserve-digests",
            "--dest-tls-verify=false",
        ];
        run(
            "skopeo",
            &[&arguments[..], &[from.as_str(), copy.as_str()]].concat(),
        );
    }
    let digest_of = |from: &str, to: &str, more: &[&str]| {
        let printed = tranship(&[&["convert", from, to], more].concat());
        let (_, digest) = printed.trim().rsplit_once('@').expect("a digest");
        digest.to_owned()
    };
    let layout = |name: &str| format!("oci:{}:v1", folder.path().join(name).display());
    let digest = digest_of(&image.reference(), &layout("one"), &[]);
    assert_eq!(digest, digest_of(&archive, &layout("two"), &[]));
    let lazy = format!("docker://{}/test/awkward:lazy", registry.direct_host());
    assert_eq!(
        digest,
        digest_of(&pushed, &lazy, &["--block-size", "32KiB"])
    );
    let again = format!("docker://{}/test/awkward:again", registry.direct_host());
    assert_eq!(digest, digest_of(&pushed, &again, &["--reuse"]));

    // A registry of specification 1.0: attached under the tag that stands for a list of referrers, and found there.
    digest_of(&pushed, &pushed, &["--mode", "attach"]);
    let shown = tranship(&["cat", &pushed, "/twice"]);
    assert_eq!(shown, "the last");
    let beside = format!("docker://{}/test/awkward:both", registry.direct_host());
    digest_of(&pushed, &beside, &["--mode", "index", "--all-platforms"]);
    assert_eq!(tranship(&["cat", &beside, "/twice"]), "the last");
    let plain = folder.path().join("plain");
    let plain = format!("oci:{}:v1", plain.display());
    run(
        "skopeo",
        &[
            "--insecure-policy",
            "copy",
            "--quiet",
            "--preserve-digests",
            "--src-tls-verify=false",
            &beside,
            &plain,
        ],
    );
    let left = fs::read(folder.path().join("plain/index.json")).expect("an index");
    let kept = fs::read(image.layout().join("index.json")).expect("an index");
    let digest_in = |index: &[u8]| {
        let index: serde_json::Value = serde_json::from_slice(index).expect("an index in JSON");
        index["manifests"][0]["digest"].clone()
    };
    assert_eq!(
        digest_in(&left),
        digest_in(&kept),
        "others take the original"
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
