//! Our NBD server beside nbdkit's over the same plain bytes: in order by nbdcopy, at random by qemu-io.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tranship_agent::control::FrontEndChoice;

use super::Figures;
use super::scene::{Ended, Scene};

/// A page, which is what is read at random, in bytes.
const PAGE_LEN: u64 = 4 << 10;
/// How many are.
const READS: u32 = 20_000;
/// Bytes in which they lie, from the beginning: they fit into what an agent keeps decompressed.
const HOT_LEN: u64 = 32 << 20;
/// What is read before, at a time.
const PIECE_LEN: usize = 1 << 20;

/// Measures both and notes the figures.
pub(super) fn measure(
    scene: &Scene,
    plain: &Path,
    len: u64,
    runs: usize,
    figures: &mut Figures,
) -> Result<()> {
    let device = scene.attach(FrontEndChoice::Nbd)?;
    let socket = scene.path("nbdkit.sock");
    let child = Command::new("nbdkit")
        .args(["--foreground", "--readonly", "--unix"])
        .arg(&socket)
        .arg("file")
        .arg(plain)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start nbdkit; is it installed?")?;
    let server = Ended(child);
    let begun = Instant::now();
    while !socket.exists() {
        ensure!(
            begun.elapsed() < Duration::from_secs(30),
            "nbdkit does not listen"
        );
        thread::sleep(Duration::from_millis(5));
    }
    let reads = commands(len);
    for _ in 0..runs {
        let alone = nbdcopy(&socket, len)?;
        let ours = nbdcopy(&device.path, len)?;
        figures.note("nbdkit_seq_mb_per_s", alone);
        figures.note("nbd_seq_mb_per_s", ours);
        figures.note("nbd_seq_ratio", ours / alone);
        let alone = random_reads(&socket, &reads)?;
        let ours = random_reads(&device.path, &reads)?;
        figures.note("nbdkit_random_per_s", alone);
        figures.note("nbd_random_per_s", ours);
        figures.note("nbd_random_ratio", ours / alone);
    }
    drop(server);
    scene.call(scene.client().detach(&device.id))?;
    Ok(())
}

/// Megabytes a second of a copy to nowhere.
fn nbdcopy(socket: &Path, len: u64) -> Result<f64> {
    let begun = Instant::now();
    let output = Command::new("nbdcopy")
        .arg(format!("nbd+unix:///?socket={}", socket.display()))
        .arg("null:")
        .output()
        .context("start nbdcopy; is libnbd-bin installed?")?;
    ensure!(
        output.status.success(),
        "nbdcopy fails: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    #[expect(clippy::cast_precision_loss, reason = "less than 2^52 bytes")]
    Ok(len as f64 / 1e6 / begun.elapsed().as_secs_f64())
}

/// What qemu-io is told: to read what is read at random once, as who keeps decompressed blocks then has them, and then pages of it.
fn commands(len: u64) -> String {
    let hot = len.min(HOT_LEN);
    let mut commands = String::new();
    for at in (0..hot).step_by(PIECE_LEN) {
        let piece = (hot - at).min(PIECE_LEN as u64);
        let _ = writeln!(commands, "read -q {at} {piece}");
    }
    let mut state = 1_u64;
    for _ in 0..READS {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let at = (state >> 33) % (hot / PAGE_LEN).max(1) * PAGE_LEN;
        let _ = writeln!(commands, "read -q {at} {PAGE_LEN}");
    }
    commands
}

/// Reads of 4 KiB a second, one after the other, through the one who reads them for virtual machines.
fn random_reads(socket: &Path, commands: &str) -> Result<f64> {
    let begun = Instant::now();
    let mut reading = Command::new("qemu-io")
        .args(["-r", "-f", "raw"])
        .arg(format!("nbd+unix:///?socket={}", socket.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start qemu-io; is qemu-utils installed?")?;
    let mut told = reading.stdin.take().context("qemu-io's input")?;
    told.write_all(commands.as_bytes())
        .context("tell qemu-io what to read")?;
    drop(told);
    let output = reading.wait_with_output().context("wait for qemu-io")?;
    ensure!(
        output.status.success() && output.stderr.is_empty(),
        "qemu-io fails: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(f64::from(READS) / begun.elapsed().as_secs_f64())
}
