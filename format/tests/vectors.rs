//! Layers that overlaybd's own tools wrote, read with ours.
//!
//! Only other people's bytes prove that both sides mean the same format. The vectors are not in this repository; without
//! them the tests say so and check nothing.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests read files, the library does not"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ext4_view::{Ext4, Ext4Read};
use tranship_format::{ByteRange, Codec, Digest, Disk, Layer, ReadAt};

/// The three layers of the vectors' image, bottom first.
const LAYERS: [&str; 3] = ["l0", "l1", "l2"];
/// The forms in which each is stored.
const FORMS: [&str; 3] = ["overlaybd.commit", "layer.zfile", "layer.lsmt"];
/// Both ways of compressing.
const CODECS: [&str; 2] = ["lz4-4k", "zstd-16k"];

fn vectors() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let named = std::env::var_os("TRANSHIP_VECTORS").map(PathBuf::from);
    let found = named
        .into_iter()
        .chain([
            root.join("../shared/vectors"),
            root.join("../../shared/vectors"),
        ])
        .find(|dir| dir.join("overlaybd").is_dir());
    if found.is_none() {
        // Not by a macro: what those print is hidden when a test passes, and this is about tests that pass.
        let message = "NOT CHECKED: overlaybd's vectors are not here; name their directory in TRANSHIP_VECTORS\n";
        std::io::stderr().write_all(message.as_bytes()).unwrap();
    }
    found
}

fn blobs(dir: &Path, forms: [&str; 3]) -> Vec<Arc<dyn ReadAt>> {
    let read = |(layer, form)| {
        Arc::new(std::fs::read(dir.join(layer).join(form)).unwrap()) as Arc<dyn ReadAt>
    };
    LAYERS.into_iter().zip(forms).map(read).collect()
}

struct Reader(Disk);

impl Ext4Read for Reader {
    fn read(&mut self, start: u64, buf: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.0.read_at(start, buf)?)
    }
}

/// The files that the image holds, with their digests.
fn expected(vectors: &Path) -> BTreeMap<String, Digest> {
    let text = std::fs::read_to_string(vectors.join("overlaybd/EXPECTED-FILES.sha256")).unwrap();
    let parse = |line: &str| {
        let (hex, path) = line.split_once("  ").unwrap();
        (
            path.trim_start_matches('.').to_owned(),
            format!("sha256:{hex}").parse().unwrap(),
        )
    };
    text.lines().map(parse).collect()
}

fn files(filesystem: &Ext4, dir: &str, found: &mut BTreeMap<String, Digest>) {
    for entry in filesystem.read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().as_str().unwrap().to_owned();
        if name == "." || name == ".." || name == "lost+found" {
            continue;
        }
        let path = format!("{}/{name}", dir.trim_end_matches('/'));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files(filesystem, &path, found);
        } else if kind.is_regular_file() {
            let digest = Digest::of(&filesystem.read(path.as_str()).unwrap());
            found.insert(path, digest);
        }
    }
}

fn files_of(disk: Disk) -> BTreeMap<String, Digest> {
    let filesystem = Ext4::load(Box::new(Reader(disk))).unwrap();
    let mut found = BTreeMap::new();
    files(&filesystem, "/", &mut found);
    found
}

#[test]
fn every_form_and_codec_holds_the_expected_files() {
    let Some(vectors) = vectors() else { return };
    let expected = expected(&vectors);
    assert!(!expected.is_empty());
    for codec in CODECS {
        let dir = vectors.join("overlaybd").join(codec);
        for form in FORMS {
            let disk = Disk::open(blobs(&dir, [form; 3]), 1 << 20).unwrap();
            assert_eq!(disk.len(), 1 << 30);
            assert_eq!(files_of(disk), expected, "{codec} {form}");
        }
        let mixed = Disk::open(blobs(&dir, FORMS), 0).unwrap();
        assert_eq!(files_of(mixed), expected, "{codec} mixed");
    }
}

#[test]
fn compressed_forms_hold_the_bytes_of_the_uncompressed_one() {
    let Some(vectors) = vectors() else { return };
    for (codec, name, block_len) in [
        (Codec::Lz4, "lz4-4k", 4096),
        (Codec::Zstd, "zstd-16k", 16384),
    ] {
        for layer in LAYERS {
            let dir = vectors.join("overlaybd").join(name).join(layer);
            let open = |form| Layer::open(std::fs::read(dir.join(form)).unwrap()).unwrap();
            let [commit, zfile, lsmt] = FORMS.map(open);
            for compressed in [&commit, &zfile] {
                assert_eq!(compressed.index(), lsmt.index());
                assert_eq!(compressed.plain_len(), lsmt.plain_len());
                assert_eq!(
                    (compressed.uuid(), compressed.parent()),
                    (lsmt.uuid(), lsmt.parent())
                );
                let blocks = compressed.blocks().unwrap();
                assert_eq!((blocks.codec(), blocks.block_len()), (codec, block_len));
            }
            assert!(lsmt.blocks().is_none());
            assert_eq!(
                commit.payload().range(),
                ByteRange::at(1536, zfile.payload().len()).unwrap()
            );
        }
    }
}

#[test]
fn layers_name_the_layer_below() {
    let Some(vectors) = vectors() else { return };
    let dir = vectors.join("overlaybd/zstd-16k");
    let layers: Vec<_> = blobs(&dir, [FORMS[0]; 3])
        .into_iter()
        .map(|blob| Layer::open(blob).unwrap())
        .collect();
    assert_eq!(layers[0].parent(), None);
    assert_eq!(layers[1].parent(), Some(layers[0].uuid()));
    assert_eq!(layers[2].parent(), Some(layers[1].uuid()));
    assert_eq!(
        layers[0].uuid().to_string(),
        "11111111-1111-4111-8111-111111111111"
    );
}

#[test]
fn a_bit_flipped_anywhere_in_a_block_is_found() {
    let Some(vectors) = vectors() else { return };
    for codec in CODECS {
        let good = std::fs::read(
            vectors
                .join("overlaybd")
                .join(codec)
                .join("l0/overlaybd.commit"),
        )
        .unwrap();
        let end = good.len();
        for at in (2048..end - 4096).step_by(997) {
            let mut flipped = good.clone();
            flipped[at] ^= 0x10;
            let blob: Arc<dyn ReadAt> = Arc::new(flipped);
            let found = match Disk::open(vec![blob], 0) {
                Err(_) => true,
                Ok(disk) => disk.index().mappings().iter().any(|mapping| {
                    let mut buf = vec![0; mapping.segment.count as usize * 512];
                    disk.read_at(mapping.segment.start.byte().unwrap(), &mut buf)
                        .is_err()
                }),
            };
            // Stock layers are padded in places that no block covers.
            assert!(found, "{codec} byte {at}");
        }
    }
}
