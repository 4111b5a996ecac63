//! What the kernel has: the front ends, really tried where that is permitted, and overlayfs.

use std::fs;
use std::path::Path;

use tranship_device::front_end::probe;

use super::finding::{Finding, Findings};

pub(super) fn look() -> Vec<Finding> {
    let mut found = Findings::of("kernel");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    found.good(format!("Linux {release}"));
    if rustix::process::geteuid().is_root() {
        front_ends(&mut found);
    } else {
        found.unseen(
            "whether the front ends fuse-loop and erofs-file work: to try them takes root",
            "run as root",
        );
        if !Path::new("/dev/fuse").exists() {
            found.bad("there is no /dev/fuse", "load the module: modprobe fuse");
        }
    }
    if knows("overlay", release) {
        found.good("it has overlayfs");
    } else {
        found.bad(
            "it has no overlayfs, on which containers write",
            "load the module (modprobe overlay), or take a kernel with CONFIG_OVERLAY_FS",
        );
    }
    found.all()
}

fn front_ends(found: &mut Findings) {
    let Ok(scratch) = tempfile::tempdir() else {
        found.unseen(
            "the front ends: there is no folder to try them in",
            "make room in $TMPDIR or /tmp",
        );
        return;
    };
    let probed = probe(scratch.path());
    let has_any = probed
        .iter()
        .any(|probed| probed.is_available() && probed.front_end.name() != "nbd");
    for probed in probed {
        let name = probed.front_end.name();
        match probed.obstacle {
            None => found.good(format!("the front end {name} works")),
            Some(obstacle) if has_any => found.odd(
                format!("the front end {name} does not work: {obstacle}"),
                "nothing, unless you want this one: another is taken",
            ),
            Some(obstacle) => found.bad(
                format!("the front end {name} does not work: {obstacle}"),
                "load the modules (modprobe fuse loop erofs), or take a kernel that has them",
            ),
        }
    }
}

/// Whether a filesystem is known, or can be.
fn knows(name: &str, release: &str) -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known
        .lines()
        .any(|line| line.trim_start_matches("nodev").trim() == name)
    {
        return true;
    }
    let modules = Path::new("/lib/modules").join(release).join("modules.dep");
    let modules = fs::read_to_string(modules).unwrap_or_default();
    modules.contains(&format!("/{name}.ko"))
}
