//! A control group whose processes may have no more memory: what one more page of theirs costs is their life.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Pid;

/// Tells groups of one process apart.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The group; it goes with the value, when its processes are gone.
pub(crate) struct MemoryLimit {
    dir: PathBuf,
    /// Where the kernel tells how many it has killed.
    events: &'static str,
}

impl MemoryLimit {
    /// Makes one, in either of the two forms that the kernel has; nothing where one may not.
    pub(crate) fn make() -> Option<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tranship-test-{}-{number}", std::process::id());
        let unified = Path::new("/sys/fs/cgroup");
        // It may be on already, or not ours to turn on: what counts is whether the limit can be set.
        let _ = fs::write(unified.join("cgroup.subtree_control"), "+memory");
        let forms = [
            (unified.join(&name), "memory.max", "memory.events"),
            (
                unified.join("memory").join(&name),
                "memory.limit_in_bytes",
                "memory.oom_control",
            ),
        ];
        forms.into_iter().find_map(|(dir, limit, events)| {
            fs::create_dir(&dir).ok()?;
            let group = Self { dir, events };
            // Only files that the kernel has made can be written to without being made.
            let file = fs::OpenOptions::new()
                .write(true)
                .open(group.dir.join(limit));
            std::io::Write::write_all(&mut file.ok()?, b"0").ok()?;
            Some(group)
        })
    }

    /// Puts a process into the group.
    pub(crate) fn put(&self, pid: Pid) {
        let number = pid.as_raw_nonzero().to_string();
        fs::write(self.dir.join("cgroup.procs"), number).expect("a process in a group");
    }

    /// Whether the kernel has killed one of the group.
    pub(crate) fn has_killed(&self) -> bool {
        let events = fs::read_to_string(self.dir.join(self.events)).expect("the group's events");
        let count = events
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "));
        count.is_some_and(|count| count.trim() != "0")
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // One that still has a process stays, and is seen.
        drop(fs::remove_dir(&self.dir));
    }
}
