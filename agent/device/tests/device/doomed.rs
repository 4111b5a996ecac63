//! A process that serves a device and is to be killed in the middle of reads: this program, started again for one test that serves when its
//! environment says so. What it says on standard error tells how far it is.

use std::env;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tranship_device::{BlockRead, BlockReadError, Memory};

use crate::ground::{opened_direct, page, pattern};

/// Length of the device.
pub(crate) const LEN: usize = 4 << 20;
/// What such a process answers; of what lies behind, nothing ever comes of it.
pub(crate) const ANSWERED_LEN: u64 = 1 << 20;

/// What the device holds.
pub(crate) fn content() -> Arc<Memory> {
    Arc::new(Memory::new(pattern(LEN)))
}

/// Reads a page past all caches; whether it was right.
pub(crate) fn reader(path: &Path, offset: usize) -> JoinHandle<io::Result<bool>> {
    let file = opened_direct(path);
    thread::spawn(move || {
        let mut buf = page();
        file.read_exact_at(&mut buf, offset as u64)?;
        Ok(buf[..] == pattern(LEN)[offset..offset + 4096])
    })
}

/// Content that tells of each read that it will never answer.
pub(crate) struct NeverAnswers;

impl BlockRead for NeverAnswers {
    fn len(&self) -> u64 {
        LEN as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockReadError> {
        if offset + buf.len() as u64 <= ANSWERED_LEN {
            return content().read_at(offset, buf);
        }
        eprintln!("reading {offset}");
        stay()
    }
}

/// Says where a device is served, and stays until it is killed.
pub(crate) fn serve_until_killed(path: &Path) -> ! {
    eprintln!("serving {}", path.display());
    stay()
}

fn stay() -> ! {
    loop {
        thread::park();
    }
}

/// See the module's words.
pub(crate) struct Doomed {
    process: Child,
    said: io::Lines<BufReader<ChildStderr>>,
}

impl Doomed {
    /// Starts this program for the test `name`, and waits until it serves; where it does.
    pub(crate) fn start(name: &str, variables: &[(&str, String)], input: Stdio) -> (Self, String) {
        let mut process = Command::new(env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(input)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut doomed = Self { process, said };
        let serving = doomed.wait_for("serving ");
        (doomed, serving)
    }

    /// Waits until it says something that begins with `word`; the rest of that.
    pub(crate) fn wait_for(&mut self, word: &str) -> String {
        let mut lines = self.said.by_ref().map(Result::unwrap);
        let said = lines.find_map(|line| line.strip_prefix(word).map(str::to_owned));
        said.unwrap_or_else(|| panic!("the process ended without {word:?}"))
    }

    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
