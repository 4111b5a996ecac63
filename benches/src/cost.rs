//! What a process has cost so far, by the kernel's own accounts.

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::time::Duration;

/// Ticks a second in which `/proc` counts CPU time: fixed by the kernel's interface on every architecture in use.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds, user and system, of this process and all its threads.
pub fn cpu_seconds() -> Result<f64> {
    cpu_seconds_of("self")
}

/// The same of the process with that id.
pub fn cpu_seconds_of(process: &str) -> Result<f64> {
    seconds_in_stat(process, 11)
}

/// The same of all processes that this one has started and that have ended.
pub fn cpu_seconds_of_children() -> Result<f64> {
    seconds_in_stat("self", 13)
}

/// The sum of two fields of a process's accounts, counted from behind its name.
fn seconds_in_stat(process: &str, first: usize) -> Result<f64> {
    let path = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    // The command's name stands in parentheses and may hold anything; fields count from behind it.
    let (_, fields) = stat
        .rsplit_once(") ")
        .with_context(|| format!("{path} has no command"))?;
    let ticks: u64 = fields
        .split(' ')
        .skip(first)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    #[expect(
        clippy::cast_precision_loss,
        reason = "a process does not live for 2^52 ticks"
    )]
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// CPU seconds of the calling thread, to the nanosecond.
pub fn thread_seconds() -> f64 {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    Duration::from_nanos(spent.tv_nsec.unsigned_abs()).as_secs_f64()
        + Duration::from_secs(spent.tv_sec.unsigned_abs()).as_secs_f64()
}

/// The most memory that was resident at any one time, in MiB.
pub fn peak_rss_mib() -> Result<f64> {
    memory_mib_of("self", "VmHWM")
}

/// A figure of a process's memory in MiB, by its name in the kernel's status: `VmHWM` is the peak, `VmRSS` what is resident.
pub fn memory_mib_of(process: &str, field: &str) -> Result<f64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    status
        .lines()
        .find_map(|line| {
            line.strip_prefix(field)?
                .strip_prefix(':')?
                .trim()
                .strip_suffix(" kB")
        })
        .and_then(|kib| kib.trim().parse::<f64>().ok())
        .map(|kib| kib / 1024.0)
        .with_context(|| format!("{path} has no {field}"))
}

/// Memory of a process that no other process has mapped, in MiB.
pub fn private_mib_of(process: &str) -> Result<f64> {
    let path = format!("/proc/{process}/smaps_rollup");
    let told = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let lines = told.lines().filter_map(|line| {
        let (name, figure) = line.split_once(':')?;
        let is_private = matches!(name, "Private_Clean" | "Private_Dirty");
        let kib = figure.trim().strip_suffix(" kB")?;
        is_private.then(|| kib.trim().parse::<f64>().ok()).flatten()
    });
    Ok(lines.sum::<f64>() / 1024.0)
}

/// How often threads of a process have begun to wait so far.
pub fn wakeups_of(process: &str) -> Result<f64> {
    let path = format!("/proc/{process}/task");
    let tasks = fs::read_dir(&path).with_context(|| format!("reading {path}"))?;
    let counts = tasks.flatten().filter_map(|task| {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<f64>().ok()
    });
    Ok(counts.sum())
}

/// The median of some figures; of an even number, the lower of the middle two.
pub fn median(figures: &mut [f64]) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_one_of_the_figures() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3.0]), Some(3.0));
        assert_eq!(median(&mut [9.0, 1.0]), Some(1.0));
        assert_eq!(median(&mut [9.0, 1.0, 4.0]), Some(4.0));
    }

    #[test]
    fn this_process_costs_something() {
        assert!(peak_rss_mib().unwrap() > 0.5);
        assert!(cpu_seconds().unwrap() >= 0.0);
    }
}
