//! An image of files that tell where their bytes are from: small, since what matters is how often it is read, not what is in it.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::slice;

use tranship_tests::layout::{self, Stored};
use tranship_tests::registry::DockerRegistry;
use tranship_tests::tranship;

/// Files in the image, and their bytes: no whole number of anything.
pub(crate) const FILE_COUNT: usize = 64;
pub(crate) const FILE_LEN: usize = 300_001;

pub(crate) fn name(file: usize) -> String {
    format!("file-{file}")
}

/// Bytes that tell where they are from and do not compress.
pub(crate) fn content(file: usize) -> Vec<u8> {
    let mut state = file as u64 + 1;
    let mut bytes = Vec::with_capacity(FILE_LEN + 8);
    while bytes.len() < FILE_LEN {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        bytes.extend_from_slice(&(state >> 16).to_le_bytes());
    }
    bytes.truncate(FILE_LEN);
    bytes
}

/// Converts an image of those files into `registry`; its reference there.
pub(crate) fn convert(registry: &DockerRegistry) -> String {
    convert_layers(registry, "faults", slice::from_ref(&(0..FILE_COUNT)))
}

/// The same, with those files in each layer, the bottom one first.
pub(crate) fn convert_layers(
    registry: &DockerRegistry,
    repository: &str,
    layers: &[Range<usize>],
) -> String {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let paths: Vec<PathBuf> = layers
        .iter()
        .enumerate()
        .map(|(number, files)| {
            let path = folder.path().join(format!("layer-{number}.tar"));
            write_layer(&path, files.clone());
            path
        })
        .collect();
    let layers: Vec<_> = paths
        .iter()
        .map(|path| (path.as_path(), Stored::Plain))
        .collect();
    let layout = folder.path().join("layout");
    layout::write(&layout, "v1", &layers);
    let source = format!("oci:{}:v1", layout.display());
    let target = format!("docker://{}/test/{repository}:v1", registry.host());
    tranship(&["convert", &source, &target]);
    target
}

fn write_layer(path: &Path, files: Range<usize>) {
    let mut tar = tar::Builder::new(File::create(path).expect("a tar"));
    for file in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(FILE_LEN as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name(file), content(file).as_slice())
            .expect("a file in the tar");
    }
    tar.finish().expect("a tar");
}

/// What a device of the image holds, as it is exported without any device.
pub(crate) fn device_bytes(reference: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("raw");
    tranship(&["export", reference, "--raw", &path.to_string_lossy()]);
    std::fs::read(path).expect("an exported device")
}
