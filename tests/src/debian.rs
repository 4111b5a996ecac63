//! The image that the system tests carry: a Debian root with two layers on top that are as awkward as layers get.
//!
//! The root comes from debootstrap and is kept between runs (`TRANSHIP_TEST_CACHE`, else the user's cache folder),
//! since making it takes a minute and it is only ever read.

use crate::command::{need_tools, run};
use crate::compare::set_xattr;
use crate::layout::{self, Stored};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

/// The length of the sparse file: far more than anything that is stored of it.
pub const SPARSE_LEN: u64 = 3 << 30;

/// How many small files the second layer has.
pub const SMALL_FILES: usize = 10_000;

/// The folder that is kept between runs.
pub(crate) fn cache() -> PathBuf {
    let dir = std::env::var_os("TRANSHIP_TEST_CACHE").map_or_else(
        || {
            let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(
                || {
                    PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into()))
                        .join(".cache")
                },
                PathBuf::from,
            );
            base.join("tranship-tests")
        },
        PathBuf::from,
    );
    fs::create_dir_all(&dir).expect("a cache folder");
    dir
}

/// The tar of a Debian root, made once.
pub fn root_tar() -> PathBuf {
    let tar = cache().join("bookworm-minbase.tar");
    if tar.exists() {
        return tar;
    }
    need_tools(&["debootstrap"]);
    let scratch = tempfile::tempdir_in(cache()).expect("a scratch folder");
    let root = scratch.path().join("root");
    run(
        "debootstrap",
        &["--variant=minbase", "bookworm", &root.to_string_lossy()],
    );
    // Package archives are no part of a root, and the device nodes that debootstrap makes are ours to test apart.
    for archive in fs::read_dir(root.join("var/cache/apt/archives"))
        .expect("apt's folder")
        .flatten()
    {
        if archive.path().extension() == Some(OsStr::new("deb")) {
            fs::remove_file(archive.path()).expect("a removed archive");
        }
    }
    let partial = scratch.path().join("root.tar");
    run(
        "tar",
        &[
            "--create",
            "--format=pax",
            "--sort=name",
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
            "--pax-option=delete=atime,delete=ctime",
            "--file",
            &partial.to_string_lossy(),
            "--directory",
            &root.to_string_lossy(),
            ".",
        ],
    );
    fs::rename(&partial, &tar).expect("a finished tar");
    tar
}

/// The three-layer image as an OCI layout, and the tree that `umoci` makes of it.
#[derive(Debug)]
pub struct Debian {
    folder: PathBuf,
}

/// Changes whenever the layers below change, so that an older image in the cache is not taken for this one.
const EDITION: &str = "debian-2";

impl Debian {
    /// Makes the layers, the layout and the reference tree, or finds those of an earlier run.
    pub fn make() -> Self {
        need_tools(&["umoci", "tar", "fallocate"]);
        let lock = File::create(cache().join("lock")).expect("a lock file");
        lock.lock().expect("a lock");
        let folder = cache().join(EDITION);
        if !folder.exists() {
            let scratch = tempfile::tempdir_in(cache()).expect("a scratch folder");
            Self::make_in(scratch.path());
            fs::rename(scratch.keep(), &folder).expect("a finished image");
        }
        Self { folder }
    }

    fn make_in(scratch: &Path) {
        let (second, third) = (scratch.join("second.tar"), scratch.join("third.tar"));
        second_layer(scratch, &second);
        third_layer(&third);
        let layout = scratch.join("layout");
        layout::write(
            &layout,
            "v1",
            &[
                (&root_tar(), Stored::Gzip),
                (&second, Stored::Gzip),
                (&third, Stored::Plain),
            ],
        );
        let bundle = scratch.join("bundle");
        run(
            "umoci",
            &[
                "unpack",
                "--image",
                &format!("{}:v1", layout.display()),
                &bundle.to_string_lossy(),
            ],
        );
        // umoci writes the sparse file's zeros out, and giving them back counts as a change of the file.
        let sparse = bundle.join("rootfs/srv/sparse");
        let modified = fs::metadata(&sparse)
            .and_then(|metadata| metadata.modified())
            .expect("its time");
        run("fallocate", &["--dig-holes", &sparse.to_string_lossy()]);
        File::options()
            .write(true)
            .open(&sparse)
            .and_then(|file| file.set_modified(modified))
            .expect("its time restored");
        fs::remove_file(second).expect("a removed tar");
        fs::remove_file(third).expect("a removed tar");
    }

    /// The OCI layout.
    pub fn layout(&self) -> PathBuf {
        self.folder.join("layout")
    }

    /// The reference that `tranship convert` is given.
    pub fn reference(&self) -> String {
        format!("oci:{}:v1", self.layout().display())
    }

    /// What `umoci unpack` made of the original image.
    pub fn unpacked(&self) -> PathBuf {
        self.folder.join("bundle/rootfs")
    }
}

/// Additions: many small files, a sparse giant, odd names, capabilities, xattrs, links, devices; by GNU tar.
fn second_layer(scratch: &Path, tar: &Path) {
    let root = scratch.join("second");
    let many = root.join("srv/many");
    fs::create_dir_all(&many).expect("a folder");
    for number in 0..SMALL_FILES {
        let dir = many.join(format!("{:02}", number % 40));
        fs::create_dir_all(&dir).expect("a folder");
        fs::write(
            dir.join(format!("file-{number:05}")),
            format!("small file number {number}\n").repeat(number % 60),
        )
        .expect("a small file");
    }
    let odd = root.join("srv/odd");
    fs::create_dir_all(&odd).expect("a folder");
    for name in [
        &b"with space"[..],
        b"with\nnewline",
        b"not-utf8-\xff\xfe",
        b"'quote\"s\\",
        "n\u{e4}me".as_bytes(),
        &[b'n'; 255],
        b"-dash",
        b"!first",
    ] {
        fs::write(odd.join(OsStr::from_bytes(name)), name).expect("an oddly named file");
    }
    let giant = File::create(root.join("srv/sparse")).expect("a file");
    giant.set_len(SPARSE_LEN).expect("a sparse file");
    for at in [0, SPARSE_LEN / 2 + 1, SPARSE_LEN - 7] {
        giant.write_all_at(b"an isle", at).expect("an isle");
    }
    let binary = root.join("srv/capable");
    fs::write(&binary, [0x7f; 5000]).expect("a file");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o4755)).expect("a mode");
    // cap_net_raw=ep, as setcap writes it.
    set_xattr(
        &binary,
        "security.capability",
        &[
            1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
    );
    set_xattr(&binary, "user.note", b"kept\0as bytes");
    fs::hard_link(&binary, root.join("srv/capable-too")).expect("a link");
    symlink("sparse", root.join("srv/link")).expect("a link");
    symlink("/nowhere/".repeat(100), root.join("srv/long-link")).expect("a link");
    for (name, kind, device) in [
        ("null", FileType::CharacterDevice, makedev(1, 3)),
        ("disk", FileType::BlockDevice, makedev(259, 70_000)),
        ("pipe", FileType::Fifo, 0),
    ] {
        mknodat(
            CWD,
            root.join("srv").join(name),
            kind,
            Mode::from_raw_mode(0o640),
            device,
        )
        .expect("a special file");
    }
    let owned = root.join("srv/owned");
    fs::write(&owned, "by nobody here").expect("a file");
    lchown(&owned, Some(70_000), Some(4_000_000)).expect("an owner");
    fs::create_dir_all(root.join("srv/opaque/lower")).expect("a folder");
    fs::write(root.join("srv/opaque/lower/hidden"), "hidden").expect("a file");
    fs::create_dir_all(root.join("srv/gone/deep")).expect("a folder");
    fs::write(root.join("srv/gone/deep/file"), "gone").expect("a file");
    fs::write(root.join("srv/replaced"), "a file in the lower layer").expect("a file");
    fs::create_dir_all(root.join("srv/dir-to-file")).expect("a folder");
    fs::write(root.join("srv/linked-later"), "shared across layers").expect("a file");
    let mut deep = root.join("srv/deep");
    for level in 0..60 {
        deep.push(format!("level-{level}-{}", "d".repeat(20)));
    }
    fs::create_dir_all(&deep).expect("a deep folder");
    fs::write(deep.join("bottom"), "deep").expect("a file");
    run(
        "tar",
        &[
            "--create",
            "--format=pax",
            "--sparse",
            "--sort=name",
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
            "--pax-option=delete=atime,delete=ctime",
            "--file",
            &tar.to_string_lossy(),
            "--directory",
            &root.to_string_lossy(),
            "srv",
        ],
    );
    fs::remove_dir_all(&root).expect("a removed folder");
}

/// Changes: whiteouts, an opaque directory, overwrites, a link to a lower layer's file; written entry by entry,
/// since no tool makes such a tar from a folder.
fn third_layer(tar: &Path) {
    let file = BufWriter::new(File::create(tar).expect("a file"));
    let mut builder = tar::Builder::new(file);
    let mut put = |path: &str, kind: tar::EntryType, mode: u32, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        if link.is_empty() {
            builder
                .append_data(&mut header, path, content)
                .expect("an entry");
        } else {
            builder
                .append_link(&mut header, path, link)
                .expect("a link");
        }
    };
    let (regular, directory) = (tar::EntryType::Regular, tar::EntryType::Directory);
    put("etc/", directory, 0o755, "", b"");
    put("etc/hostname", regular, 0o644, "", b"tranship\n");
    put("etc/.wh.motd", regular, 0o644, "", b"");
    put("srv/", directory, 0o751, "", b"");
    put("srv/.wh.gone", regular, 0o644, "", b"");
    put("srv/.wh.never-was", regular, 0o644, "", b"");
    put("srv/opaque/", directory, 0o700, "", b"");
    put("srv/opaque/.wh..wh..opq", regular, 0o644, "", b"");
    put(
        "srv/opaque/new",
        regular,
        0o600,
        "",
        b"new in an opaque directory",
    );
    put("srv/replaced", directory, 0o755, "", b"");
    put("srv/replaced/now-a-folder", regular, 0o644, "", b"x");
    put("srv/dir-to-file", regular, 0o644, "", b"was a folder");
    put(
        "srv/linked-here",
        tar::EntryType::Link,
        0o644,
        "srv/linked-later",
        b"",
    );
    put(
        "srv/many/00/file-00000",
        regular,
        0o644,
        "",
        &vec![b'o'; 300_000],
    );
    put("srv/./dotted", regular, 0o644, "", b"a path with a dot");
    builder
        .into_inner()
        .and_then(|mut file| file.flush())
        .expect("a finished tar");
}
