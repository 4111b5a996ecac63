//! The giving end: a process of its own that says where it is and, whenever asked, what it has cost.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, clock_gettime};

use super::{Carrier, node, ours, raw, runtime};

/// The hidden verb that a giver is started by.
pub const VERB: &str = "transport-giver";

/// CPU seconds of this process and all its threads, to the nanosecond.
pub(super) fn cpu_seconds() -> f64 {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    #[expect(
        clippy::cast_precision_loss,
        reason = "a process does not live that long"
    )]
    let seconds = spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9;
    seconds
}

/// A running giver; ends with this.
#[derive(Debug)]
pub(super) struct Giver {
    process: Child,
    /// Asks what it has cost, and ends it when dropped.
    ask: Option<ChildStdin>,
    told: BufReader<ChildStdout>,
    address: String,
}

impl Giver {
    /// Starts a giver of chunks of `len` bytes, and waits until it can be asked.
    pub(super) fn start(carrier: Carrier, len: usize) -> Result<Self> {
        let program = std::env::current_exe().context("this program's own file")?;
        let mut process = Command::new(program)
            .arg(VERB)
            .args([carrier.name(), len.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a giver")?;
        let told = process
            .stdout
            .take()
            .context("a giver that tells nothing")?;
        let mut giver = Self {
            ask: process.stdin.take(),
            process,
            told: BufReader::new(told),
            address: String::new(),
        };
        giver.address = giver.line()?;
        ensure!(!giver.address.is_empty(), "the giver has ended");
        Ok(giver)
    }

    /// Where it is, as it says itself.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// CPU seconds that it has used.
    pub(super) fn cpu_seconds(&mut self) -> Result<f64> {
        let ask = self.ask.as_mut().context("a giver that can be asked")?;
        ask.write_all(b"\n").context("asking a giver")?;
        self.line()?.parse().context("a giver's CPU time")
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.told.read_line(&mut line).context("hearing a giver")?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Giver {
    fn drop(&mut self) {
        drop(self.ask.take());
        // One that has ended already is as good.
        let _ = self.process.wait();
    }
}

/// Is a giver until its standard input ends.
///
/// # Errors
/// If it cannot listen, or nobody asks any more.
pub fn give(carrier: Carrier, len: usize) -> Result<()> {
    let runtime = runtime()?;
    let (address, _alive) = runtime.block_on(async {
        match carrier {
            Carrier::RawTcp | Carrier::RawTcpKept => raw::give_tcp(len).await,
            Carrier::RawTls => raw::give_tls(len).await,
            Carrier::Ours => ours::give(len).await,
            Carrier::OursWhole => node::give(len).await,
            #[cfg(feature = "peers")]
            _ => super::peers::give(carrier, len).await,
        }
    })?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{address}").context("telling the address")?;
    for asked in std::io::stdin().lock().lines() {
        asked.context("hearing the taker")?;
        writeln!(out, "{}", cpu_seconds()).context("telling the cost")?;
    }
    Ok(())
}
