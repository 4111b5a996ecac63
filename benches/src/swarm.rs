//! The real thing on one machine: a registry, a tracker and agents, each on a host of its own behind links of known width.
//!
//! A simulation shows what the policy does; this shows what the product does, sockets, disks and processors included. All
//! hosts read the same working set of one image, every byte is compared, and what left the registry is counted outside of
//! what is tested. It needs root, Debian's iproute2 and docker-registry, and this workspace's programs beside this one.

mod crowd;
mod delay;
mod figures;
mod image;
pub(crate) mod lab;
mod machine;
pub(crate) mod origin;
mod process;
mod reader;
mod recovery;
mod run;
mod scenario;
mod stranger;
mod tracker_machine;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use self::figures::Figures;
use self::image::Image;
use self::machine::Programs;
use self::run::Ground;
use self::scenario::Scenario;
use crate::cost::median;

/// Most hosts: what two cores still carry.
const HOSTS_MAX: usize = 24;

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Agents, each on a host of its own.
    pub hosts: usize,
    /// What each host's link lets through in each direction, in bits a second.
    pub link: u64,
    /// The scenario's name.
    pub scenario: String,
    /// How often it is run; the medians are printed.
    pub runs: usize,
    /// Bytes that each host reads.
    pub work_len: usize,
}

/// Names of scenarios and what happens in them.
pub fn scenarios(hosts: usize) -> Vec<(&'static str, &'static str)> {
    let all = scenario::all(hosts).into_iter();
    all.map(|known| (known.name, known.about)).collect()
}

/// Reads a link's width as `tc` writes it: `100mbit`, `1gbit`.
pub fn parse_link(text: &str) -> Result<u64, String> {
    let units = [
        ("gbit", 1_000_000_000),
        ("mbit", 1_000_000),
        ("kbit", 1_000),
    ];
    let width = units.iter().find_map(|(unit, factor)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*factor)
    });
    width
        .filter(|width| *width >= 1_000_000)
        .ok_or_else(|| format!("{text:?} is no width such as 100mbit or 1gbit, of 1mbit at least"))
}

/// Takes down what this process has up and ends it: the way out on a signal, which runs no destructors.
pub fn stop_now() -> ! {
    STOPPING.store(true, Ordering::SeqCst);
    if let Err(error) = lab::sweep_ours() {
        #[expect(clippy::print_stderr, reason = "nobody else would say it")]
        {
            eprintln!("the lab could not be taken down: {error:#}");
        }
    }
    let folder = FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(folder) = folder.as_ref() {
        // What is left of it lies in memory and is found there by its owner.
        let _ = std::fs::remove_dir_all(folder);
    }
    #[expect(clippy::exit, reason = "there is nothing left to return to")]
    std::process::exit(130)
}

/// Set before the first part is killed: a run that ends from then on ends because its parts do.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// The scratch folder of this process, for [`stop_now`].
static FOLDER: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Runs a scenario and gives its figures: the median of each, the sum of errors, and every run.
///
/// # Errors
/// When a part does not start, a host does not come to its end, or something is left over.
pub fn measure(options: &Options) -> Result<Value> {
    let measured = measured(options);
    // A run whose parts were killed under it fails, and would end the process with its own word before the lab is down.
    while STOPPING.load(Ordering::SeqCst) {
        thread::park();
    }
    measured
}

fn measured(options: &Options) -> Result<Value> {
    ensure!(options.runs > 0, "--runs must be at least 1");
    ensure!(
        (1..=HOSTS_MAX).contains(&options.hosts),
        "--hosts must be 1 to {HOSTS_MAX}"
    );
    ensure!(
        rustix::process::geteuid().is_root(),
        "network namespaces need root"
    );
    let scenario = scenario::named(&options.scenario, options.hosts)?;
    let hosts = scenario.hosts.unwrap_or(options.hosts);
    ensure!(
        hosts > scenario.slow + scenario.corrupting + scenario.deeds.len(),
        "{} needs more hosts than {hosts}",
        scenario.name
    );
    lab::sweep_stale()?;
    // Stores in memory: a disk that all hosts share would be what is measured.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    let folder = folder.context("make a scratch folder")?;
    *FOLDER.lock().unwrap_or_else(PoisonError::into_inner) = Some(folder.path().to_path_buf());
    let ground = Ground {
        programs: Programs::find()?,
        folder: folder.path(),
        image: Image::make(options.work_len),
        link: options.link,
    };
    let unique_len = run::prepare(&ground)?;
    let base = scenario.base.map(|name| scenario::named(name, hosts));
    let base = base.transpose()?;
    let (mut runs, mut base_runs) = (Vec::new(), Vec::new());
    // In turn: what else the machine does changes over the hours.
    for _ in 0..options.runs {
        if let Some(base) = &base {
            base_runs.push(one(&ground, base, hosts, unique_len)?);
        }
        runs.push(one(&ground, &scenario, hosts, unique_len)?);
    }
    let mut figures = report(options, &scenario, hosts, (&runs, &base_runs))?;
    if let (Some(base), Some(figures)) = (&base, figures.as_object_mut()) {
        let recovery = recovery::p99_after_over_base(&runs, &base_runs);
        figures.insert("base".to_owned(), json!(base.name));
        figures.insert("p99_after_over_base".to_owned(), json!(recovery));
        let each = serde_json::to_value(&base_runs).context("write the figures")?;
        figures.insert("each_base_run".to_owned(), each);
    }
    Ok(figures)
}

fn one(ground: &Ground<'_>, scenario: &Scenario, hosts: usize, unique_len: u64) -> Result<Figures> {
    if !scenario.beside_direct {
        return run::run(ground, scenario, hosts, unique_len);
    }
    let direct = Scenario {
        tracker: scenario::Tracker::None,
        ..scenario.clone()
    };
    let direct = run::run(ground, &direct, hosts, unique_len)?;
    let mut figures = run::run(ground, scenario, hosts, unique_len)?;
    figures.over_direct = Some(figures.seconds / direct.seconds);
    Ok(figures)
}

fn report(
    options: &Options,
    scenario: &Scenario,
    hosts: usize,
    (runs, base_runs): (&[Figures], &[Figures]),
) -> Result<Value> {
    // A wrong byte is one wherever it is.
    let all = || runs.iter().chain(base_runs);
    let middle =
        |figure: fn(&Figures) -> f64| median(&mut runs.iter().map(figure).collect::<Vec<_>>());
    let mut report = json!({
        "scenario": scenario.name,
        "hosts": hosts,
        "link_bits_per_second": options.link,
        "working_set_bytes": options.work_len,
        "runs": runs.len(),
        "origin_amplification": middle(|run| run.origin_amplification),
        "makespan_over_optimum": middle(|run| run.makespan_over_optimum),
        "upload_skew": middle(|run| run.upload_skew),
        "hedged_share": middle(|run| run.hedged_share),
        "read_errors": all().map(|run| run.read_errors).sum::<u64>(),
        "wrong_bytes": all().map(|run| run.wrong_bytes).sum::<u64>(),
        "seconds": middle(|run| run.seconds),
        "optimum_seconds": middle(|run| run.optimum_seconds),
        "cpu_share": middle(|run| run.cpu_share),
        "each_run": serde_json::to_value(runs).context("write the figures")?,
    });
    let mut over_direct: Vec<_> = runs.iter().filter_map(|run| run.over_direct).collect();
    if let (Some(figure), Some(report)) = (median(&mut over_direct), report.as_object_mut()) {
        report.insert("over_direct".to_owned(), json!(figure));
    }
    let strangers = runs.iter().filter_map(|run| run.stranger);
    let got = strangers
        .map(|found| found.got)
        .reduce(|one, other| one + other);
    if let (Some(got), Some(report)) = (got, report.as_object_mut()) {
        report.insert("chunks_without_right".to_owned(), json!(got));
    }
    Ok(report)
}

/// The figures for people: those of all runs, then each host of the last one.
///
/// # Errors
/// When `report` is none of [`measure`].
pub fn table(report: &Value) -> Result<String> {
    let Some(figures) = report.as_object() else {
        bail!("these are no figures");
    };
    let mut text = String::new();
    for (name, figure) in figures.iter().filter(|(_, figure)| !figure.is_array()) {
        writeln!(text, "{name:<24}{}", short(figure)).context("write")?;
    }
    let hosts = report.pointer("/each_run").and_then(Value::as_array);
    let last = hosts.and_then(|runs| runs.last()).context("a run")?;
    for name in ["bytes", "read_ms", "around_event"] {
        if let Some(value) = last.get(name) {
            writeln!(text, "{name:<24}{value}").context("write")?;
        }
    }
    for host in last
        .pointer("/hosts")
        .and_then(Value::as_array)
        .context("hosts")?
    {
        let fields = host.as_object().context("a host")?.iter();
        let line: Vec<_> = fields
            .map(|(name, value)| format!("{name} {}", short(value)))
            .collect();
        writeln!(text, "{}", line.join("  ")).context("write")?;
    }
    Ok(text)
}

fn short(figure: &Value) -> String {
    match figure.as_f64() {
        Some(number) if !figure.is_u64() => format!("{number:.3}"),
        _ => figure
            .as_str()
            .map_or_else(|| figure.to_string(), str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_as_tc_writes_them() {
        assert_eq!(parse_link("100mbit"), Ok(100_000_000));
        assert_eq!(parse_link("1gbit"), Ok(1_000_000_000));
        for wrong in ["100", "fast", "5kbit", "99999999999999999999gbit", "-1mbit"] {
            assert!(parse_link(wrong).is_err(), "{wrong}");
        }
    }
}
