//! What is asked of a carrier: so many chunks, so many in flight, each as soon as another has come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::sync::mpsc;

use super::answers::DEMAND;
use super::giver::{Giver, cpu_seconds};

/// Chunks asked for before anything is measured: windows have grown, buffers are there.
const WARM: usize = 64;
/// Bulk that stands before demand.
const BULK: usize = 16;
/// Reads behind bulk that are timed.
const READS: u32 = 400;
const GIB: f64 = 1_073_741_824.0;

/// A connection to a giver.
pub(super) trait Link: Send {
    /// Asks for a chunk without waiting for it.
    fn ask(&mut self, number: u32) -> impl Future<Output = Result<()>> + Send;

    /// The next chunk that comes, whichever it is: its number and how many bytes it has.
    fn answer(&mut self) -> impl Future<Output = Result<(u32, usize)>> + Send;

    /// Chunks that can be asked for once each; more are the same again.
    fn count(&self) -> usize {
        usize::MAX
    }
}

/// What came, told by those who each wait for one chunk: the number and how many bytes.
pub(super) type Came = (
    mpsc::Sender<Result<(u32, usize)>>,
    mpsc::Receiver<Result<(u32, usize)>>,
);

/// How much is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) in_flight: usize,
    pub(super) count: usize,
    pub(super) limit: Duration,
}

/// What one round took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) mb_per_s: f64,
    pub(super) taker_s_per_gib: f64,
    pub(super) giver_s_per_gib: f64,
}

impl Load {
    /// Warms the connection, then measures.
    pub(super) async fn put_on(self, mut link: impl Link, giver: &mut Giver) -> Result<Sample> {
        let mut next = 0;
        self.go(&mut link, &mut next, WARM).await?;
        let (ours, theirs) = (cpu_seconds(), giver.cpu_seconds()?);
        let began = Instant::now();
        let count = self.count.min(link.count().saturating_sub(WARM));
        let (mut waits, len) = self.go(&mut link, &mut next, count).await?;
        let took = began.elapsed().as_secs_f64();
        let (ours, theirs) = (cpu_seconds() - ours, giver.cpu_seconds()? - theirs);
        waits.sort_unstable();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let len = len as f64;
        Ok(Sample {
            p50_us: at(&waits, 50)?,
            p99_us: at(&waits, 99)?,
            mb_per_s: len / 1e6 / took,
            taker_s_per_gib: ours / len * GIB,
            giver_s_per_gib: theirs / len * GIB,
        })
    }

    /// Asks for `count` chunks from number `next` on; how long each took, and bytes in all.
    async fn go(
        self,
        link: &mut impl Link,
        next: &mut u32,
        count: usize,
    ) -> Result<(Vec<Duration>, u64)> {
        let (mut asked_at, mut waits, mut len) = (BTreeMap::new(), Vec::with_capacity(count), 0);
        let (mut asked, began) = (0, Instant::now());
        loop {
            while asked < count && asked_at.len() < self.in_flight && began.elapsed() < self.limit {
                asked_at.insert(*next, Instant::now());
                link.ask(*next).await?;
                *next += 1;
                asked += 1;
            }
            if asked_at.is_empty() {
                return Ok((waits, len));
            }
            let (number, came) = link.answer().await?;
            let at = asked_at.remove(&number);
            waits.push(at.context("a chunk that nobody asked for")?.elapsed());
            ensure!(came > 0, "a chunk without bytes");
            len += came as u64;
        }
    }
}

fn at(waits: &[Duration], percent: usize) -> Result<f64> {
    let last = waits.len().saturating_sub(1);
    let wait = waits.get(last * percent / 100).context("no chunk came")?;
    Ok(wait.as_secs_f64() * 1e6)
}

/// The median of demand reads, in microseconds: alone, behind bulk on the same stream, and, with two links, behind bulk on another.
pub(super) async fn behind_bulk<L: Link + 'static>(
    mut link: L,
    pair: Option<(L, L)>,
) -> Result<Vec<(&'static str, f64)>> {
    let mut found = vec![("none", reads(&mut link, 0).await?)];
    found.push(("same stream", reads(&mut link, BULK).await?));
    if let Some((mut demand, mut bulk)) = pair {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let pressing = tokio::spawn(async move {
            let mut next = 0;
            for _ in 0..BULK {
                bulk.ask(next).await?;
                next += 1;
            }
            while !stopped.load(Relaxed) {
                bulk.answer().await?;
                bulk.ask(next).await?;
                next += 1;
            }
            anyhow::Ok(())
        });
        found.push(("own connection", reads(&mut demand, 0).await?));
        stop.store(true, Relaxed);
        pressing.await.context("bulk")??;
    }
    Ok(found)
}

/// Reads one after the other while `bulk` chunks are kept in flight on the same link.
async fn reads(link: &mut impl Link, bulk: usize) -> Result<f64> {
    let mut next = 0;
    for _ in 0..bulk {
        link.ask(next).await?;
        next += 1;
    }
    let mut waits = Vec::new();
    for read in 0..READS {
        let number = DEMAND | read;
        let asked_at = Instant::now();
        link.ask(number).await?;
        loop {
            let (came, _) = link.answer().await?;
            if came == number {
                break;
            }
            link.ask(next).await?;
            next += 1;
        }
        waits.push(asked_at.elapsed());
    }
    for _ in 0..bulk {
        link.answer().await?;
    }
    waits.sort_unstable();
    at(&waits, 50)
}
