//! What a daemon that was killed leaves standing and no keeper holds: mounts of devices whose server is gone, loop devices, FUSE
//! mounts.
//!
//! It is found in the kernel's own tables and not in our records, since those may be what was lost. Ours is what lies in
//! the run directory or was made of something in it. From the top down: nothing is taken away under something else.

use std::error::Error;
use std::fs;
use std::path::Path;

use tranship_device::LoopDevice;
use tranship_device::mount::{self, MountEntry};

use crate::control::OrphanInfo;
use crate::front_end::backing_file;
use crate::plain;

/// Clears away all of it that belongs to the devices for whose ids `is_stale` holds. `run_dir` is free of symbolic links.
pub(crate) fn clear_away(run_dir: &Path, is_stale: impl Fn(&str) -> bool) {
    let is_ours = |path: &Path| device_of(run_dir, path).is_some_and(&is_stale);
    let loops = loops(run_dir, &is_stale);
    take_away(|entry| {
        let of_ours = is_ours(&entry.target) || stands_on(entry, is_ours, &loops);
        of_ours && !is_fuse(entry)
    });
    for device in loops {
        if let Err(error) = device.detach() {
            tracing::warn!(error = &error as &dyn Error, "a stale loop device stays");
        }
    }
    take_away(|entry| is_ours(&entry.target));
}

/// What [`clear_away`] would clear away.
pub(crate) fn find(run_dir: &Path, is_stale: impl Fn(&str) -> bool) -> Vec<OrphanInfo> {
    let loops = loops(run_dir, &is_stale);
    let is_ours = |path: &Path| device_of(run_dir, path).is_some_and(&is_stale);
    let mut found: Vec<OrphanInfo> = loops
        .iter()
        .map(|device| orphan("loop", device.path(), ""))
        .collect();
    for entry in mount::entries().unwrap_or_default() {
        if is_ours(&entry.target) || stands_on(&entry, is_ours, &loops) {
            let device = device_of(run_dir, &entry.target).or(device_of(run_dir, &entry.source));
            found.push(orphan("mount", &entry.target, device.unwrap_or_default()));
        }
    }
    found
}

fn orphan(kind: &str, what: &Path, device: &str) -> OrphanInfo {
    OrphanInfo {
        kind: kind.to_owned(),
        device: device.to_owned(),
        what: what.display().to_string(),
    }
}

/// The device to whose directory `path` leads.
fn device_of<'a>(run_dir: &Path, path: &'a Path) -> Option<&'a str> {
    let inside = path.strip_prefix(run_dir).ok()?;
    inside.iter().next()?.to_str()
}

fn loops(run_dir: &Path, is_stale: impl Fn(&str) -> bool) -> Vec<LoopDevice> {
    let mut found = Vec::new();
    for dir in fs::read_dir(run_dir).into_iter().flatten().flatten() {
        if !dir.file_name().to_str().is_some_and(&is_stale) {
            continue;
        }
        for file in [backing_file(&dir.path()), plain::path_in(&dir.path())] {
            match LoopDevice::find(&file) {
                Ok(devices) => found.extend(devices),
                Err(error) => tracing::warn!(
                    error = &error as &dyn Error,
                    "stale loop devices cannot be looked for"
                ),
            }
        }
    }
    found
}

fn stands_on(entry: &MountEntry, is_ours: impl Fn(&Path) -> bool, loops: &[LoopDevice]) -> bool {
    match entry.kind.as_str() {
        "erofs" | "ext4" => {
            is_ours(&entry.source) || loops.iter().any(|device| device.path() == entry.source)
        }
        "overlay" => {
            // The upper directory is ours alone; a container's own overlay has ours for its lower one at most.
            entry
                .options
                .split(',')
                .filter_map(|option| option.strip_prefix("upperdir="))
                .any(|upper| is_ours(Path::new(upper)))
        }
        _ => false,
    }
}

fn is_fuse(entry: &MountEntry) -> bool {
    entry.kind.starts_with("fuse")
}

/// Takes the mounts away for which `is_stale` holds, the latest first.
fn take_away(is_stale: impl Fn(&MountEntry) -> bool) {
    let entries = match mount::entries() {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn Error,
                "stale mounts cannot be looked for"
            );
            return;
        }
    };
    for entry in entries.iter().rev().filter(|entry| is_stale(entry)) {
        let uppermost = mount::entry_at(&entry.target).ok().flatten();
        if uppermost.is_none_or(|uppermost| uppermost != *entry) {
            tracing::warn!(target = %entry.target.display(), "something else is mounted over a stale mount, which stays");
            continue;
        }
        let taken = if is_fuse(entry) {
            mount::unmount_by_force(&entry.target)
        } else {
            mount::unmount_lazily(&entry.target)
        };
        if let Err(error) = taken {
            tracing::warn!(target = %entry.target.display(), error = &error as &dyn Error, "a stale mount stays");
        }
    }
}
