//! Images that overlaybd's own tools made, pushed as they are: attached, mounted, verified and looked into.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tranship_tests::command::tranship_output;
use tranship_tests::registry::DockerRegistry;
use tranship_tests::{AgentOptions, Cluster, need_tools, run, stock, tranship};

const LAYERS: [&str; 3] = ["l0", "l1", "l2"];

/// The forms of the three layers: overlaybd's converters push the first; the others are in registries, too.
const FORMS: [[&str; 3]; 3] = [
    ["overlaybd.commit"; 3],
    ["layer.zfile"; 3],
    ["overlaybd.commit", "layer.lsmt", "layer.zfile"],
];

/// Pushes the layers in a form and gives the image's name in the registry.
fn push(registry: &DockerRegistry, vectors: &Path, codec: &str, form: usize) -> String {
    need_tools(&["skopeo"]);
    let layers: Vec<PathBuf> = LAYERS
        .iter()
        .zip(FORMS[form])
        .map(|(layer, file)| vectors.join(codec).join(layer).join(file))
        .collect();
    let folder = tempfile::tempdir().expect("a scratch folder");
    let layout = folder.path().join("layout");
    stock::write(&layout, "v1", &layers);
    let name = format!("stock/{codec}:form{form}");
    run(
        "skopeo",
        &[
            "copy",
            "--quiet",
            "--preserve-digests",
            "--dest-tls-verify=false",
            &format!("oci:{}:v1", layout.display()),
            &format!("docker://{}/{name}", registry.direct_host()),
        ],
    );
    name
}

/// Path and SHA-256 of each file that the image holds.
fn expected(vectors: &Path) -> BTreeMap<String, String> {
    let text =
        fs::read_to_string(vectors.join("EXPECTED-FILES.sha256")).expect("the files' digests");
    let line = |line: &str| {
        let (digest, path) = line.split_once("  ").expect("a digest and a path");
        (path.trim_start_matches("./").to_owned(), digest.to_owned())
    };
    text.lines().map(line).collect()
}

/// The same of what is mounted at `root`.
fn found(root: &Path) -> BTreeMap<String, String> {
    let (mut found, mut pending) = (BTreeMap::new(), vec![root.to_path_buf()]);
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("an entry's metadata");
            let name = path
                .strip_prefix(root)
                .expect("below the root")
                .to_string_lossy();
            if metadata.is_dir() && name != "lost+found" {
                pending.push(path);
            } else if metadata.is_file() {
                let said = run("sha256sum", &["--", &path.to_string_lossy()]);
                let digest = said
                    .trim_start_matches('\\')
                    .split(' ')
                    .next()
                    .unwrap_or_default();
                found.insert(name.into_owned(), digest.to_owned());
            }
        }
    }
    found
}

#[test]
fn stock_images_are_attached_mounted_and_right_in_every_form() {
    let Some(vectors) = stock::vectors() else {
        return;
    };
    let expected = expected(&vectors);
    assert!(expected.len() > 3, "{expected:?}");
    let registry = DockerRegistry::start();
    let mut cluster = Cluster::empty();
    let agent = cluster.start_agent(&AgentOptions::default());
    let socket = cluster.agents[agent].socket();
    for codec in ["lz4-4k", "zstd-16k"] {
        for form in 0..FORMS.len() {
            let name = push(&registry, &vectors, codec, form);
            let reference = format!("docker://{}/{name}", registry.host());
            tranship(&["verify", &reference]);
            let device = tranship(&["attach", "--agent", &socket, "--output", "json", &reference]);
            let device: serde_json::Value = serde_json::from_str(&device).expect("JSON");
            assert_eq!(
                device["front_end"], "fuse-loop",
                "ext4 wants a block device"
            );
            let target = tempfile::tempdir().expect("a mount point");
            let path = target.path().to_string_lossy().into_owned();
            tranship(&["mount", "--agent", &socket, &reference, &path]);
            assert_eq!(found(target.path()), expected, "{name}");
            tranship(&["umount", "--agent", &socket, &path]);
            // A container's mount: written to, and the image is as it was.
            tranship(&["mount", "--agent", &socket, "--writable", &reference, &path]);
            fs::write(target.path().join("written"), "here").expect("a written file");
            assert_eq!(found(target.path()).len(), expected.len() + 1);
            tranship(&["umount", "--agent", &socket, &path]);
            tranship(&["detach", "--agent", &socket, &reference]);
        }
    }
}

#[test]
fn a_mounted_stock_image_comes_back_after_a_crash() {
    let Some(vectors) = stock::vectors() else {
        return;
    };
    let registry = DockerRegistry::start();
    let name = push(&registry, &vectors, "zstd-16k", 0);
    let reference = format!("docker://{}/{name}", registry.host());
    let mut cluster = Cluster::empty();
    let agent = cluster.start_agent(&AgentOptions::default());
    let socket = cluster.agents[agent].socket();
    let target = tempfile::tempdir().expect("a mount point");
    let path = target.path().to_string_lossy().into_owned();
    tranship(&["mount", "--agent", &socket, &reference, &path]);
    let before = registry.sent_len();
    cluster.agents[agent].restart();
    let socket = cluster.agents[agent].socket();
    assert_eq!(found(target.path()), expected(&vectors));
    assert!(
        registry.sent_len() - before < 64 << 10,
        "the blobs that were read whole are still here"
    );
    tranship(&["umount", "--agent", &socket, &path]);
    tranship(&["detach", "--agent", &socket, &reference]);
}

#[test]
fn a_flipped_byte_in_a_stock_layer_is_found_and_never_served() {
    let Some(vectors) = stock::vectors() else {
        return;
    };
    let registry = DockerRegistry::start();
    let name = push(&registry, &vectors, "lz4-4k", 0);
    let reference = format!("docker://{}/{name}", registry.direct_host());
    let layer = fs::read(vectors.join("lz4-4k/l1/overlaybd.commit")).expect("a layer");
    let digest = run(
        "sha256sum",
        &[&vectors.join("lz4-4k/l1/overlaybd.commit").to_string_lossy()],
    );
    let digest = digest.split(' ').next().expect("a digest");
    let file = OpenOptions::new()
        .write(true)
        .open(registry.blob_file(digest))
        .expect("the blob");
    // In a block, and in the padding behind everything, which no checksum of overlaybd covers.
    for at in [layer.len() / 2, layer.len() - 1] {
        file.write_all_at(&[layer[at] ^ 1], at as u64)
            .expect("a flipped byte");
        let (code, _, said) = tranship_output(&["verify", &reference]);
        assert_eq!(code, 3, "byte {at}: {said}");
        assert!(said.contains(digest), "the layer is named: {said}");
        let mut cluster = Cluster::empty();
        let agent = cluster.start_agent(&AgentOptions::default());
        let socket = cluster.agents[agent].socket();
        let (code, _, said) = tranship_output(&["attach", "--agent", &socket, &reference]);
        assert_ne!(code, 0, "byte {at}: {said}");
        file.write_all_at(&layer[at..=at], at as u64)
            .expect("the byte restored");
    }
    tranship(&["verify", &reference]);
}

#[test]
fn what_cannot_be_done_with_a_stock_image_is_said_with_what_to_do() {
    let Some(vectors) = stock::vectors() else {
        return;
    };
    let registry = DockerRegistry::start();
    let name = push(&registry, &vectors, "zstd-16k", 0);
    let reference = format!("docker://{}/{name}", registry.direct_host());
    for command in [
        &["ls", &reference][..],
        &["cat", &reference, "/etc/hostname"],
    ] {
        let (code, _, said) = tranship_output(command);
        assert_ne!(code, 0);
        assert!(
            said.contains("ext4") && said.contains("tranship mount"),
            "{said}"
        );
    }
    let mut cluster = Cluster::empty();
    let agent = cluster.start_agent(&AgentOptions::default());
    let socket = cluster.agents[agent].socket();
    let (code, _, said) = tranship_output(&[
        "attach",
        "--agent",
        &socket,
        "--front-end",
        "erofs-file",
        &reference,
    ]);
    assert_ne!(code, 0);
    assert!(
        said.contains("ext4") && said.contains("fuse-loop"),
        "{said}"
    );
}
