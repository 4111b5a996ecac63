//! What the tests of this crate stand on: folders to mount in, content that waits or fails, patterns, bounded waits.

use std::fs::{self, File};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tranship_device::{BlockRead, BlockReadError, Memory, mount};

/// Longer than anything takes here; a test that waits for it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A folder to mount in, on a machine where one may mount.
pub(crate) struct Ground {
    dir: TempDir,
}

impl Ground {
    /// Nothing, and a word on standard error, where the privileges or the kernel's parts are missing.
    pub(crate) fn find(subject: &str) -> Option<Self> {
        let missing = if !rustix::process::geteuid().is_root() {
            "not root"
        } else if !Path::new("/dev/fuse").exists() {
            "no /dev/fuse"
        } else if subject.contains("loop") && !Path::new("/dev/loop-control").exists() {
            "no /dev/loop-control"
        } else {
            return Some(Self {
                dir: tempfile::tempdir().unwrap(),
            });
        };
        eprintln!("left out ({subject}): {missing}");
        None
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A fresh folder beside others.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let folder = self.dir.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Lets others than root into the folder.
    pub(crate) fn let_all_in(&self) {
        fs::set_permissions(self.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn is_mounted(&self) -> bool {
        mount::is_mounted(self.dir()).unwrap()
    }
}

impl Drop for Ground {
    /// A test that failed leaves mounts, which must not outlive it, and whose folders must not be emptied.
    fn drop(&mut self) {
        let entries = mount::entries().unwrap_or_default();
        for entry in entries.iter().rev() {
            if entry.target.starts_with(self.dir()) {
                let _ = mount::unmount_by_force(&entry.target);
            }
        }
    }
}

/// Bytes that tell where they are from.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len.div_ceil(8) as u64)
        .flat_map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    bytes.truncate(len);
    bytes
}

/// Numbers below a bound, the same for the same seed.
pub(crate) fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |bound| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 11).unwrap() % bound.max(1)
    }
}

/// Asks again and again until the answer is no; for what the other side does on its own time and tells nobody about.
pub(crate) fn until_gone(mut is_there: impl FnMut() -> bool) {
    let began = Instant::now();
    while is_there() {
        assert!(began.elapsed() < PATIENCE, "it does not go away");
        thread::yield_now();
    }
}

/// Content that fails in one place, and remembers how it was read.
pub(crate) struct Lies {
    memory: Memory,
    fails_at: Option<u64>,
    longest: AtomicUsize,
}

impl Lies {
    pub(crate) fn none(bytes: Vec<u8>) -> Self {
        Self {
            memory: Memory::new(bytes),
            fails_at: None,
            longest: AtomicUsize::new(0),
        }
    }

    pub(crate) fn fails_at(bytes: Vec<u8>, offset: u64) -> Self {
        Self {
            fails_at: Some(offset),
            ..Self::none(bytes)
        }
    }

    pub(crate) fn longest_read(&self) -> usize {
        self.longest.load(Ordering::Relaxed)
    }
}

impl BlockRead for Lies {
    fn len(&self) -> u64 {
        self.memory.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockReadError> {
        self.longest.fetch_max(buf.len(), Ordering::Relaxed);
        let len = buf.len() as u64;
        if self
            .fails_at
            .is_some_and(|at| (offset..offset + len).contains(&at))
        {
            return Err(BlockReadError::Unavailable {
                offset,
                len,
                source: "as arranged".into(),
            });
        }
        self.memory.read_at(offset, buf)
    }
}

/// Where reads wait until the test lets them go on.
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    open: bool,
    waiting: usize,
}

impl Gate {
    pub(crate) fn shut() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    pub(crate) fn open(&self) {
        self.state.lock().unwrap().open = true;
        self.changed.notify_all();
    }

    /// Returns when that many reads wait at the gate.
    pub(crate) fn wait_for_readers(&self, count: usize) {
        let state = self.state.lock().unwrap();
        let (state, waited) = self
            .changed
            .wait_timeout_while(state, PATIENCE, |state| state.waiting < count)
            .unwrap();
        assert!(
            !waited.timed_out(),
            "{} of {count} reads came",
            state.waiting
        );
    }

    pub(crate) fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        self.changed.notify_all();
        let mut state = self.changed.wait_while(state, |state| !state.open).unwrap();
        state.waiting -= 1;
    }
}

/// Content behind a gate.
pub(crate) struct Gated {
    from: u64,
    memory: Memory,
    gate: Arc<Gate>,
}

impl Gated {
    pub(crate) fn new(bytes: Vec<u8>, gate: Arc<Gate>) -> Self {
        Self::from(0, bytes, gate)
    }

    /// Behind the gate from `from` on; what lies before is there.
    pub(crate) fn from(from: u64, bytes: Vec<u8>, gate: Arc<Gate>) -> Self {
        Self {
            from,
            memory: Memory::new(bytes),
            gate,
        }
    }
}

impl BlockRead for Gated {
    fn len(&self) -> u64 {
        self.memory.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockReadError> {
        if offset >= self.from {
            self.gate.pass();
        }
        self.memory.read_at(offset, buf)
    }
}

/// Opens a file or device for reads past the page cache, into buffers such as [`aligned`].
pub(crate) fn opened_direct(path: &Path) -> File {
    File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .unwrap()
}

/// A buffer that begins on a page.
pub(crate) struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

/// A buffer of `len` bytes that begins on a page.
pub(crate) fn aligned(len: usize) -> Aligned {
    let bytes = vec![0; len + 4096];
    let start = bytes.as_ptr().align_offset(4096);
    Aligned { bytes, start, len }
}

/// A buffer of one page.
pub(crate) fn page() -> Aligned {
    aligned(4096)
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}
