//! A reader of a mounted image: whole files in order, pages at random, and the longest read while something happens.
//!
//! Pages are dropped before they are read, so that each read goes to what is below the filesystem.

use anyhow::{Context, Result, ensure};
use rustix::fs::{Advice, fadvise};
use std::fs::{self, File};
use std::io::Read;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What is read at one time.
const PIECE_LEN: usize = 1 << 20;
const PAGE_LEN: usize = 4 << 10;
/// How long pages are read for one figure.
const SPAN: Duration = Duration::from_millis(500);
/// Files below this take longer to open than to read.
const LEAST_LEN: u64 = 1 << 20;
/// Bytes of the largest file that pages are read of: less than an agent keeps decompressed.
const HOT_LEN: u64 = 32 << 20;
/// What a reader waits for before it is said to have made progress.
const PROGRESS_LEN: u64 = 8 << 20;
/// The longest wait for that.
const PATIENCE: Duration = Duration::from_mins(1);

/// The files of an image that are read, by their paths in it, and their lengths; the largest first.
#[derive(Clone, Debug)]
pub(super) struct Files(Vec<(u64, PathBuf)>);

impl Files {
    /// Finds them below `mounted`.
    pub(super) fn find(mounted: &Path) -> Result<Self> {
        let (mut found, mut pending) = (Vec::new(), vec![mounted.to_owned()]);
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
                let entry = entry.context("list a directory")?;
                let about = entry.metadata().context("look at a file")?;
                if about.is_dir() {
                    pending.push(entry.path());
                } else if about.is_file() && about.len() >= LEAST_LEN {
                    let path = entry.path();
                    let name = path
                        .strip_prefix(mounted)
                        .context("a path below the mount")?;
                    found.push((about.len(), name.to_owned()));
                }
            }
        }
        ensure!(
            !found.is_empty(),
            "the image has no file of {LEAST_LEN} bytes"
        );
        found.sort_by(|one, other| other.cmp(one));
        Ok(Self(found))
    }

    /// Megabytes a second of one reader that reads all of them.
    pub(super) fn sequential(&self, mounted: &Path) -> Result<f64> {
        let mut piece = vec![0; PIECE_LEN];
        let (mut read_len, mut spent) = (0_u64, Duration::ZERO);
        for (_, name) in &self.0 {
            let mut file = dropped(&mounted.join(name))?;
            let begun = Instant::now();
            loop {
                match file.read(&mut piece).context("read a file")? {
                    0 => break,
                    len => read_len += len as u64,
                }
            }
            spent += begun.elapsed();
        }
        #[expect(clippy::cast_precision_loss, reason = "less than 2^52 bytes")]
        Ok(read_len as f64 / 1e6 / spent.as_secs_f64())
    }

    /// Pages a second that `readers` read at random of the largest file.
    pub(super) fn random(&self, mounted: &Path, readers: u64) -> Result<f64> {
        let (len, name) = self.0.first().context("a file")?;
        let path = mounted.join(name);
        let pages = NonZeroU64::new(len.min(&HOT_LEN) / PAGE_LEN as u64).context("a page")?;
        // Once, so that who keeps decompressed blocks has them.
        let warm = dropped(&path)?;
        let mut piece = vec![0; PIECE_LEN];
        for at in (0..pages.get() * PAGE_LEN as u64).step_by(PIECE_LEN) {
            warm.read_at(&mut piece, at).context("read a file")?;
        }
        drop(dropped(&path)?);
        let begun = Instant::now();
        let readers: Vec<JoinHandle<Result<u64>>> = (0..readers)
            .map(|number| {
                let path = path.clone();
                thread::spawn(move || read_pages(&path, pages, number, begun + SPAN))
            })
            .collect();
        let mut count = 0;
        for reader in readers {
            count += reader
                .join()
                .map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        }
        #[expect(clippy::cast_precision_loss, reason = "less than 2^52 pages")]
        Ok(count as f64 / begun.elapsed().as_secs_f64())
    }

    /// Reads on and on until the value is [ended](Reading::end).
    pub(super) fn read_on(&self, mounted: &Path) -> Reading {
        let (stop, read_len) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let paths: Vec<PathBuf> = self.0.iter().map(|(_, name)| mounted.join(name)).collect();
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&read_len));
        let thread = thread::spawn(move || {
            let (mut longest, mut piece) = (Duration::ZERO, vec![0; PIECE_LEN / 8]);
            loop {
                for path in &paths {
                    let mut file = dropped(path)?;
                    loop {
                        if stopped.load(Ordering::Relaxed) {
                            return Ok(longest);
                        }
                        let begun = Instant::now();
                        let len = file.read(&mut piece).context("read a file")?;
                        longest = longest.max(begun.elapsed());
                        if len == 0 {
                            break;
                        }
                        counted.fetch_add(len as u64, Ordering::Relaxed);
                    }
                }
            }
        });
        Reading {
            stop,
            read_len,
            thread,
        }
    }
}

/// Somebody who reads while something happens.
pub(super) struct Reading {
    stop: Arc<AtomicBool>,
    read_len: Arc<AtomicU64>,
    thread: JoinHandle<Result<Duration>>,
}

impl Reading {
    /// Waits until some more was read.
    pub(super) fn wait_for_progress(&self) -> Result<()> {
        let goal = self.read_len.load(Ordering::Relaxed) + PROGRESS_LEN;
        let begun = Instant::now();
        while self.read_len.load(Ordering::Relaxed) < goal {
            ensure!(!self.thread.is_finished(), "the reader was given an error");
            ensure!(begun.elapsed() < PATIENCE, "the reader hangs");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Ends it; the longest time that one read took.
    pub(super) fn end(self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("a reader panicked"))?
    }
}

/// Opens a file of which no page is in memory.
fn dropped(path: &Path) -> Result<File> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    fadvise(&file, 0, None, Advice::DontNeed).context("drop a file's pages")?;
    Ok(file)
}

fn read_pages(path: &Path, pages: NonZeroU64, number: u64, until: Instant) -> Result<u64> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    fadvise(&file, 0, None, Advice::Random).context("say how a file is read")?;
    let (mut page, mut count, mut state) = (vec![0; PAGE_LEN], 0, number + 1);
    let page_len = NonZeroU64::new(PAGE_LEN as u64);
    while Instant::now() < until {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let at = (state >> 33) % pages * PAGE_LEN as u64;
        file.read_exact_at(&mut page, at).context("read a page")?;
        fadvise(&file, at, page_len, Advice::DontNeed).context("drop a page")?;
        count += 1;
    }
    Ok(count)
}
