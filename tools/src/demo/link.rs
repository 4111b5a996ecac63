//! The network of the demo: every machine has one link with a speed each way, and relays in between keep to it.
//!
//! A relay is a plain TCP forwarder on loopback in front of each listener (registry, tracker, agents). What passes is
//! charged to the sender's uplink and the receiver's downlink, so that all connections of a machine share its link as
//! they would share a cable. Done in user space, it needs no privilege, no network namespaces and no `tc`, and works in
//! any container. Shaped: bytes of TCP connections that go through relays, which is all traffic between machines of the
//! demo. Not shaped: latency, connection set-up, and traffic inside one machine (control sockets).

mod owner;
mod relay;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use tranship_simulate::Rate;

pub(crate) use self::relay::Relay;

/// How far a link may run ahead of its rate: absorbs the timer's coarseness (1 ms), too short to be noticed.
const BURST: Duration = Duration::from_millis(4);

/// One direction of a link. Bytes leave in the order in which they asked.
#[derive(Debug)]
struct Direction {
    rate: Rate,
    free_at: Mutex<Instant>,
    bytes: AtomicU64,
}

impl Direction {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            free_at: Mutex::new(Instant::now()),
            bytes: AtomicU64::new(0),
        }
    }

    /// Books `bytes`; they are through at the returned time.
    fn book(&self, bytes: usize) -> Instant {
        self.bytes
            .fetch_add(u64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
        let now = Instant::now();
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = (*free_at).max(now.checked_sub(BURST).unwrap_or(now));
        *free_at = begin + self.rate.time_for(u64::try_from(bytes).unwrap_or(0));
        *free_at
    }
}

/// The link of one machine.
#[derive(Debug)]
pub(crate) struct Link {
    up: Direction,
    down: Direction,
}

impl Link {
    /// A link with the same speed both ways.
    pub(crate) fn new(rate: Rate) -> Arc<Self> {
        Arc::new(Self {
            up: Direction::new(rate),
            down: Direction::new(rate),
        })
    }

    /// Bytes received so far.
    pub(crate) fn received(&self) -> u64 {
        self.down.bytes.load(Ordering::Relaxed)
    }
}

/// Sends `bytes` from one machine to another: returns when they would have arrived.
async fn pass(bytes: usize, from: Option<&Link>, to: Option<&Link>) {
    let sent = from.map(|link| link.up.book(bytes));
    let received = to.map(|link| link.down.book(bytes));
    if let Some(arrival) = sent.max(received) {
        tokio::time::sleep_until(arrival).await;
    }
}

/// Which process runs on which machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machines(Arc<Mutex<BTreeMap<u32, Arc<Link>>>>);

impl Machines {
    /// The process `pid` uses `link` from now on.
    pub(crate) fn place(&self, pid: u32, link: &Arc<Link>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(pid, Arc::clone(link));
    }

    /// The process is gone.
    pub(crate) fn remove(&self, pid: u32) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&pid);
    }

    fn snapshot(&self) -> Vec<(u32, Arc<Link>)> {
        let machines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        machines
            .iter()
            .map(|(pid, link)| (*pid, Arc::clone(link)))
            .collect()
    }
}

#[cfg(test)]
mod tests;
