//! Whoever runs work on threads for a writer that has none of its own.
//!
//! Blocks are compressed each alone, so several may be at the same time; in which order they get done never shows, as the
//! writer waits for the oldest. This crate starts no thread: a caller that has some gives a function that runs closures
//! on them, and knows nothing of blocks.

use core::fmt;
use std::sync::Arc;

/// A piece of work that runs once, anywhere, and waits for nothing.
pub type Work = Box<dyn FnOnce() + Send>;

/// Threads that a caller lends. Cheap to clone.
///
/// ```
/// use std::io::Cursor;
/// use std::thread;
/// use tranship_format::{LayerOptions, LayerWriter, Sector, Workers};
///
/// let blob = |workers| {
///     let mut writer = LayerWriter::with_workers(Cursor::new(Vec::new()), LayerOptions::default(), workers)?;
///     writer.write(Sector(8), &[7; 1 << 20])?;
///     writer.finish(1 << 21)
/// };
/// let alone = blob(Workers::none())?;
/// let helped = blob(Workers::new(2, |work| {
///     thread::spawn(work);
/// }))?;
/// assert!(alone == helped);
/// # Ok::<(), tranship_format::WriteLayerError>(())
/// ```
#[derive(Clone)]
pub struct Workers(Option<Crew>);

#[derive(Clone)]
struct Crew {
    count: usize,
    run: Arc<dyn Fn(Work) + Send + Sync>,
}

impl Workers {
    /// No threads but the one that writes.
    pub const fn none() -> Self {
        Self(None)
    }

    /// `count` threads, on which `run` runs what it is given without waiting for it. Work that is dropped instead of run
    /// fails the writer that asked for it.
    pub fn new(count: usize, run: impl Fn(Work) + Send + Sync + 'static) -> Self {
        let run = Arc::new(run);
        Self(Some(Crew { count, run }))
    }

    /// How many there are, the one that writes not counted.
    pub(super) fn count(&self) -> usize {
        self.0.as_ref().map_or(0, |crew| crew.count)
    }

    /// Runs `work` on one of the threads; here and now, if there are none.
    pub(super) fn run(&self, work: Work) {
        match &self.0 {
            Some(crew) => (crew.run)(work),
            None => work(),
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Workers").field(&self.count()).finish()
    }
}
