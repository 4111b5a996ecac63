//! All figures of the format in one run: what conversion costs and what reading costs.
//!
//! Conversion is the whole of `tranship convert` between two OCI layouts, each time in a process of its own: reading and
//! hashing the tar, layout, compression, hashing and writing the blob. Bare zstd of the same bytes stands beside it. One
//! core and two take turns, so that the ratio between them holds while the machine does other things too.

mod nydus;
mod source;

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Deserialize;
use serde_json::{Value, json};
use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use tempfile::TempDir;

use self::nydus::Nydus;
pub(crate) use self::source::Source;
use crate::convert::{compress, timed};
use crate::cost::median;
use crate::reading;

/// The subcommand by which this program is `tranship`, and tells afterwards what that has cost.
pub const AS_TRANSHIP: &str = "tranship";

/// Bytes of files that are taken from this machine when no input is given.
const OWN_LEN: u64 = 1_100_000_000;

/// Memory that behaves as a disk, if the machine has it: then the figures are not the disk's.
const MEMORY: &str = "/dev/shm";

/// What a process of `tranship` has cost, as it says itself at its end.
#[derive(Debug, Deserialize)]
pub(crate) struct Cost {
    cpu_seconds: f64,
    peak_rss_mib: f64,
}

/// One conversion.
struct Conversion {
    seconds: f64,
    cost: Cost,
    stored_len: u64,
}

/// Measures conversion of `input`, a directory or the reference of an image, and reading; `runs` times each, the medians
/// come back. Without `input`, files of this machine are taken. Beside the conversion of a directory stands that of Nydus, if
/// `nydus` names its `nydus-image`.
pub fn measure(input: Option<&OsStr>, nydus: Option<&Path>, runs: usize) -> Result<Value> {
    ensure!(runs > 0, "--runs must be at least 1");
    let tree = input.map(PathBuf::from).filter(|input| input.is_dir());
    ensure!(
        nydus.is_none() || tree.is_some(),
        "--nydus converts a directory: name one with --input"
    );
    let beside = nydus
        .zip(tree)
        .map(|(program, tree)| Nydus { program, tree });
    let scratch = scratch()?;
    let source = Source::make(input, OWN_LEN, scratch.path())?;
    let cores = cores()?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "a tar has fewer than 2^52 bytes"
    )]
    let megabytes = source.plain_len as f64 / 1e6;

    let mut figures = Figures::default();
    let mut stored_len = 0;
    let mut bare_len = 0;
    let mut nydus_len = None;
    for _ in 0..runs {
        let one = on_cores(&cores, 1, || convert(&source, scratch.path()))?;
        let two = on_cores(&cores, 2, || convert(&source, scratch.path()))?;
        let bare = timed(|| compress(std::slice::from_ref(&source.tar)))?;
        figures.note("convert_mb_per_cpu_s", megabytes / two.cost.cpu_seconds);
        figures.note(
            "convert_mb_per_cpu_s_1_core",
            megabytes / one.cost.cpu_seconds,
        );
        figures.note("convert_mb_per_s", megabytes / two.seconds);
        figures.note("convert_mb_per_s_1_core", megabytes / one.seconds);
        figures.note("convert_speedup_2_cores", one.seconds / two.seconds);
        figures.note("convert_peak_rss_mib", two.cost.peak_rss_mib);
        figures.note(
            "convert_cpu_over_bare_zstd",
            two.cost.cpu_seconds / bare.cpu,
        );
        (stored_len, bare_len) = (two.stored_len, bare.stored_len);
        if let Some(nydus) = &beside {
            nydus_len = Some(nydus.convert(megabytes, scratch.path(), &mut figures)?);
        }
    }
    let mut report = json!({
        "input": source.description,
        "plain_bytes": source.plain_len,
        "stored_bytes": stored_len,
        "bare_zstd_bytes": bare_len,
        "nydus_bytes": nydus_len,
        "cores": cores.len(),
        "load_average": load_average(),
        "scratch": scratch.path().parent(),
        "runs": runs,
    });
    let reading = reading::measure(&source.files, runs)?;
    if let (Some(report), Value::Object(reading)) = (report.as_object_mut(), reading) {
        report.extend(figures.medians());
        // What both count is the conversion's here.
        for (name, figure) in reading {
            report.entry(name).or_insert(figure);
        }
    }
    Ok(report)
}

/// Figures by name, in the order in which they came.
#[derive(Default)]
struct Figures(Vec<(&'static str, Vec<f64>)>);

impl Figures {
    fn note(&mut self, name: &'static str, figure: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, figures)) => figures.push(figure),
            None => self.0.push((name, vec![figure])),
        }
    }

    fn medians(self) -> impl Iterator<Item = (String, Value)> {
        let of =
            |(name, mut figures): (&str, Vec<f64>)| (name.to_owned(), json!(median(&mut figures)));
        self.0.into_iter().map(of)
    }
}

/// Converts the source into a layout that goes with the measurement.
fn convert(source: &Source, scratch: &Path) -> Result<Conversion> {
    let out = tempfile::tempdir_in(scratch).context("making a directory for the result")?;
    let destination = format!("oci:{}/image:latest", out.path().display());
    let scratch = scratch.display().to_string();
    let begun = Instant::now();
    let (told, cost) = tranship(&[
        "convert",
        &source.reference,
        &destination,
        "--tmp-dir",
        &scratch,
    ])?;
    let seconds = begun.elapsed().as_secs_f64();
    let stored_len = told.get("size").and_then(Value::as_u64);
    Ok(Conversion {
        seconds,
        cost,
        stored_len: stored_len.context("`tranship convert` did not tell the result's size")?,
    })
}

/// Runs `tranship` in a process of its own; returns what it printed, and its cost.
pub(crate) fn tranship(arguments: &[&str]) -> Result<(Value, Cost)> {
    let program = env::current_exe().context("finding this program")?;
    let output = Command::new(program)
        .arg(AS_TRANSHIP)
        .args(["--output", "json", "--progress", "none"])
        .args(arguments)
        .output()
        .context("starting a process")?;
    ensure!(
        output.status.success(),
        "`tranship {}` failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    let mut printed = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let mut next = || {
        printed
            .next()
            .context("a process printed too little")?
            .context("reading what a process printed")
    };
    let first = next()?;
    // Verbs without a result print their cost alone.
    let (told, cost) = match printed.next() {
        Some(cost) => (first, cost.context("reading what a process printed")?),
        None => (Value::Null, first),
    };
    let cost = serde_json::from_value(cost).context("reading what a process has cost")?;
    Ok((told, cost))
}

/// A directory for a while, in memory if the machine has such.
pub(crate) fn scratch() -> Result<TempDir> {
    let memory = Path::new(MEMORY);
    let parent = if memory.is_dir() {
        memory.to_owned()
    } else {
        env::temp_dir()
    };
    tempfile::tempdir_in(&parent).context("making a scratch directory")
}

/// The cores that this process may use.
fn cores() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(None).context("asking for the cores")?;
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|core| allowed.is_set(*core))
        .collect();
    ensure!(cores.len() > 1, "two cores are needed to compare with one");
    Ok(cores)
}

/// Does `work`, and has the processes that it starts use the first `count` of `cores` only.
fn on_cores<T>(cores: &[usize], count: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let set = |cores: &[usize]| {
        let mut set = CpuSet::new();
        for core in cores {
            set.set(*core);
        }
        sched_setaffinity(None, &set).context("choosing cores")
    };
    set(cores.get(..count).unwrap_or(cores))?;
    let done = work();
    set(cores)?;
    done
}

/// How busy the machine was, as far as it says.
fn load_average() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}

/// `tranship` in this process; prints its cost when it is done.
pub fn as_tranship(arguments: Vec<std::ffi::OsString>) -> Result<(std::process::ExitCode, Value)> {
    let name = std::ffi::OsString::from(AS_TRANSHIP);
    let exit = tranship_tools::tranship(std::iter::once(name).chain(arguments));
    let cost = json!({
        "cpu_seconds": crate::cost::cpu_seconds()?,
        "peak_rss_mib": crate::cost::peak_rss_mib()?,
    });
    Ok((exit, cost))
}

/// A path as an argument.
fn shown(path: PathBuf) -> Result<String> {
    let text = path.into_os_string().into_string();
    text.map_err(|path| anyhow::anyhow!("{} is no text", path.display()))
}
