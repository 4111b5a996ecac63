//! Conversion: layer tars to layer blobs, beside what compressing the same bytes costs alone.
//!
//! zstd of the tar in blocks of the same length is what no converter can go below; the ratio to it says what layout,
//! hashing and framing add, and holds when the machine is slow.

use crate::cost::{cpu_seconds, median, peak_rss_mib};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::time::Instant;
use tranship_format::convert::{ConvertOptions, Converter};

/// The block length and level of the bare compression, as the converter's defaults have them.
const BLOCK_LEN: usize = 32 << 10;
const LEVEL: i32 = 3;

/// One way of working through the tars, measured once.
pub(crate) struct Run {
    pub(crate) plain_len: u64,
    pub(crate) stored_len: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu: f64,
}

/// Converts the tars (one image, bottom first) `runs` times, each beside bare compression.
pub fn measure(tars: &[PathBuf], runs: usize) -> Result<Value> {
    let (mut per_cpu, mut per_second, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut plain_len, mut stored_len) = (0, 0);
    let mut peak = 0.0_f64;
    for _ in 0..runs {
        let ours = timed(|| convert(tars))?;
        peak = peak.max(peak_rss_mib()?);
        let bare = timed(|| compress(tars))?;
        #[expect(
            clippy::cast_precision_loss,
            reason = "a tar has fewer than 2^52 bytes"
        )]
        let megabytes = ours.plain_len as f64 / 1e6;
        per_cpu.push(megabytes / ours.cpu.max(0.01));
        per_second.push(megabytes / ours.seconds);
        ratios.push(ours.cpu / bare.cpu.max(0.01));
        (plain_len, stored_len) = (ours.plain_len, ours.stored_len);
    }
    Ok(json!({
        "convert_mb_per_cpu_s": median(&mut per_cpu),
        "convert_mb_per_s": median(&mut per_second),
        "convert_cpu_over_bare_zstd": median(&mut ratios),
        "convert_peak_rss_mib": peak,
        "plain_bytes": plain_len,
        "stored_bytes": stored_len,
        "runs": runs,
    }))
}

/// Does `work` and notes what it took.
pub(crate) fn timed(work: impl FnOnce() -> Result<(u64, u64)>) -> Result<Run> {
    let (begun, cpu) = (Instant::now(), cpu_seconds()?);
    let (plain_len, stored_len) = work()?;
    Ok(Run {
        plain_len,
        stored_len,
        seconds: begun.elapsed().as_secs_f64(),
        cpu: cpu_seconds()? - cpu,
    })
}

/// The tars through the converter, into files that end with the measurement.
fn convert(tars: &[PathBuf]) -> Result<(u64, u64)> {
    let mut converter = Converter::new(ConvertOptions::default());
    let (mut plain_len, mut stored_len) = (0, 0);
    for tar in tars {
        let file = File::open(tar).with_context(|| format!("opening {}", tar.display()))?;
        plain_len += file.metadata().context("the tar's length")?.len();
        let spool = tempfile::tempfile().context("making a spool file")?;
        let (_, summary) = converter
            .layer(BufReader::with_capacity(1 << 20, file), spool)
            .with_context(|| format!("converting {}", tar.display()))?;
        stored_len += summary.len;
    }
    Ok((plain_len, stored_len))
}

/// The same bytes through zstd alone, block by block.
pub(crate) fn compress(tars: &[PathBuf]) -> Result<(u64, u64)> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL).context("making a compressor")?;
    let (mut plain_len, mut stored_len) = (0, 0);
    let mut block = Vec::with_capacity(BLOCK_LEN);
    for tar in tars {
        let mut file = File::open(tar).with_context(|| format!("opening {}", tar.display()))?;
        loop {
            block.clear();
            let len = (&mut file)
                .take(BLOCK_LEN as u64)
                .read_to_end(&mut block)
                .with_context(|| format!("reading {}", tar.display()))?;
            if len == 0 {
                break;
            }
            plain_len += len as u64;
            stored_len += compressor.compress(&block).context("compressing")?.len() as u64;
        }
    }
    Ok((plain_len, stored_len))
}
