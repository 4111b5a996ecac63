//! The inner read path: look-ups, reads and the opening of an image in one process, without a device.
//!
//! Each figure stands beside what nobody can go below: the same stored blocks read from the same file and decompressed
//! bare, by the same libraries, in the same run. Seconds are those that the one reading thread had a core, so that what
//! else the machine does takes no part in them; everything read is in the page cache.

mod image;
mod lookup;
mod peer;
mod store;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::Path;

use self::image::{Image, LAYER_COUNT};
use self::store::Stored;
use crate::cost::{median, thread_seconds};
use tranship_format::{Codec, Disk};

/// CPU seconds that one figure is measured over.
const SPAN: f64 = 0.3;
/// Readers of devices ask for a page, or for as much as read-ahead brings.
const PAGE_LEN: usize = 4 << 10;
const SEQUENTIAL_LEN: usize = 1 << 20;
/// Block lengths of the two images: overlaybd's default, and the one of zstd that it was measured with.
const LZ4_BLOCK_LEN: u32 = 4 << 10;
const ZSTD_BLOCK_LEN: u32 = 16 << 10;
/// Decompressed blocks that a disk keeps in the figures named `kept`: what the agent keeps by default.
const KEPT_LEN: u64 = 64 << 20;

/// Measures the read path over the bytes of the files under `source`, `runs` times; the medians come back.
///
/// No figure but the `kept` ones profits from a block that an earlier read decompressed.
pub fn measure(source: &Path, runs: usize) -> Result<Value> {
    ensure!(runs > 0, "at least one run");
    let scratch = tempfile::tempdir().context("making a scratch directory")?;
    let plain = image::bytes_of(source)?;
    let lz4 = Image::make(&plain, Codec::Lz4, LZ4_BLOCK_LEN, scratch.path())?;
    let zstd = Image::make(&plain, Codec::Zstd, ZSTD_BLOCK_LEN, scratch.path())?;
    let ours = Image::make(&plain, Codec::Zstd, 32 << 10, scratch.path())?;
    let stored = Stored::make(&ours)?;
    let lookup = lookup::Lookup::make();
    let mut figures: Vec<(&str, Vec<f64>)> = Vec::new();
    let mut note = |name, figure| match figures.iter_mut().find(|(other, _)| *other == name) {
        Some((_, known)) => known.push(figure),
        None => figures.push((name, vec![figure])),
    };
    for _ in 0..runs {
        note("lookups_per_s", lookup.per_second()?);
        for (image, name, bare, kept) in [
            (
                &lz4,
                "read_4k_lz4_per_s",
                "bare_4k_lz4_per_s",
                "read_4k_lz4_kept_per_s",
            ),
            (
                &zstd,
                "read_4k_zstd_per_s",
                "bare_4k_zstd_per_s",
                "read_4k_zstd_kept_per_s",
            ),
        ] {
            note(name, pages(image, 0)?);
            note(bare, peer::blocks_per_second(image)?);
            note(kept, pages(image, KEPT_LEN)?);
        }
        note("read_seq_lz4_mb_per_s", sequential(&lz4)?);
        note("read_seq_zstd_mb_per_s", sequential(&ours)?);
        note("bare_seq_zstd_mb_per_s", peer::megabytes_per_second(&ours)?);
        note("read_seq_zstd_16k_mb_per_s", sequential(&zstd)?);
        note(
            "bare_seq_zstd_16k_mb_per_s",
            peer::megabytes_per_second(&zstd)?,
        );
        note("open_local_ms", open_ms(|| stored.open(KEPT_LEN))?);
        let store = stored.store()?;
        let again = open_ms(|| stored.open_in(&store, KEPT_LEN))?;
        note("open_local_again_ms", again);
        drop(store);
        note("open_files_ms", open_ms(|| ours.open(KEPT_LEN))?);
    }
    let mut report = json!({
        "layers": LAYER_COUNT,
        "plain_bytes": plain.len(),
        "lookup_segments": lookup.count(),
        "mappings": ours.open(0)?.index().mappings().len(),
        "runs": runs,
    });
    for (name, mut known) in figures {
        if let Some(report) = report.as_object_mut() {
            report.insert(name.to_owned(), json!(median(&mut known)));
        }
    }
    Ok(report)
}

/// Random pages a second, one reader.
fn pages(image: &Image, kept_len: u64) -> Result<f64> {
    let disk = image.open(kept_len)?;
    let mut random = Random(1);
    let mut page = vec![0; PAGE_LEN];
    let count = image.device_len() / PAGE_LEN as u64;
    // Once around, so that what is kept is there and the file is in the page cache.
    for _ in 0..count.min(20_000) {
        disk.read_at(random.below(count) * PAGE_LEN as u64, &mut page)
            .context("reading a page")?;
    }
    rate(|| {
        for _ in 0..64 {
            disk.read_at(random.below(count) * PAGE_LEN as u64, &mut page)
                .context("reading a page")?;
        }
        Ok(64.0)
    })
}

/// Megabytes a second of one reader in order.
fn sequential(image: &Image) -> Result<f64> {
    let disk = image.open(0)?;
    let mut piece = vec![0; SEQUENTIAL_LEN];
    let mut at = 0;
    rate(|| {
        if at + SEQUENTIAL_LEN as u64 > image.device_len() {
            at = 0;
        }
        disk.read_at(at, &mut piece).context("reading in order")?;
        at += SEQUENTIAL_LEN as u64;
        #[expect(clippy::cast_precision_loss, reason = "one mebibyte")]
        Ok(SEQUENTIAL_LEN as f64 / 1e6)
    })
}

/// Milliseconds until a disk can be read.
fn open_ms(open: impl Fn() -> Result<Disk>) -> Result<f64> {
    let opened = rate(|| open().map(|_| 1.0))?;
    Ok(1e3 / opened)
}

/// Does `work` again and again; what it counts, by the second that it had a core.
fn rate(mut work: impl FnMut() -> Result<f64>) -> Result<f64> {
    let (begun, mut done) = (thread_seconds(), 0.0);
    loop {
        done += work()?;
        let spent = thread_seconds() - begun;
        if spent >= SPAN {
            return Ok(done / spent);
        }
    }
}

/// The same numbers in every run.
struct Random(u64);

impl Random {
    /// A number below `bound`, which is less than 2^32.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 32) * bound) >> 32
    }
}
