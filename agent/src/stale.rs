//! What a daemon that was killed leaves standing and no keeper holds: mounts of devices whose server is gone, loop devices, devices of the
//! kernel's NBD and ublk drivers, FUSE mounts.
//!
//! It is found in the kernel's own tables and not in our records, since those may be what was lost. Ours is what lies in
//! the run directory or was made of something in it. From the top down: nothing is taken away under something else.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use tranship_device::mount::{self, MountEntry};
use tranship_device::{LoopDevice, kernel_nbd, ublk};

use crate::control::OrphanInfo;
use crate::front_end::{backing_file, numbered};
use crate::plain;
use crate::process;

/// Clears away all of it that belongs to the devices for whose ids `is_stale` holds. `run_dir` is free of symbolic links.
pub(crate) fn clear_away(run_dir: &Path, is_stale: impl Fn(&str) -> bool) {
    let is_ours = |path: &Path| device_of(run_dir, path).is_some_and(&is_stale);
    let loops = loops(run_dir, &is_stale);
    let numbers = nbd_devices(is_ours);
    let ublks = ublk_devices(run_dir, &is_stale);
    let devices = block_devices(&loops, &numbers, &ublks);
    take_away(|entry| {
        let of_ours = is_ours(&entry.target) || stands_on(entry, is_ours, &devices);
        of_ours && !is_fuse(entry)
    });
    for device in loops {
        if let Err(error) = device.detach() {
            tracing::warn!(error = &error as &dyn Error, "a stale loop device stays");
        }
    }
    for number in numbers {
        if let Err(error) = kernel_nbd::disconnect(number) {
            tracing::warn!(error = &error as &dyn Error, "a stale NBD device stays");
        }
    }
    for (dir, number) in ublks {
        match ublk::delete(number) {
            Ok(()) => numbered::forget(&dir),
            Err(error) => {
                tracing::warn!(error = &error as &dyn Error, "a stale ublk device stays");
            }
        }
    }
    take_away(|entry| is_ours(&entry.target));
    for dir in stale_dirs(run_dir, &is_stale) {
        process::kill(&dir);
        process::forget(&dir);
    }
}

/// What [`clear_away`] would clear away.
pub(crate) fn find(run_dir: &Path, is_stale: impl Fn(&str) -> bool) -> Vec<OrphanInfo> {
    let loops = loops(run_dir, &is_stale);
    let is_ours = |path: &Path| device_of(run_dir, path).is_some_and(&is_stale);
    let numbers = nbd_devices(is_ours);
    let mut found: Vec<OrphanInfo> = loops
        .iter()
        .map(|device| orphan("loop", device.path(), ""))
        .collect();
    found.extend(
        numbers
            .iter()
            .map(|number| orphan("nbd", &kernel_nbd::path_of(*number), "")),
    );
    let ublks = ublk_devices(run_dir, &is_stale);
    let orphans = ublks
        .iter()
        .map(|(_, number)| orphan("ublk", &ublk::path_of(*number), ""));
    found.extend(orphans);
    let devices = block_devices(&loops, &numbers, &ublks);
    for entry in mount::entries().unwrap_or_default() {
        if is_ours(&entry.target) || stands_on(&entry, is_ours, &devices) {
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
    for dir in stale_dirs(run_dir, is_stale) {
        for file in [backing_file(&dir), plain::path_in(&dir)] {
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

/// The numbers of the NBD driver's devices that were made for directories that `is_ours`.
fn nbd_devices(is_ours: impl Fn(&Path) -> bool) -> Vec<u32> {
    match kernel_nbd::find_all(|identifier| is_ours(Path::new(identifier))) {
        Ok(found) => found.into_iter().map(|(number, _)| number).collect(),
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn Error,
                "stale NBD devices cannot be looked for"
            );
            Vec::new()
        }
    }
}

/// Directories of devices for which `is_stale` holds.
fn stale_dirs(run_dir: &Path, is_stale: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let dirs = fs::read_dir(run_dir).into_iter().flatten().flatten();
    dirs.filter(|dir| dir.file_name().to_str().is_some_and(&is_stale))
        .map(|dir| dir.path())
        .collect()
}

/// Those of them that have a ublk device which no other process serves, each with its number.
fn ublk_devices(run_dir: &Path, is_stale: impl Fn(&str) -> bool) -> Vec<(PathBuf, u32)> {
    let dirs = stale_dirs(run_dir, is_stale).into_iter();
    dirs.filter_map(|dir| numbered::number_in(&dir).map(|number| (dir, number)))
        // Else the number was given to another since.
        .filter(|(_, number)| !ublk::is_anothers(*number))
        .collect()
}

fn block_devices(loops: &[LoopDevice], numbers: &[u32], ublks: &[(PathBuf, u32)]) -> Vec<PathBuf> {
    let loops = loops.iter().map(|device| device.path().to_owned());
    let numbers = numbers.iter().map(|number| kernel_nbd::path_of(*number));
    let ublks = ublks.iter().map(|(_, number)| ublk::path_of(*number));
    loops.chain(numbers).chain(ublks).collect()
}

fn stands_on(entry: &MountEntry, is_ours: impl Fn(&Path) -> bool, devices: &[PathBuf]) -> bool {
    match entry.kind.as_str() {
        "erofs" | "ext4" => is_ours(&entry.source) || devices.contains(&entry.source),
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
