//! A wire that takes time: what enters one of two network devices leaves the other a while later.
//!
//! The kernel that this was written for cannot delay packets, so frames pass through this process: each direction has a thread that takes
//! them in, with the time at which they are due, and one that gives them out. It costs processor time for each frame, so it stands where
//! few pass: between two zones, on their thin link.

use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tappers::{Interface, Tap};

/// Frames that may be under way in each direction: 20 ms of them at 10 Gbit/s. Beyond that they wait before the wire.
const UNDER_WAY: usize = 16 << 10;
/// More than a frame that is cut to what a link carries.
const FRAME_LEN: usize = 2048;

/// The wire. It ends when its devices are deleted.
#[derive(Debug)]
pub(super) struct Wire {
    threads: Vec<JoinHandle<()>>,
}

impl Wire {
    /// Makes the two devices in the network namespace of this thread; each way takes `delay`.
    pub(super) fn between(ends: [&str; 2], delay: Duration) -> Result<Self> {
        let device = |name: &str| {
            let device = Interface::new(name).and_then(Tap::new_named);
            Ok::<_, anyhow::Error>(Arc::new(device.with_context(|| format!("make {name}"))?))
        };
        let [one, other] = [device(ends[0])?, device(ends[1])?];
        let mut threads = Vec::new();
        for (from, to) in [(one.clone(), other.clone()), (other, one)] {
            let (frames, due) = sync_channel(UNDER_WAY);
            threads.push(thread::spawn(move || take(&from, &frames, delay)));
            threads.push(thread::spawn(move || give(&to, &due)));
        }
        Ok(Self { threads })
    }

    /// Waits until nobody moves frames any more, once the devices are gone.
    pub(super) fn end(self) {
        for thread in self.threads {
            // One that panicked is over as well.
            let _ = thread.join();
        }
    }
}

type Frame = (Instant, Vec<u8>);

fn take(from: &Tap, frames: &SyncSender<Frame>, delay: Duration) {
    let mut buffer = [0; FRAME_LEN];
    // What fails is a device that is gone.
    while let Ok(len) = from.recv(&mut buffer) {
        let frame = buffer.get(..len).unwrap_or_default().to_vec();
        if frames.send((Instant::now() + delay, frame)).is_err() {
            break;
        }
    }
}

fn give(to: &Tap, due: &Receiver<Frame>) {
    for (at, frame) in due {
        thread::sleep(at.saturating_duration_since(Instant::now()));
        // A device that is down, or gone, takes no frame: it is lost, as on any wire.
        let _ = to.send(&frame);
    }
}
