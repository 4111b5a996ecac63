//! The kernel's handles on a connection beside its descriptor: giving up on it, and how far ahead it reads.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// Where fusectl usually is mounted.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Ends the connection with that number (the minor number of its mount's device): all its requests fail at once, and what
/// has the file open gets errors from then on.
pub(super) fn abort(number: u32) -> io::Result<()> {
    let usual = PathBuf::from(CONNECTIONS)
        .join(number.to_string())
        .join("abort");
    match OpenOptions::new().write(true).open(usual) {
        Ok(mut abort) => abort.write_all(b"1"),
        Err(_) => abort_unmounted(number),
    }
}

/// The same where fusectl is not mounted, as in containers: through an instance of it that is never given a place.
fn abort_unmounted(number: u32) -> io::Result<()> {
    let filesystem = rustix::mount::fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&filesystem)?;
    let attributes = MountAttrFlags::empty();
    let root = rustix::mount::fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let abort = rustix::fs::openat(&root, format!("{number}/abort"), flags, Mode::empty())?;
    rustix::io::write(&abort, b"1")?;
    Ok(())
}

/// Lets the kernel read ahead that far, in bytes. The protocol can only lower the 128 KiB that each mount begins with.
pub(super) fn set_read_ahead(number: u32, len: u32) -> io::Result<()> {
    let kibibytes = (len / 1024).to_string();
    fs::write(
        format!("/sys/class/bdi/0:{number}/read_ahead_kb"),
        kibibytes,
    )
}
