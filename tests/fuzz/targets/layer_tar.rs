//! The converter's input: any tar upon a layer that is right. What is written must be readable, and the same each time.
#![no_main]

use std::io::Cursor;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tranship_format::convert::{ConvertError, ConvertOptions, Converter};
use tranship_format::{Disk, ReadAt};
use tranship_fuzz::{mend_tar, read_filesystem};

const BELOW: &[u8] = include_bytes!("../corpus/layer_tar/base.tar");

fn convert(above: &[u8]) -> Result<[Vec<u8>; 2], ConvertError> {
    let mut converter = Converter::new(ConvertOptions::default());
    let mut blob = |tar: &[u8]| -> Result<Vec<u8>, ConvertError> {
        let (blob, _) = converter.layer(tar, Cursor::new(Vec::new()))?;
        Ok(blob.into_inner())
    };
    Ok([blob(BELOW)?, blob(above)?])
}

fuzz_target!(|data: &[u8]| {
    let mut tar = data.to_vec();
    mend_tar(&mut tar);
    let Ok(blobs) = convert(&tar) else {
        return;
    };
    let again = convert(&tar).expect("what went well once");
    assert!(again == blobs, "the same tar gave other bytes");
    let blobs = blobs.map(|blob| Arc::new(blob) as Arc<dyn ReadAt>);
    let disk = Disk::open(blobs.into(), 1 << 20).expect("layers of our own");
    read_filesystem(disk).expect("a filesystem of our own");
});
