//! What smaller layers would cost: the converter at higher levels, and zstd's own parameters over the same bytes.
//!
//! Everything is given over level 3, which is the converter's, measured in the same round: processors are shared, and a round
//! is short enough for both to have met the same neighbours. Bare compression works on a sample, one MiB of every
//! 24, so that a round over all parameters is a matter of seconds.

use std::ffi::OsStr;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tranship_format::LayerOptions;
use tranship_format::convert::{ConvertOptions, Converter};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, Strategy};

use crate::convert::{Run, timed};
use crate::cost::{median, thread_seconds};
use crate::format::{Source, scratch};

/// The level that everything stands beside, and the length of a block, as the converter's defaults have them.
const LEVEL: i32 = 3;
const BLOCK_LEN: usize = 32 << 10;

/// Levels of the whole conversion.
const LEVELS: [i32; 4] = [LEVEL, 4, 5, 6];

/// Of each so many bytes the first MiB is in the sample.
const EVERY: u64 = 24 << 20;
const PART: usize = 1 << 20;

/// One way to compress blocks; the first one is what the others are compared with.
struct Way {
    name: &'static str,
    level: i32,
    block_len: usize,
    parameters: &'static [CParameter],
}

const fn by_level(name: &'static str, level: i32) -> Way {
    Way {
        name,
        level,
        block_len: BLOCK_LEN,
        parameters: &[],
    }
}

const fn by_parameters(name: &'static str, parameters: &'static [CParameter]) -> Way {
    Way {
        name,
        level: LEVEL,
        block_len: BLOCK_LEN,
        parameters,
    }
}

/// Double-fast with matches of 4 bytes in place of 5.
const SHORT_MATCHES: [CParameter; 2] = [
    CParameter::Strategy(Strategy::ZSTD_dfast),
    CParameter::MinMatch(4),
];

const WAYS: [Way; 9] = [
    by_level("level 3", LEVEL),
    by_level("level 4", 4),
    by_parameters(
        "double-fast, matches of 4 bytes, tables of 15 bits",
        &[
            SHORT_MATCHES[0],
            SHORT_MATCHES[1],
            CParameter::HashLog(15),
            CParameter::ChainLog(15),
        ],
    ),
    by_parameters(
        "double-fast, matches of 4 bytes, tables of 14 and 13 bits",
        &[
            SHORT_MATCHES[0],
            SHORT_MATCHES[1],
            CParameter::HashLog(14),
            CParameter::ChainLog(13),
        ],
    ),
    by_parameters(
        "greedy, matches of 4 bytes",
        &[
            CParameter::Strategy(Strategy::ZSTD_greedy),
            CParameter::MinMatch(4),
        ],
    ),
    by_level("level 5", 5),
    by_level("level 6", 6),
    Way {
        name: "level 3, blocks of 64 KiB",
        level: LEVEL,
        block_len: 2 * BLOCK_LEN,
        parameters: &[],
    },
    Way {
        name: "double-fast, matches of 4 bytes, blocks of 64 KiB",
        level: LEVEL,
        block_len: 2 * BLOCK_LEN,
        parameters: &SHORT_MATCHES,
    },
];

/// What a way cost in one round.
struct Cost {
    stored_len: usize,
    compress_seconds: f64,
    decompress_seconds: f64,
}

/// Converts `input`, a directory or the reference of an image, at each level, and compresses a sample of it each way; `runs`
/// rounds, whose median ratios to level 3 come back.
pub fn measure(input: &OsStr, runs: usize) -> Result<Value> {
    ensure!(runs > 0, "--runs must be at least 1");
    let scratch = scratch()?;
    let source = Source::make(Some(input), 0, scratch.path())?;
    let sample = sample(&source.tar)?;
    let mut levels = LEVELS.map(|level| Row::new(format!("level {level}")));
    let mut ways = WAYS.each_ref().map(|way| Row::new(way.name.to_owned()));
    for _ in 0..runs {
        let mut base = None;
        for (row, level) in levels.iter_mut().zip(LEVELS) {
            let run = timed(|| convert(&source.tar, level))?;
            let base = base.get_or_insert((run.stored_len, run.cpu));
            row.note_conversion(&run, *base);
        }
        let mut base = None;
        for (row, way) in ways.iter_mut().zip(&WAYS) {
            let cost = compress(&sample, way)?;
            row.note_blocks(&cost, base.as_ref());
            base.get_or_insert(cost);
        }
    }
    Ok(json!({
        "input": source.description,
        "plain_bytes": source.plain_len,
        "sample_bytes": sample.len(),
        "runs": runs,
        "conversion": levels.map(Row::tell),
        "blocks": ways.map(Row::tell),
    }))
}

/// A row of the result: names and the figures of each round.
struct Row {
    name: String,
    stored_len: u64,
    figures: Vec<(&'static str, Vec<f64>)>,
}

#[expect(
    clippy::cast_precision_loss,
    reason = "an image has fewer than 2^52 bytes"
)]
impl Row {
    fn new(name: String) -> Self {
        Self {
            name,
            stored_len: 0,
            figures: Vec::new(),
        }
    }

    fn note(&mut self, name: &'static str, figure: f64) {
        match self.figures.iter_mut().find(|(known, _)| *known == name) {
            Some((_, figures)) => figures.push(figure),
            None => self.figures.push((name, vec![figure])),
        }
    }

    /// One conversion, beside the length and the processor time of that at level 3.
    fn note_conversion(&mut self, run: &Run, (len, cpu): (u64, f64)) {
        self.stored_len = run.stored_len;
        self.note("size", run.stored_len as f64 / len as f64);
        self.note("cpu", run.cpu / cpu);
    }

    /// Blocks compressed and decompressed once; without `base` they are those that others stand beside.
    fn note_blocks(&mut self, cost: &Cost, base: Option<&Cost>) {
        let base = base.unwrap_or(cost);
        self.stored_len = cost.stored_len as u64;
        self.note("size", cost.stored_len as f64 / base.stored_len as f64);
        self.note(
            "compression_time",
            cost.compress_seconds / base.compress_seconds,
        );
        self.note(
            "decompression_speed",
            base.decompress_seconds / cost.decompress_seconds,
        );
    }

    fn tell(self) -> Value {
        let mut told = json!({ "way": self.name, "stored_bytes": self.stored_len });
        if let Some(told) = told.as_object_mut() {
            for (name, mut figures) in self.figures {
                told.insert(name.to_owned(), json!(median(&mut figures)));
            }
        }
        told
    }
}

fn convert(tar: &Path, level: i32) -> Result<(u64, u64)> {
    let layer = LayerOptions {
        level,
        ..LayerOptions::default()
    };
    let file = File::open(tar).context("opening the tar")?;
    let plain_len = file.metadata().context("the tar's length")?.len();
    let spool = tempfile::tempfile().context("making a spool file")?;
    let (_, summary) = Converter::new(ConvertOptions { layer })
        .layer(BufReader::with_capacity(1 << 20, file), spool)
        .context("converting the tar")?;
    Ok((plain_len, summary.len))
}

/// A part of the tar from everywhere in it.
fn sample(tar: &Path) -> Result<Vec<u8>> {
    let file = File::open(tar).context("opening the tar")?;
    let len = file.metadata().context("the tar's length")?.len();
    let mut sample = Vec::new();
    let mut at = 0;
    while at < len {
        let from = sample.len();
        let part = usize::try_from(len - at).map_or(PART, |left| left.min(PART));
        sample.resize(from + part, 0);
        let into = sample.get_mut(from..).unwrap_or_default();
        file.read_exact_at(into, at).context("reading the tar")?;
        at += EVERY;
    }
    Ok(sample)
}

/// Compresses the sample block by block and back; checks that it is what it was.
fn compress(sample: &[u8], way: &Way) -> Result<Cost> {
    let mut compressor = Compressor::new(way.level).context("making a compressor")?;
    for parameter in way.parameters {
        compressor
            .set_parameter(*parameter)
            .with_context(|| format!("setting {parameter:?}"))?;
    }
    let mut stored = Vec::new();
    let begun = thread_seconds();
    for block in sample.chunks(way.block_len) {
        stored.push(compressor.compress(block).context("compressing")?);
    }
    let compressed = thread_seconds();
    let mut decompressor = Decompressor::new().context("making a decompressor")?;
    let mut plain = vec![0; way.block_len];
    let mut decompress_seconds = 0.0;
    for (stored, block) in stored.iter().zip(sample.chunks(way.block_len)) {
        let begun = thread_seconds();
        let len = decompressor
            .decompress_to_buffer(stored, plain.as_mut_slice())
            .context("decompressing")?;
        decompress_seconds += thread_seconds() - begun;
        ensure!(plain.get(..len) == Some(block), "a block came back changed");
    }
    Ok(Cost {
        stored_len: stored.iter().map(Vec::len).sum(),
        compress_seconds: compressed - begun,
        decompress_seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text that repeats after 40,000 bytes: blocks of 64 KiB hold some of it twice, shorter ones do not.
    fn text(len: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let words = core::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            format!("{:x} ", state >> 8)
        });
        let once: Vec<u8> = words.flat_map(String::into_bytes).take(40_000).collect();
        once.into_iter().cycle().take(len).collect()
    }

    #[test]
    fn every_way_gives_the_sample_back_and_says_what_it_took() {
        let sample = text(200_000);
        for way in &WAYS {
            let cost = compress(&sample, way).unwrap();
            assert!(cost.stored_len > 0 && cost.stored_len < sample.len());
            assert!(cost.compress_seconds > 0.0 && cost.decompress_seconds > 0.0);
        }
        let longer = compress(&sample, &WAYS[7]).unwrap();
        assert!(longer.stored_len < compress(&sample, &WAYS[0]).unwrap().stored_len);
    }

    #[test]
    fn a_sample_is_of_all_parts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(2 * EVERY + 5).unwrap();
        file.as_file().write_all_at(b"end", 2 * EVERY).unwrap();
        let sample = sample(file.path()).unwrap();
        assert_eq!(sample.len(), 2 * PART + 5);
        assert!(sample.ends_with(b"end\0\0"));
    }

    #[test]
    fn figures_stand_beside_those_of_their_round() {
        let mut row = Row::new("a way".to_owned());
        let cost = |stored_len, seconds| Cost {
            stored_len,
            compress_seconds: seconds,
            decompress_seconds: seconds,
        };
        row.note_blocks(&cost(50, 4.0), Some(&cost(100, 2.0)));
        let told = row.tell();
        assert_eq!(told["size"], 0.5);
        assert_eq!(told["compression_time"], 2.0);
        assert_eq!(told["decompression_speed"], 0.5);
    }
}
