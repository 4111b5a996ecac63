//! A small image of layers that say each thing in another of the ways in which tars can say it.
//!
//! GNU tar writes most of them from real files, in its own format and in the three of PAX; what no tool writes is made
//! entry by entry. `umoci` unpacks the image, and so says what container runtimes make of it.

use crate::command::{need_tools, run};
use crate::compare::set_xattr;
use crate::layout::{self, Stored};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, makedev, mknodat, utimensat};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, lchown, symlink};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// `user::rw-`, `user:1000:r--`, `group::r--`, `mask::r--`, `other::---`, as the kernel stores it.
const ACL: &[u8] = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";

/// Longer than anything that is stored of it, with more isles than one header's map holds.
const SPARSE_LEN: u64 = 48 << 20;

/// The image, as a layout, and what `umoci` makes of it.
#[derive(Debug)]
pub struct Awkward {
    folder: TempDir,
}

impl Awkward {
    /// Makes the layers, the layout and the reference tree.
    pub fn make() -> Self {
        need_tools(&["umoci", "tar"]);
        let folder = tempfile::tempdir().expect("a scratch folder");
        let at = folder.path();
        let forms = [
            ("gnu", &["--format=gnu"][..], Stored::GzipMembers),
            (
                "pax-0.0",
                &["--format=pax", "--sparse-version=0.0"],
                Stored::Gzip,
            ),
            (
                "pax-0.1",
                &["--format=pax", "--sparse-version=0.1"],
                Stored::Plain,
            ),
            (
                "pax-1.0",
                &["--format=pax", "--sparse-version=1.0"],
                Stored::GzipMembers,
            ),
        ];
        let mut layers: Vec<(PathBuf, Stored)> = Vec::new();
        for (name, options, stored) in forms {
            let tar = at.join(format!("{name}.tar"));
            by_gnu_tar(&at.join(format!("{name}.root")), name, options, &tar);
            layers.push((tar, stored));
        }
        let top = at.join("top.tar");
        by_hand(&top);
        layers.push((top, Stored::Plain));
        let layers: Vec<(&Path, Stored)> = layers
            .iter()
            .map(|(path, stored)| (path.as_path(), *stored))
            .collect();
        let layout = at.join("layout");
        layout::write(&layout, "v1", &layers);
        run(
            "umoci",
            &[
                "unpack",
                "--image",
                &format!("{}:v1", layout.display()),
                &at.join("bundle").to_string_lossy(),
            ],
        );
        Self { folder }
    }

    /// The layout's folder.
    pub fn layout(&self) -> PathBuf {
        self.folder.path().join("layout")
    }

    /// The reference that `tranship convert` is given.
    pub fn reference(&self) -> String {
        format!("oci:{}:v1", self.layout().display())
    }

    /// What `umoci unpack` made of it.
    pub fn unpacked(&self) -> PathBuf {
        self.folder.path().join("bundle/rootfs")
    }
}

fn by_gnu_tar(root: &Path, name: &str, options: &[&str], tar: &Path) {
    let own = root.join(name);
    fs::create_dir_all(&own).expect("a folder");
    let sparse = File::create(own.join("sparse")).expect("a file");
    sparse.set_len(SPARSE_LEN).expect("a sparse file");
    for isle in 0..40 {
        sparse
            .write_all_at(&[b'i'; 3_000], isle * (1 << 20) + 4096 * (isle % 3))
            .expect("an isle");
    }
    for (at, name) in [&[b'n'; 255][..], b"with\nnewline", b"not-utf8-\xff\xfe"]
        .into_iter()
        .enumerate()
    {
        let inner = own.join("d".repeat(255)).join("e".repeat(100 * at));
        fs::create_dir_all(&inner).expect("a folder");
        fs::write(inner.join(OsStr::from_bytes(name)), name).expect("an oddly named file");
    }
    for owner in [65_536, 2_097_152, 3_000_000_000] {
        let path = own.join(format!("owner-{owner}"));
        fs::write(&path, "owned").expect("a file");
        lchown(&path, Some(owner), Some(owner + 1)).expect("an owner");
    }
    for (seconds, nanos) in [
        (-5, 0),
        (-86_400, 250_000_000),
        (0, 1),
        (1_700_000_000, 123_456_789),
        (9_000_000_000, 0),
    ] {
        let path = own.join(format!("time{seconds}.{nanos}"));
        fs::write(&path, "timed").expect("a file");
        set_time(&path, seconds, nanos);
    }
    for (name, kind, device) in [
        ("char", FileType::CharacterDevice, makedev(4095, 1_048_575)),
        ("block", FileType::BlockDevice, makedev(259, 70_000)),
        ("pipe", FileType::Fifo, 0),
    ] {
        mknodat(
            CWD,
            own.join(name),
            kind,
            Mode::from_raw_mode(0o640),
            device,
        )
        .expect("a special file");
    }
    fs::hard_link(own.join("sparse"), own.join("linked")).expect("a link");
    symlink("t".repeat(300), own.join("symlink")).expect("a link");
    // GNU's own format has no place for attributes, and umoci does not know its sparse files.
    if name != "gnu" {
        let path = own.join("attributes");
        fs::write(&path, "attributed").expect("a file");
        set_xattr(&path, "user.binary", b"a\0b\n=c");
        // umoci leaves out `trusted.overlay.*`, which we keep as data.
        set_xattr(&path, "trusted.note", b"y");
        set_xattr(&path, "system.posix_acl_access", ACL);
        let capability = [
            1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        set_xattr(&path, "security.capability", &capability);
        let folder = own.join("inherits");
        fs::create_dir(&folder).expect("a folder");
        set_xattr(&folder, "system.posix_acl_default", ACL);
    }
    set_time(&own, 1_600_000_000, 0);
    set_time(root, 1_600_000_000, 0);
    let (tar, root) = (tar.to_string_lossy(), root.to_string_lossy());
    let mut arguments = vec!["--create", "--sort=name", "--numeric-owner"];
    arguments.extend(options);
    if name != "gnu" {
        let dates = "--pax-option=delete=atime,delete=ctime";
        arguments.extend(["--sparse", "--xattrs", "--xattrs-include=*", dates]);
    }
    arguments.extend(["--file", &tar, "--directory", &root, "."]);
    run("tar", &arguments);
}

/// What no tool writes: entries that come twice, odd spellings, whiteouts of nothing, links to lower layers.
fn by_hand(tar: &Path) {
    let mut builder = tar::Builder::new(File::create(tar).expect("a file"));
    let mut put = |path: &str, kind: tar::EntryType, mode: u32, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        // As it is spelled: `set_path` would tidy it.
        let field = &mut header.as_old_mut().name;
        field[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, content).expect("an entry");
    };
    let (file, folder, link) = (
        tar::EntryType::Regular,
        tar::EntryType::Directory,
        tar::EntryType::Link,
    );
    put("twice", file, 0o600, "", b"the first");
    put("./twice", file, 0o644, "", b"the last");
    put("turns", file, 0o600, "", b"a file");
    put("turns/", folder, 0o711, "", b"");
    put("/absolute//./path", file, 0o644, "", b"x");
    put(".wh.absent", file, 0o644, "", b"");
    put("no/", folder, 0o755, "", b"");
    put("no/.wh.absent", file, 0o644, "", b"");
    put("gnu/.wh.pipe", file, 0o644, "", b"");
    put("pax-0.0/.wh.sparse", file, 0o644, "", b"");
    put("from-below", link, 0o644, "pax-0.0/linked", b"");
    put("pax-0.1/.wh..wh..opq", file, 0o644, "", b"");
    put("pax-0.1/new", file, 0o644, "", b"new");
    // Times of folders that entries above have changed.
    for path in ["./", "gnu/", "pax-0.0/", "pax-0.1/", "absolute/", "no/"] {
        put(path, folder, 0o755, "", b"");
    }
    builder.into_inner().expect("a finished tar");
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("a time");
}
