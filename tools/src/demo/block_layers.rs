//! The yardstick for images that are made of block-device layers already: their device, written out and copied from.
//!
//! No tar says what such an image holds, so its files are taken from the device as the kernel shows it, with all
//! layers here and nothing of ours in between but the format.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tranship_device::LoopDevice;
use tranship_device::mount;
use tranship_format::{Disk, ReadAt};

use crate::export::write_raw;
use crate::failure::{Exit, Explain, Failure, Outcome};
use crate::image::LayerBlob;
use crate::progress::{Progress, Watch};

/// Decompressed blocks that are kept; each is read once.
const BLOCK_CACHE_LEN: u64 = 1 << 20;

/// A layer's blob in a file.
#[derive(Debug)]
struct Downloaded {
    file: File,
    len: u64,
}

impl ReadAt for Downloaded {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

/// Copies the files of an image whose layers (bottom first) were downloaded to `paths` into `root`, by way of `scratch`.
pub(crate) fn unpack(
    layers: &[LayerBlob],
    paths: &[PathBuf],
    scratch: &Path,
    root: &Path,
) -> Outcome {
    let what = || "cannot unpack the image's device".to_owned();
    let mut blobs: Vec<Arc<dyn ReadAt>> = Vec::new();
    for (layer, path) in layers.iter().zip(paths) {
        let file = File::open(path).explain(what)?;
        blobs.push(Arc::new(Downloaded {
            file,
            len: layer.len,
        }));
    }
    let disk = Disk::open(blobs, BLOCK_CACHE_LEN).explain_as(Exit::Verification, what)?;
    let device = scratch.join("device");
    let task = Progress::new(Watch::None).task("device", 0);
    write_raw(&Arc::new(disk), &device, &task)
        .map_err(io::Error::from)
        .explain(what)?;
    let target = scratch.join("mounted");
    std::fs::create_dir_all(&target).explain(what)?;
    let looped = LoopDevice::attach_read_only(&device).explain(what)?;
    let copied = copy_mounted(layers, looped.path(), &target, root);
    let detached = looped.detach().explain(what);
    copied.and(detached)
}

fn copy_mounted(layers: &[LayerBlob], device: &Path, target: &Path, root: &Path) -> Outcome {
    let what = || "cannot mount the image's device".to_owned();
    let fs_name = layers
        .last()
        .map_or("", |layer| layer.annotations.fs_name());
    match fs_name {
        "erofs" => mount::erofs_device(device, target).explain(what)?,
        "ext4" => mount::ext4_device(device, target).explain(what)?,
        other => {
            return Err(Failure::new(Exit::Unsupported, what()).why(format!(
                "it holds {other}, and the demo mounts erofs and ext4"
            )));
        }
    }
    let copied = Command::new("cp")
        .arg("-a")
        .arg("--")
        .arg(target.join("."))
        .arg(root)
        .output();
    let unmounted = mount::unmount(target).explain(what);
    let copied = copied.explain(|| "cannot run cp".into())?;
    if !copied.status.success() {
        return Err(Failure::new(Exit::Failed, "cannot copy the image's files")
            .why(String::from_utf8_lossy(&copied.stderr).trim()));
    }
    unmounted
}
