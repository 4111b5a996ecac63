//! A small image of two layers, the upper of which changes, hides and adds.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::Path;

use tranship_format::annotation::ACCELERATION_LAYER;
use tranship_format::convert::{ConvertOptions, Converter};
use tranship_format::{Digest, LayerAnnotations, LayerSummary};
use tranship_source::Manifest;
use tranship_source::manifest::{Descriptor, ImageManifest};

use crate::registry::Registry;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// An image and what its files hold.
pub(crate) struct Image {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    layers: Vec<(Vec<u8>, LayerSummary)>,
}

/// Bytes that do not compress, so that what is stored is as long as what is read.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_600_000_000);
        header.set_cksum();
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

impl Image {
    /// About 6 MiB, most of it in three large files.
    pub(crate) fn new() -> Self {
        Self::named("one")
    }

    /// The same with another small file in each layer, so that no blob is the same and all large files are.
    pub(crate) fn named(name: &str) -> Self {
        let (first, second, third) = (noise(1, 3 << 20), noise(2, 2 << 20), noise(3, 1 << 20));
        let many: Vec<(String, Vec<u8>)> = (0..200)
            .map(|number| {
                (
                    format!("etc/many/{number}"),
                    format!("file {number}\n").repeat(number).into_bytes(),
                )
            })
            .collect();
        let mut lower: Vec<(&str, &[u8])> = vec![
            ("etc/name", name.as_bytes()),
            ("bin/first", &first),
            ("bin/second", b"hidden by the upper layer"),
            ("etc/removed", b"removed by the upper layer"),
            ("etc/kept", b"kept\n"),
            ("etc/empty", b""),
        ];
        lower.extend(
            many.iter()
                .map(|(name, content)| (name.as_str(), content.as_slice())),
        );
        let upper: Vec<(&str, &[u8])> = vec![
            ("etc/upper-name", name.as_bytes()),
            ("bin/second", &second),
            ("bin/third", &third),
            ("etc/.wh.removed", b""),
        ];
        let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (name, content) in lower.iter().chain(&upper) {
            files.insert((*name).to_owned(), content.to_vec());
        }
        files.remove("etc/removed");
        files.remove("etc/.wh.removed");
        let mut converter = Converter::new(ConvertOptions::default());
        let layers = [tar(&lower), tar(&upper)]
            .iter()
            .map(|tar| {
                let (out, summary) = converter
                    .layer(tar.as_slice(), Cursor::new(Vec::new()))
                    .unwrap();
                (out.into_inner(), summary)
            })
            .collect();
        Self { files, layers }
    }

    /// Bytes of all blobs.
    pub(crate) fn stored_len(&self) -> u64 {
        self.layers.iter().map(|(blob, _)| blob.len() as u64).sum()
    }

    /// Digest of a layer's blob, the bottom one 0.
    pub(crate) fn blob(&self, layer: usize) -> String {
        Digest::of(&self.layers[layer].0).to_string()
    }

    /// Where a layer's chunk table begins.
    pub(crate) fn table_offset(&self, layer: usize) -> u64 {
        self.layers[layer].1.chunks.offset
    }

    /// Its blobs, the bottom one first.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &[u8]> {
        self.layers.iter().map(|(blob, _)| blob.as_slice())
    }

    pub(crate) fn manifest(&self, change: impl Fn(&mut Descriptor)) -> Manifest {
        let layers = self.layers.iter().map(|(blob, summary)| {
            let (digest, len) = (Digest::of(blob), blob.len() as u64);
            let mut layer = Descriptor::new(LAYER, digest, len);
            layer.annotations =
                LayerAnnotations::new(digest, len, "erofs", summary.chunks).to_map();
            change(&mut layer);
            layer
        });
        let config = Descriptor::new(CONFIG, Digest::of(b"{}"), 2);
        Manifest::from_image(&ImageManifest::new(config, layers.collect())).unwrap()
    }

    /// Puts it into the registry and gives its reference.
    pub(crate) fn push(&self, registry: &Registry) -> String {
        self.push_changed(registry, "plain", |_| {})
    }

    /// The same with every layer's descriptor changed, under another name.
    pub(crate) fn push_changed(
        &self,
        registry: &Registry,
        tag: &str,
        change: impl Fn(&mut Descriptor),
    ) -> String {
        for (blob, _) in &self.layers {
            registry.put_blob(&Digest::of(blob).to_string(), blob.clone());
        }
        registry.put_blob(&Digest::of(b"{}").to_string(), b"{}".to_vec());
        Self::put(registry, tag, &self.manifest(change))
    }

    /// The same with a recorded trace of reads on top, as overlaybd leaves it, of which nothing is in the registry.
    pub(crate) fn push_with_trace(&self, registry: &Registry) -> String {
        self.push(registry);
        let mut image = self.manifest(|_| {}).image().unwrap();
        let mut trace = Descriptor::new(LAYER, Digest::of(b"trace"), 5);
        let yes = (ACCELERATION_LAYER.to_owned(), "yes".to_owned());
        trace.annotations.extend([yes]);
        image.layers.push(trace);
        Self::put(registry, "traced", &Manifest::from_image(&image).unwrap())
    }

    fn put(registry: &Registry, tag: &str, manifest: &Manifest) -> String {
        for which in [tag.to_owned(), manifest.digest().to_string()] {
            registry.put_manifest(&which, manifest.media_type(), manifest.bytes());
        }
        format!("{}:{tag}", registry.reference("image"))
    }

    /// Compares every file below `root`.
    pub(crate) fn assert_at(&self, root: &Path) {
        let mut found = BTreeMap::new();
        collect(root, root, &mut found);
        let names: Vec<&String> = found.keys().collect();
        assert_eq!(names, self.files.keys().collect::<Vec<_>>());
        for (name, content) in &self.files {
            assert!(found[name] == *content, "{name} differs");
        }
    }
}

fn collect(root: &Path, dir: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, found);
        } else {
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            found.insert(name, fs::read(&path).unwrap());
        }
    }
}
