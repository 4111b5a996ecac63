//! What conversion may cost whatever the image: memory for layers by the hundred, files by the hundred thousand and files
//! of any length; and the bytes that a small layer takes on a large base.
//!
//! Tars are made while they are read and blobs go to files, so that the process holds nothing of an image but what the
//! converter does. How much a process ever held is one figure: it bounds all of them together.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may stop, reads the kernel's accounts and writes to files"
)]
#![allow(dead_code, reason = "each test uses its part of the harness")]

#[path = "harness/tars.rs"]
mod tars;

use std::fs;
use std::io::{self, Read};

use tars::{Item, tar};
use tranship_format::LayerSummary;
use tranship_format::convert::{ConvertOptions, Converter};

/// The most memory that a conversion may take, in KiB. The threads and buffers of `tranship convert` take some 40 MiB more.
const BUDGET_KIB: u64 = 208 << 10;

/// The most that a tar of 10 KiB may be stored as.
const SMALL_LAYER_LEN: u64 = 64 << 10;

/// A tar that is made as it is read.
struct Stream<I> {
    items: I,
    ready: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<I: Iterator<Item = Item>> Stream<I> {
    fn new(items: I) -> Self {
        Self {
            items,
            ready: Vec::new(),
            at: 0,
            ended: false,
        }
    }
}

impl<I: Iterator<Item = Item>> Read for Stream<I> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.ready.len() && !self.ended {
            let batch: Vec<Item> = self.items.by_ref().take(256).collect();
            self.ready = tar(&batch);
            // Only the last one, which is empty, ends the archive.
            self.ended = batch.is_empty();
            if !self.ended {
                self.ready.truncate(self.ready.len() - 1024);
            }
            self.at = 0;
        }
        let len = buf.len().min(self.ready.len() - self.at);
        buf[..len].copy_from_slice(&self.ready[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

/// Converts one more layer into a file that goes at once.
fn layer(converter: &mut Converter, items: impl Iterator<Item = Item>) -> LayerSummary {
    let out = io::BufWriter::new(tempfile::tempfile().unwrap());
    converter.layer(Stream::new(items), out).unwrap().1
}

fn converter() -> Converter {
    Converter::new(ConvertOptions::default())
}

/// The most memory that this process ever had, in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let digits = line.unwrap().chars().filter(char::is_ascii_digit);
    digits.collect::<String>().parse().unwrap()
}

/// Files as many as `count`, a hundred in each directory.
fn files(count: u32) -> impl Iterator<Item = Item> {
    (0..count).map(|number| {
        let path = format!(
            "usr/lib/{:03}/{:03}/file-{number}.txt",
            number / 10_000,
            number / 100 % 100
        );
        Item::file(path, format!("file number {number}\n"))
    })
}

#[test]
fn memory_is_bounded_whatever_the_image() {
    let mut many_files = converter();
    layer(&mut many_files, files(300_000));
    drop(many_files);
    assert!(peak() < BUDGET_KIB, "300,000 files: {} KiB", peak());

    let mut many_layers = converter();
    layer(&mut many_layers, files(5_000));
    for number in 0..99_u32 {
        let changed = (0..20).map(|file| {
            let path = format!("usr/lib/000/{:03}/file-{number}-{file}", number % 50);
            Item::file(path, format!("{number} {file}"))
        });
        let summary = layer(&mut many_layers, changed);
        assert!(
            summary.len < SMALL_LAYER_LEN,
            "layer {number}: {}",
            summary.len
        );
    }
    drop(many_layers);
    assert!(peak() < BUDGET_KIB, "100 layers: {} KiB", peak());

    let len: u64 = 20 << 30;
    let sparse = Item::file("disk", vec![b'x'; 8192])
        .record("GNU.sparse.size", &len.to_string())
        .record("GNU.sparse.numblocks", "2")
        .record("GNU.sparse.map", &format!("0,4096,{},4096", len - 4096));
    let summary = layer(&mut converter(), std::iter::once(sparse));
    assert!(summary.virtual_size > len && summary.len < SMALL_LAYER_LEN);
    assert!(peak() < BUDGET_KIB, "20 GiB: {} KiB", peak());
}

#[test]
fn a_small_layer_is_small_on_a_large_base() {
    let mut converter = converter();
    let crowd = (0..20_000).map(|number| {
        let path = format!("var/crowd/{number:05}-of-many.txt");
        Item::file(path, format!("one of many: {number}"))
    });
    let base = layer(&mut converter, files(100_000).chain(crowd));
    assert!(base.len > 1 << 20);

    // What a rebuilt application brings: files of its own, one in the crowd, one changed, one gone, in 10 KiB of tar.
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_le_bytes()[7]
    });
    let small = [
        Item::directory("app"),
        Item::file("app/main", noise.take(2_000).collect::<Vec<u8>>()),
        Item::file("usr/lib/004/050/file-45000.txt", "changed"),
        Item::file("usr/lib/009/099/new", "new"),
        Item::file("var/crowd/10000-new", "new"),
        Item::file("var/crowd/.wh.15000-of-many.txt", ""),
        Item::file("usr/lib/.wh.003", ""),
    ];
    assert!((8_000..=10_240).contains(&tar(&small).len()));
    let summary = layer(&mut converter, small.into_iter());
    assert!(summary.len <= SMALL_LAYER_LEN, "{}", summary.len);
}
