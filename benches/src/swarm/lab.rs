//! Hosts on one machine: a network namespace each, on a switch, limited up and down.
//!
//! The switch is a namespace too, so that nothing of a lab is ever seen by the machine's own network, and deleting the
//! namespaces takes links, queues and addresses with them. Their names carry the process that made them: whoever finds a
//! lab whose maker is gone, as after `kill -9`, takes it down.

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::delay::Wire;

/// What all namespaces of all labs are called first.
const NAME: &str = "tranship-bench";
/// Time that a bucket of a limited link may send at once.
const BURST: Duration = Duration::from_millis(10);
/// Least bucket: a segment that the kernel has not cut yet must fit.
const BURST_LEN_MIN: u64 = 64 << 10;
/// Longest such segment on a limited link.
const SEGMENT_LEN: u32 = 16 << 10;
/// Time that a packet may wait in front of a limited link.
const QUEUE: &str = "50ms";
/// Killed processes are gone within this.
const END: Duration = Duration::from_secs(10);

/// What a link lets through in each direction, in bits a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) up: u64,
    pub(crate) down: u64,
}

/// A host to be.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    /// 0, or 1 behind the thin link.
    pub(crate) zone: usize,
    pub(crate) link: Link,
}

/// What joins two zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThinLink {
    /// Bits a second in each direction.
    pub(crate) rate: u64,
    /// What each way takes longer than it would.
    pub(crate) delay: Duration,
}

/// Namespaces that end with the value.
#[derive(Debug)]
pub(crate) struct Lab {
    prefix: String,
    places: Vec<Place>,
    wire: Option<Wire>,
}

impl Lab {
    /// Makes the hosts; the link `between` joins the zones, if there are two.
    pub(crate) fn up(places: Vec<Place>, between: Option<ThinLink>) -> Result<Self> {
        let mut lab = Self {
            prefix: format!("{NAME}-{}-", std::process::id()),
            places,
            wire: None,
        };
        let switch = lab.namespace("switch");
        ip(None, &format!("netns add {switch}\n"))?;
        let mut bridges = "link set lo up\n".to_owned();
        for zone in 0..=usize::from(between.is_some()) {
            writeln!(
                bridges,
                "link add br{zone} type bridge\nlink set br{zone} up"
            )?;
        }
        if let Some(ThinLink { delay, .. }) = between {
            if delay.is_zero() {
                bridges += "link add thin0 type veth peer name thin1\n";
            } else {
                let wire = inside(&switch, || Wire::between(["thin0", "thin1"], delay))?;
                lab.wire = Some(wire);
            }
            for zone in 0..2 {
                writeln!(
                    bridges,
                    "link set thin{zone} master br{zone} gso_max_size {SEGMENT_LEN} up"
                )?;
            }
        }
        ip(Some(&switch), &bridges)?;
        if let Some(ThinLink { rate, .. }) = between {
            let limits = limit("thin0", rate) + &limit("thin1", rate);
            tc(&switch, &limits)?;
        }
        for number in 0..lab.places.len() {
            lab.add(number, &switch)?;
        }
        Ok(lab)
    }

    fn add(&self, number: usize, switch: &str) -> Result<()> {
        let place = self.places.get(number).context("a place")?;
        let namespace = self.namespace(&place.name);
        ip(None, &format!("netns add {namespace}\n"))?;
        let zone = place.zone;
        ip(
            Some(switch),
            &format!(
                "link add v{number} type veth peer name eth0 netns {namespace}\n\
                 link set v{number} master br{zone} gso_max_size {SEGMENT_LEN} up\n"
            ),
        )?;
        let address = address(number);
        ip(
            Some(&namespace),
            &format!(
                "addr add {address}/16 dev eth0\n\
                 link set eth0 gso_max_size {SEGMENT_LEN} up\nlink set lo up\n"
            ),
        )?;
        tc(&namespace, &limit("eth0", place.link.up))?;
        tc(switch, &limit(&format!("v{number}"), place.link.down))
    }

    /// The namespace of a host.
    pub(crate) fn namespace(&self, host: &str) -> String {
        format!("{}{host}", self.prefix)
    }

    /// The address of the host with this name.
    pub(crate) fn address(&self, host: &str) -> Result<String> {
        let number = self.places.iter().position(|place| place.name == host);
        number.map(address).context("a host of this lab")
    }

    /// Bytes that went over the thin link towards zone 1.
    pub(crate) fn thin_len(&self) -> Result<u64> {
        let switch = self.namespace("switch");
        let said = output(
            Command::new("ip").args(["-n", &switch, "-s", "-j", "link", "show", "dev", "thin0"]),
        )?;
        let said: serde_json::Value = serde_json::from_str(&said).context("ip's JSON")?;
        said.pointer("/0/stats64/tx/bytes")
            .and_then(serde_json::Value::as_u64)
            .context("what ip counts")
    }

    /// Takes the wire's devices away: as long as somebody holds them, their namespace lives on without a name.
    fn cut(&mut self) -> Result<()> {
        if let Some(wire) = self.wire.take() {
            let switch = self.namespace("switch");
            ip(Some(&switch), "link del thin0\nlink del thin1\n")?;
            wire.end();
        }
        Ok(())
    }

    /// How long a connection from one host to a port of another takes to be made: a round trip. The least of five.
    pub(crate) fn round_trip(&self, from: &str, to: &str, port: u16) -> Result<Duration> {
        let place: SocketAddr = format!("{}:{port}", self.address(to)?).parse()?;
        inside(&self.namespace(from), || {
            let connect = |_| {
                let begun = Instant::now();
                TcpStream::connect(place).context("connect")?;
                Ok(begun.elapsed())
            };
            let took = (0..5).map(connect).collect::<Result<Vec<_>>>()?;
            took.into_iter().min().context("a connection")
        })
    }

    /// Takes everything down and makes sure that it is gone.
    pub(crate) fn down(self) -> Result<()> {
        let prefix = self.prefix.clone();
        drop(self);
        let left = namespaces()?;
        let left: Vec<_> = left
            .iter()
            .filter(|name| name.starts_with(&prefix))
            .collect();
        ensure!(left.is_empty(), "namespaces are left over: {left:?}");
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let cut = self.cut();
        if let Err(error) = sweep(&self.prefix).and(cut) {
            #[expect(clippy::print_stderr, reason = "nobody else would say it")]
            {
                eprintln!("the lab could not be taken down: {error:#}");
            }
        }
    }
}

/// The address of the host with this number; all are in one /16.
fn address(number: usize) -> String {
    format!("10.99.{}.{}", number / 200, number % 200 + 1)
}

fn limit(device: &str, rate: u64) -> String {
    let in_time = rate / 8 * u64::try_from(BURST.as_millis()).unwrap_or(u64::MAX) / 1000;
    let burst = in_time.max(BURST_LEN_MIN);
    format!("qdisc add dev {device} root tbf rate {rate}bit burst {burst} latency {QUEUE}\n")
}

fn ip(namespace: Option<&str>, lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    batch(command.args(["-batch", "-"]), lines)
}

fn tc(namespace: &str, lines: &str) -> Result<()> {
    batch(
        Command::new("tc").args(["-n", namespace, "-batch", "-"]),
        lines,
    )
}

/// Held while something is made; whoever leaves on a signal keeps it, and nothing is made any more.
static GATE: Mutex<()> = Mutex::new(());

fn batch(command: &mut Command, lines: &str) -> Result<()> {
    let _open = GATE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?} (Debian's iproute2)"))?;
    let mut input = process.stdin.take().context("its input")?;
    input.write_all(lines.as_bytes()).context("its lines")?;
    drop(input);
    let done = process.wait_with_output().context("wait for it")?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("{command:?} refuses (it needs root): {said}of\n{lines}");
    }
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let done = command
        .output()
        .with_context(|| format!("start {command:?} (Debian's iproute2)"))?;
    ensure!(
        done.status.success(),
        "{command:?} fails: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn namespaces() -> Result<Vec<String>> {
    let said = output(Command::new("ip").args(["netns", "list"]))?;
    let names = said.lines().filter_map(|line| line.split(' ').next());
    Ok(names.map(str::to_owned).collect())
}

/// Kills what runs in the namespaces whose names begin so, and deletes them.
fn sweep(prefix: &str) -> Result<()> {
    let mut outcome = Ok(());
    for namespace in namespaces()? {
        if !namespace.starts_with(prefix) {
            continue;
        }
        // The signal's way out and a destructor may both be at it: what the other has taken away meanwhile is no failure. Nor does one
        // that stays keep the others.
        let ended = end(&namespace);
        if ended.is_err() && namespaces()?.contains(&namespace) {
            outcome = outcome.and(ended);
        }
    }
    outcome
}

fn end(namespace: &str) -> Result<()> {
    let deadline = Instant::now() + END;
    loop {
        let pids = output(Command::new("ip").args(["netns", "pids", namespace]))?;
        let pids: Vec<Pid> = pids
            .lines()
            .filter_map(|line| Pid::from_raw(line.trim().parse().ok()?))
            .collect();
        if pids.is_empty() {
            break;
        }
        for pid in &pids {
            // One that has just ended is as good.
            let _ = kill_process(*pid, Signal::KILL);
        }
        ensure!(Instant::now() < deadline, "{pids:?} do not end");
        thread::park_timeout(Duration::from_millis(10));
    }
    output(Command::new("ip").args(["netns", "del", namespace])).map(drop)
}

/// Takes down all that this process has up: for the way out that runs no destructors.
pub(crate) fn sweep_ours() -> Result<()> {
    std::mem::forget(GATE.lock().unwrap_or_else(PoisonError::into_inner));
    sweep(&format!("{NAME}-{}-", std::process::id()))
}

/// Takes down the labs of processes that are gone.
pub(crate) fn sweep_stale() -> Result<()> {
    for namespace in namespaces()? {
        let maker = namespace
            .strip_prefix(NAME)
            .and_then(|rest| rest.strip_prefix('-')?.split('-').next()?.parse().ok())
            .and_then(Pid::from_raw);
        if let Some(maker) = maker
            && test_kill_process(maker).is_err()
        {
            sweep(&format!("{NAME}-{maker}-"))?;
        }
    }
    Ok(())
}

/// Does something on a thread whose network is the namespace's.
pub(crate) fn inside<T: Send>(
    namespace: &str,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let path = format!("/run/netns/{namespace}");
    let file = File::open(&path).with_context(|| format!("open {path}"))?;
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .context("enter the namespace")?;
            work()
        });
        match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_has_an_address_of_its_own() {
        let all: std::collections::BTreeSet<_> = (0..400).map(address).collect();
        assert_eq!(all.len(), 400);
        assert_eq!(address(0), "10.99.0.1");
    }

    #[test]
    fn a_bucket_holds_ten_milliseconds_and_at_least_a_segment() {
        assert!(limit("eth0", 100_000_000).contains("burst 125000 "));
        assert!(limit("eth0", 2_000_000).contains("burst 65536 "));
    }
}
