//! Threads that belong to one owner: counted, waited for with a bound, joined.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// The threads of a session or a server.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    roll: Arc<Roll>,
    /// Behind a lock of its own because threads are added and joined from several others; never held with `roll`'s.
    handles: Mutex<Vec<JoinHandle<()>>>,
}

/// How many threads are at work.
#[derive(Debug, Default)]
struct Roll {
    count: Mutex<usize>,
    changed: Condvar,
}

/// Signs a thread off, also when it panics.
struct SignOff(Arc<Roll>);

impl Drop for SignOff {
    fn drop(&mut self) {
        let mut count = locked(&self.0.count);
        *count = count.saturating_sub(1);
        self.0.changed.notify_all();
    }
}

impl Crew {
    /// Starts a thread. `name` is cut off by the kernel behind 15 bytes.
    pub(crate) fn spawn(
        &self,
        name: String,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        *locked(&self.roll.count) += 1;
        let sign_off = SignOff(Arc::clone(&self.roll));
        let handle = Builder::new().name(name).spawn(move || {
            let _sign_off = sign_off;
            work();
        })?;
        let mut handles = locked(&self.handles);
        handles.retain(|handle| !handle.is_finished());
        handles.push(handle);
        Ok(())
    }

    /// How many threads are at work.
    pub(crate) fn count(&self) -> usize {
        *locked(&self.roll.count)
    }

    /// Waits until no thread is at work; whether that was so in time.
    pub(crate) fn wait(&self, patience: Duration) -> bool {
        let count = locked(&self.roll.count);
        let waited = self
            .roll
            .changed
            .wait_timeout_while(count, patience, |count| *count > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }

    /// Waits for all threads and joins them; how many were still at work when `patience` was over. Those are let go of.
    pub(crate) fn dismiss(&self, patience: Duration) -> usize {
        let all_done = self.wait(patience);
        let handles = std::mem::take(&mut *locked(&self.handles));
        for handle in handles {
            // Signed off or not, a thread that has not ended may be in the hands of the owner's content: not waited for.
            if (all_done || handle.is_finished()) && handle.join().is_err() {
                tracing::error!("a device's thread panicked");
            }
        }
        self.count()
    }
}

/// Locks, whatever became of a thread that held the lock: every state behind one here is valid between any two lines.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn threads_are_waited_for_and_late_ones_are_counted() {
        let crew = Crew::default();
        let (release, held) = mpsc::channel::<()>();
        crew.spawn("late".to_owned(), move || {
            let _ = held.recv();
        })
        .unwrap();
        assert!(!crew.wait(Duration::ZERO));
        assert_eq!(crew.dismiss(Duration::ZERO), 1);
        drop(release);
        assert!(crew.wait(Duration::from_secs(10)));
        assert_eq!(crew.dismiss(Duration::ZERO), 0);
    }

    #[test]
    fn a_thread_that_panics_is_signed_off() {
        let crew = Crew::default();
        crew.spawn("panics".to_owned(), || panic!("as told"))
            .unwrap();
        assert!(crew.wait(Duration::from_secs(10)));
    }
}
