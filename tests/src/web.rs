//! Images of web applications: what a cold start is measured with.
//!
//! The one is as such images are: Debian, Python, and libraries of which an answer needs a part, in layers as builders stack them. The
//! other is small and made in a second, for tests of the measurement itself.

use crate::command::{need_tools, run};
use crate::debian::cache;
use crate::layout::{self, Stored};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Where the applications listen.
pub const PORT: u16 = 8000;

/// Changes whenever the layers below change, so that an older image in the cache is not taken for this one.
const EDITION: &str = "web-1";

/// What Debian's package manager puts beside its smallest root.
const PACKAGES: &str = "python3,python3-flask,python3-numpy,python3-pandas,python3-scipy";

/// Answers with something that wants the web framework and one of the libraries.
const APPLICATION: &str = r#"
import numpy
from flask import Flask, jsonify

application = Flask(__name__)


@application.get("/")
def ready():
    return jsonify(ready=True, mean=float(numpy.arange(1000).mean()))


application.run(host="127.0.0.1", port=8000)
"#;

/// Bytes that the small image has and no start reads.
const UNREAD_LEN: usize = 16 << 20;

/// An image in a folder, and how it is started.
#[derive(Debug)]
pub struct WebImage {
    /// An OCI layout with the image under the tag `v1`.
    pub layout: PathBuf,
    /// The command of its container.
    pub command: &'static [&'static str],
}

impl WebImage {
    /// A web framework and arrays on Debian, with libraries for tables and science that the application does not use; made once, in a few
    /// minutes.
    pub fn python() -> Self {
        let lock = File::create(cache().join("lock")).expect("a lock file");
        lock.lock().expect("a lock");
        let folder = cache().join(EDITION);
        if !folder.exists() {
            let scratch = tempfile::tempdir_in(cache()).expect("a scratch folder");
            make_python(scratch.path());
            fs::rename(scratch.keep(), &folder).expect("a finished image");
        }
        Self {
            layout: folder.join("layout"),
            command: &["/usr/bin/python3", "/srv/app.py"],
        }
    }

    /// A static program that serves one page, and bytes that nobody reads; made in `folder`.
    pub fn busybox(folder: &Path) -> Self {
        need_tools(&["busybox", "tar"]);
        let root = folder.join("root");
        for dir in ["bin", "etc", "srv"] {
            fs::create_dir_all(root.join(dir)).expect("a folder");
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox");
        symlink("busybox", root.join("bin/httpd")).expect("a link");
        fs::write(root.join("srv/index.html"), "ready\n").expect("a page");
        fs::write(root.join("srv/unread"), noise(UNREAD_LEN)).expect("a file");
        let (tar, layout) = (folder.join("root.tar"), folder.join("layout"));
        pack(&root, &tar, &[], ".");
        layout::write(&layout, "v1", &[(&tar, Stored::Gzip)]);
        Self {
            layout,
            command: &["/bin/httpd", "-f", "-p", "127.0.0.1:8000", "-h", "/srv"],
        }
    }

    /// What its layers take where they are stored.
    pub fn stored_len(&self) -> u64 {
        let blobs = fs::read_dir(self.layout.join("blobs/sha256")).expect("its blobs");
        let lens = blobs.map(|blob| blob.and_then(|blob| blob.metadata()).expect("a blob").len());
        lens.sum()
    }
}

fn make_python(scratch: &Path) {
    need_tools(&["debootstrap", "tar"]);
    let root = scratch.join("root");
    let include = format!("--include={PACKAGES}");
    let shown = root.to_string_lossy();
    run(
        "debootstrap",
        &["--variant=minbase", &include, "bookworm", &shown],
    );
    for archive in fs::read_dir(root.join("var/cache/apt/archives"))
        .expect("apt's folder")
        .flatten()
    {
        if archive.path().extension().is_some_and(|end| end == "deb") {
            fs::remove_file(archive.path()).expect("a removed archive");
        }
    }
    let application = scratch.join("application");
    fs::create_dir_all(application.join("srv")).expect("a folder");
    fs::write(application.join("srv/app.py"), APPLICATION).expect("a program");
    let layers = ["base", "interpreter", "libraries", "top"];
    let [base, interpreter, libraries, top] = layers.map(|name| scratch.join(name));
    let others = [
        "--exclude=./usr/lib/python3.11",
        "--exclude=./usr/lib/python3",
        "--exclude=./dev/*",
    ];
    pack(&root, &base, &others, ".");
    pack(&root, &interpreter, &[], "./usr/lib/python3.11");
    pack(&root, &libraries, &[], "./usr/lib/python3");
    pack(&application, &top, &[], "./srv");
    fs::remove_dir_all(&root).expect("a removed folder");
    let tars = [&base, &interpreter, &libraries, &top];
    let layers = tars.map(|tar| (tar.as_path(), Stored::GzipUsual));
    layout::write(&scratch.join("layout"), "v1", &layers);
    for tar in tars {
        fs::remove_file(tar).expect("a removed tar");
    }
}

fn pack(root: &Path, tar: &Path, options: &[&str], member: &str) {
    let (tar, root) = (tar.to_string_lossy(), root.to_string_lossy());
    let always = [
        "--create",
        "--format=pax",
        "--sort=name",
        "--numeric-owner",
        "--anchored",
        "--pax-option=delete=atime,delete=ctime",
        "--file",
        &tar,
        "--directory",
        &root,
    ];
    run("tar", &[&always[..], options, &[member]].concat());
}

/// Bytes that do not compress.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
