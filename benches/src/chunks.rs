//! What the size of chunks costs: real cold starts replayed over the same image, cut at several sizes.
//!
//! A large chunk saves requests and hashes and brings bytes that nobody reads; a small one the other way round. The times
//! are a model and say so: each read waits for its missing chunks, which come as one request a run of neighbours,
//! one round trip and the link's rate; nothing is read ahead. What is measured is the CPU of hashing, in the same run.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tranship_format::convert::{ConvertOptions, Converter};
use tranship_format::{ByteRange, ChunkTable, Disk, HashAlgorithm, LayerOptions, ReadAt};

use crate::cost::{median, thread_seconds};

/// Chunk sizes that are compared, in bytes.
const SIZES: [u32; 5] = [64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20];

/// A link: its name, bytes per second, and round trip.
struct Link {
    name: &'static str,
    rate: f64,
    round_trip: f64,
}

const LINKS: [Link; 2] = [
    Link {
        name: "1gbit_0.5ms",
        rate: 125e6,
        round_trip: 0.5e-3,
    },
    Link {
        name: "100mbit_20ms",
        rate: 12.5e6,
        round_trip: 20e-3,
    },
];

/// An image cut at one size.
struct Cut {
    chunk_len: u32,
    stored_len: u64,
    table_len: u64,
    table: ChunkTable,
    /// The hash of a chunk, in nanoseconds a byte, by algorithm.
    hashing: [f64; 2],
}

/// What a cold start costs with one cut.
#[derive(Default)]
struct Replay {
    read_len: u64,
    fetched_len: u64,
    request_count: u64,
    seconds: [f64; LINKS.len()],
}

/// Converts the tar at each size and replays each log of `benches/trace` over it.
pub fn measure(tar: &Path, traces: &[PathBuf], runs: usize) -> Result<Value> {
    let mut sizes = Vec::new();
    for chunk_len in SIZES {
        let blob = tempfile::NamedTempFile::new().context("making a spool file")?;
        let cut = cut(tar, chunk_len, blob.as_file(), runs)?;
        let blob: Arc<dyn ReadAt> = Arc::new(fs::read(blob.path()).context("reading the blob")?);
        let disk = Disk::open(vec![blob], 0).context("opening the blob")?;
        let mut starts = Vec::new();
        for trace in traces {
            let name = trace.file_stem().unwrap_or_default().to_string_lossy();
            let replay = replay(&disk, &cut, &reads(trace)?);
            starts.push(tell(&name, &replay, cut.hashing));
        }
        sizes.push(json!({
            "chunk_kib": cut.chunk_len >> 10,
            "stored_bytes": cut.stored_len,
            "chunk_count": cut.table.count(),
            "table_bytes": cut.table_len,
            "blake3_us_per_chunk": cut.hashing[0] * f64::from(cut.chunk_len) / 1e3,
            "sha256_us_per_chunk": cut.hashing[1] * f64::from(cut.chunk_len) / 1e3,
            "starts": starts,
        }));
    }
    Ok(json!({ "sizes": sizes, "runs": runs }))
}

fn cut(tar: &Path, chunk_len: u32, blob: &File, runs: usize) -> Result<Cut> {
    let layer = LayerOptions {
        chunk_len,
        ..LayerOptions::default()
    };
    let mut converter = Converter::new(ConvertOptions { layer });
    let tar = File::open(tar).with_context(|| format!("opening {}", tar.display()))?;
    let (_, summary) = converter
        .layer(BufReader::with_capacity(1 << 20, tar), blob)
        .context("converting the tar")?;
    let range = summary.chunks.range();
    let mut bytes = vec![0; usize::try_from(range.len())?];
    std::os::unix::fs::FileExt::read_exact_at(blob, &mut bytes, range.start)?;
    Ok(Cut {
        chunk_len,
        stored_len: summary.len,
        table_len: range.len(),
        table: ChunkTable::decode(&bytes).context("our own table")?,
        hashing: [HashAlgorithm::Blake3, HashAlgorithm::Sha256]
            .map(|algorithm| hashing(algorithm, chunk_len, runs)),
    })
}

/// Nanoseconds of CPU a byte, over 64 MiB in chunks of one length.
fn hashing(algorithm: HashAlgorithm, chunk_len: u32, runs: usize) -> f64 {
    let chunk: Vec<u8> = (0..chunk_len).map(|at| at.to_le_bytes()[0]).collect();
    let count = (64 << 20) / chunk_len;
    let mut figures: Vec<f64> = (0..runs)
        .map(|_| {
            let begun = thread_seconds();
            for _ in 0..count {
                black_box(algorithm.hash(black_box(&chunk)));
            }
            (thread_seconds() - begun) * 1e9 / f64::from(count) / f64::from(chunk_len)
        })
        .collect();
    median(&mut figures).unwrap_or_default()
}

/// The reads in a log of nbdkit's, in order.
fn reads(trace: &Path) -> Result<Vec<ByteRange>> {
    let text = fs::read_to_string(trace).with_context(|| format!("{}", trace.display()))?;
    let field = |line: &str, name: &str| -> Option<u64> {
        let hex = line.split(name).nth(1)?.split_whitespace().next()?;
        u64::from_str_radix(hex, 16).ok()
    };
    let parse = |line: &str| {
        line.contains(" Read ")
            .then(|| ByteRange::at(field(line, "offset=0x")?, field(line, "count=0x")?))?
    };
    let reads: Vec<ByteRange> = text.lines().filter_map(parse).collect();
    anyhow::ensure!(!reads.is_empty(), "{} holds no read", trace.display());
    Ok(reads)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a start reads fewer than 2^52 bytes"
)]
fn replay(disk: &Disk, cut: &Cut, reads: &[ByteRange]) -> Replay {
    let mut out = Replay::default();
    let mut here = BTreeSet::new();
    let mut touched = Vec::new();
    for read in reads {
        let (mut runs, mut len) = (0_u64, 0_u64);
        for (_, stored) in disk.stored_ranges(*read) {
            touched.push(stored);
            let mut last = None;
            for chunk in cut.table.over(stored) {
                if !here.insert(chunk.get()) {
                    continue;
                }
                len += cut.table.range(chunk).len();
                if last != Some(chunk.get().wrapping_sub(1)) {
                    runs += 1;
                }
                last = Some(chunk.get());
            }
        }
        out.fetched_len += len;
        out.request_count += runs;
        if len > 0 {
            for (seconds, link) in out.seconds.iter_mut().zip(&LINKS) {
                *seconds += link.round_trip + len as f64 / link.rate;
            }
        }
    }
    out.read_len = union_len(touched);
    out
}

/// Bytes that any of the ranges holds.
fn union_len(mut ranges: Vec<ByteRange>) -> u64 {
    ranges.sort_by_key(|range| range.start);
    let (mut len, mut end) = (0, 0);
    for range in ranges {
        len += range.end.saturating_sub(range.start.max(end));
        end = end.max(range.end);
    }
    len
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a start reads fewer than 2^52 bytes"
)]
fn tell(name: &str, replay: &Replay, hashing: [f64; 2]) -> Value {
    let mut told = json!({
        "start": name,
        "read_bytes": replay.read_len,
        "fetched_bytes": replay.fetched_len,
        "fetched_over_read": replay.fetched_len as f64 / replay.read_len.max(1) as f64,
        "requests": replay.request_count,
        "blake3_cpu_ms": replay.fetched_len as f64 * hashing[0] / 1e6,
        "sha256_cpu_ms": replay.fetched_len as f64 * hashing[1] / 1e6,
    });
    if let Some(told) = told.as_object_mut() {
        for (link, seconds) in LINKS.iter().zip(replay.seconds) {
            told.insert(format!("seconds_{}", link.name), json!(seconds));
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_twice_counts_once() {
        let ranges = [(10, 20), (0, 5), (15, 30), (16, 17)];
        let ranges = ranges.map(|(start, end)| ByteRange::new(start, end));
        assert_eq!(union_len(ranges.into()), 25);
    }

    #[test]
    fn a_log_of_nbdkit_is_read_in_order() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = "2026-01-01 00:00:00.1 connection=1 Read id=1 offset=0x400 count=0x80 ...\n\
                   2026-01-01 00:00:00.2 connection=1 ...Read id=1 return=0 (Success)\n\
                   2026-01-01 00:00:00.3 connection=1 Flush id=2 ...\n\
                   2026-01-01 00:00:00.4 connection=1 Read id=3 offset=0x0 count=0x1000 ...\n";
        fs::write(file.path(), log).unwrap();
        let found = reads(file.path()).unwrap();
        assert_eq!(
            found,
            [ByteRange::new(0x400, 0x480), ByteRange::new(0, 0x1000)]
        );
        fs::write(file.path(), "").unwrap();
        assert!(reads(file.path()).is_err());
    }
}
