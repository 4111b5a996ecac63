//! Nydus' converter over the same tree, by turns with ours, where somebody has it.
//!
//! It reads the directory where ours reads a tar of it, both from memory; both compress with zstd, it in chunks of 1 MiB.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::Figures;
use crate::cost::cpu_seconds_of_children;

/// Nydus' converter, and what it converts.
#[derive(Debug)]
pub(super) struct Nydus<'a> {
    /// The program `nydus-image`.
    pub(super) program: &'a Path,
    /// The tree.
    pub(super) tree: PathBuf,
}

impl Nydus<'_> {
    /// Converts once and notes what that took; gives the length of what came out.
    pub(super) fn convert(
        &self,
        megabytes: f64,
        scratch: &Path,
        figures: &mut Figures,
    ) -> Result<u64> {
        let out = tempfile::tempdir_in(scratch).context("making a directory for the result")?;
        let (bootstrap, blob) = (out.path().join("bootstrap"), out.path().join("blob"));
        let (begun, cpu) = (Instant::now(), cpu_seconds_of_children()?);
        let status = Command::new(self.program)
            .args(["create", "--type", "dir-rafs", "--fs-version", "6"])
            .args(["--compressor", "zstd", "--log-level", "error"])
            .arg("--bootstrap")
            .arg(&bootstrap)
            .arg("--blob")
            .arg(&blob)
            .arg(&self.tree)
            .stdout(Stdio::null())
            .status()
            .with_context(|| format!("starting {}", self.program.display()))?;
        ensure!(
            status.success(),
            "{} failed: {status}",
            self.program.display()
        );
        figures.note(
            "nydus_mb_per_cpu_s",
            megabytes / (cpu_seconds_of_children()? - cpu),
        );
        figures.note("nydus_mb_per_s", megabytes / begun.elapsed().as_secs_f64());
        let len = |path: &Path| fs::metadata(path).map(|data| data.len());
        Ok(len(&bootstrap).context("its bootstrap")? + len(&blob).context("its blob")?)
    }
}
