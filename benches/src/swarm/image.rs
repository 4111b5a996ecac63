//! The image that everybody reads: a disk whose every byte is known.
//!
//! A disk of numbers from a formula does not compress, so a byte read is a byte stored, and an offset of the device is an
//! offset here: what a reader gets is compared with the formula and with nothing of ours. The working set is the disk's
//! second half; the rest is what a lazy image leaves where it is.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::origin::Registry;

/// A disk and the part of it that is read.
#[derive(Clone, Debug)]
pub(super) struct Image {
    bytes: Arc<[u8]>,
    work_at: usize,
}

impl Image {
    /// A disk of twice the working set.
    pub(super) fn make(work_len: usize) -> Self {
        let mut bytes = Vec::with_capacity(work_len * 2);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        while bytes.len() < work_len * 2 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        bytes.truncate(work_len * 2);
        Self {
            bytes: bytes.into(),
            work_at: work_len,
        }
    }

    /// Where the working set is on the device.
    pub(super) fn work(&self) -> std::ops::Range<usize> {
        self.work_at..self.bytes.len()
    }

    /// What the device must hold there.
    pub(super) fn expected(&self, range: std::ops::Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// Converts the disk with the real tool, on the registry's host, and pushes it.
    pub(super) fn push(
        &self,
        tranship: &Path,
        namespace: &str,
        registry: &Registry,
        folder: &Path,
    ) -> Result<()> {
        let disk = folder.join("disk.raw");
        fs::write(&disk, &self.bytes).context("write the disk")?;
        let done = Command::new("ip")
            .args(["netns", "exec", namespace])
            .arg(tranship)
            .args(["convert", "--plain-http", "--tmp-dir"])
            .arg(folder)
            .arg(&disk)
            .arg(reference(registry))
            .output()
            .context("start tranship")?;
        ensure!(
            done.status.success(),
            "tranship convert fails: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        fs::remove_file(&disk).context("remove the disk")
    }
}

/// What agents are told to attach.
pub(super) fn reference(registry: &Registry) -> String {
    format!("{}/bench/disk:latest", registry.host())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_the_same_each_time_and_does_not_repeat() {
        let (one, other) = (Image::make(1 << 16), Image::make(1 << 16));
        assert_eq!(one.bytes, other.bytes);
        assert_eq!(one.work(), 1 << 16..1 << 17);
        let mut words: Vec<_> = one.bytes.chunks(8).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), (1 << 17) / 8);
    }
}
