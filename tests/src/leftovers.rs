//! What an agent has in the kernel, in the list of processes and on disk: looked for where the kernel tells of it, since whoever asks the
//! agent is told what the agent knows.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

/// Mounts below a folder, as the kernel tells of them.
pub fn mounts(folder: &Path) -> Vec<String> {
    mounts_in(Path::new("/proc/self/mountinfo"), folder)
}

/// The same for the process whose table it is.
pub fn mounts_in(table: &Path, folder: &Path) -> Vec<String> {
    let table = fs::read_to_string(table).expect("the table of mounts");
    let is_below = |line: &&str| {
        let target = line.split(' ').nth(4).unwrap_or_default();
        Path::new(target).starts_with(folder)
    };
    table.lines().filter(is_below).map(str::to_owned).collect()
}

/// Loop devices on files below a folder.
pub fn loops(folder: &Path) -> Vec<String> {
    let devices = fs::read_dir("/sys/block").expect("/sys/block").flatten();
    let files = devices.filter_map(|device| {
        let file = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
        Path::new(file.trim())
            .starts_with(folder)
            .then(|| format!("{}: {}", device.path().display(), file.trim()))
    });
    files.collect()
}

/// What the agent of this folder still has of devices when it has none: mounts, loop devices, device processes, descriptors that its
/// keeper holds, and files of theirs.
pub fn of_devices(folder: &Path) -> Vec<String> {
    let mut left = mounts(folder);
    left.extend(loops(folder));
    for (pid, command) in processes(folder) {
        if command.contains("tranship-device") {
            left.push(format!("process {pid:?}: {command}"));
        } else if command.contains("--stay") {
            left.extend(held(pid).map(|what| format!("the keeper holds {what}")));
        }
    }
    left.extend(files(&folder.join("state")));
    left
}

/// Files of devices in the directory of an agent's state.
pub fn files(state: &Path) -> Vec<String> {
    let mut left = Vec::new();
    for inside in ["devices", "run"] {
        let entries = fs::read_dir(state.join(inside)).into_iter().flatten();
        let paths = entries.flatten().map(|entry| entry.path());
        left.extend(
            paths
                .filter(|path| !is_the_agents_own(path))
                .map(|path| path.display().to_string()),
        );
    }
    left
}

/// Whether it is there for the agent, and for no device: sockets, what keepers take turns by, and where front ends are tried.
fn is_the_agents_own(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    matches!(ending, Some("sock" | "turn")) || path.ends_with("probe")
}

/// Processes that were started with something of this folder among their arguments.
fn processes(folder: &Path) -> Vec<(Pid, String)> {
    let folder = folder.to_string_lossy();
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let commands = entries.filter_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        // It may be gone by now.
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&command).replace('\0', " ")))
    });
    commands
        .filter(|(_, command)| command.contains(&*folder))
        .collect()
}

/// What a process has open that devices consist of.
fn held(pid: Pid) -> impl Iterator<Item = String> {
    let dir = format!("/proc/{}/fd", pid.as_raw_nonzero());
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let open = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    open.map(|path: PathBuf| path.display().to_string())
        .filter(|path| {
            ["/dev/fuse", "/dev/loop", "/memfd"]
                .iter()
                .any(|start| path.starts_with(start))
        })
}
