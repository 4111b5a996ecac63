//! Random layers against a slow model of OCI's rules: whatever is put together, the filesystem shows what the model says,
//! after every layer.
//!
//! The model shares nothing with the converter: it merges whole layers by path, from maps, and never changes in place.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test may stop, and runs other programs on files"
)]
#![expect(dead_code, reason = "each test uses a part of the harness")]

#[path = "harness/images.rs"]
mod images;
#[path = "harness/tars.rs"]
mod tars;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tranship_format::convert::{ConvertOptions, Converter};
use tranship_format::erofs::device_number;

use images::{Image, Listing, Seen, fsck};
use tars::{Item, Kind, tar};

/// A file of the model; its number tells hard links apart from equal files.
#[derive(Clone, Debug)]
struct File {
    number: usize,
    item: Item,
}

type Files = BTreeMap<Vec<u8>, File>;

/// What one layer does, before it meets the others.
#[derive(Default)]
struct Upper {
    /// Files that it names. `None`: a directory that only its paths go through.
    files: BTreeMap<Vec<u8>, Option<File>>,
    /// Paths at and below which lower layers are hidden.
    hidden: BTreeSet<Vec<u8>>,
    /// Paths below which lower layers are hidden.
    opaque: BTreeSet<Vec<u8>>,
}

fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let inner = slashes.map(|(at, _)| &path[..at]);
    std::iter::once(&b""[..])
        .chain(inner)
        .filter(move |_| !path.is_empty())
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    parents(path).any(|parent| parent == directory)
}

fn is_directory(file: Option<&File>) -> bool {
    file.is_none_or(|file| file.item.kind == Kind::Directory)
}

impl Upper {
    fn hides(&self, path: &[u8]) -> bool {
        self.hidden.contains(path)
            || parents(path).any(|parent| {
                let replaced = self.files.get(parent);
                self.hidden.contains(parent)
                    || self.opaque.contains(parent)
                    || replaced.is_some_and(|file| !is_directory(file.as_ref()))
            })
    }

    /// Makes `path` a directory that nothing describes, unless it is one.
    fn pass_through(&mut self, path: &[u8], lower: &Files) {
        let visible = lower
            .get(path)
            .filter(|_| !self.hides(path))
            .is_some_and(|file| is_directory(Some(file)));
        match self.files.get(path) {
            Some(file) if is_directory(file.as_ref()) => {}
            Some(_) => {
                self.files.insert(path.to_vec(), None);
            }
            None => {
                if !visible {
                    self.hidden.insert(path.to_vec());
                }
                self.files.insert(path.to_vec(), None);
            }
        }
    }

    fn add(&mut self, file: File, path: &[u8], lower: &Files) {
        for parent in parents(path) {
            self.pass_through(parent, lower);
        }
        let was_directory = self.files.get(path).map(|file| is_directory(file.as_ref()));
        if file.item.kind != Kind::Directory {
            self.files.retain(|other, _| !is_below(other, path));
            self.hidden.insert(path.to_vec());
        } else if was_directory.is_none()
            && lower
                .get(path)
                .is_some_and(|file| !is_directory(Some(file)))
        {
            self.hidden.insert(path.to_vec());
        }
        self.files.insert(path.to_vec(), Some(file));
    }

    fn find(&self, path: &[u8], lower: &Files) -> Option<File> {
        match self.files.get(path) {
            Some(file) => file.clone(),
            None => lower.get(path).filter(|_| !self.hides(path)).cloned(),
        }
    }

    fn over(self, lower: &Files) -> Files {
        let mut out: Files = lower
            .iter()
            .filter(|(path, _)| !self.hides(path))
            .map(|(path, file)| (path.clone(), file.clone()))
            .collect();
        for (path, file) in self.files {
            if let Some(file) = file {
                out.insert(path, file);
                continue;
            }
            // Nothing describes it: it is as it was below, or as missing parents are.
            let item = Item::new(&path, Kind::Directory).mtime(0, 0);
            let number = usize::MAX;
            out.entry(path).or_insert(File { number, item });
        }
        out
    }
}

/// The files after one more layer; entries that only make sense with others (links to nothing) are left out of it.
fn apply(lower: &Files, items: &mut Vec<Item>, numbers: &mut usize) -> Files {
    let mut upper = Upper::default();
    upper.files.insert(Vec::new(), None);
    items.retain(|item| {
        let (directory, name) = match item.path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&item.path[..slash], &item.path[slash + 1..]),
            None => (&b""[..], &item.path[..]),
        };
        *numbers += 1;
        if name == b".wh..wh..opq" {
            upper.opaque.insert(directory.to_vec());
        } else if let Some(hidden) = name.strip_prefix(b".wh.") {
            let path = [directory, hidden].join(&b'/');
            let path = path.strip_prefix(b"/").unwrap_or(&path);
            upper.hidden.insert(path.to_vec());
        } else if let Kind::Link(target) = &item.kind {
            let Some(file) = upper
                .find(target, lower)
                .filter(|file| !is_directory(Some(file)))
            else {
                return false;
            };
            upper.add(file, &item.path, lower);
        } else {
            let item = item.clone();
            let path = item.path.clone();
            upper.add(
                File {
                    number: *numbers,
                    item,
                },
                &path,
                lower,
            );
        }
        true
    });
    upper.over(lower)
}

fn expected(files: &Files) -> Listing {
    let mut out = Listing::new();
    for (path, file) in files {
        let item = &file.item;
        let same = |other: &&Vec<u8>| {
            *other == path || (files[*other].number == file.number && file.number != usize::MAX)
        };
        let first_name = files.keys().find(same).unwrap().clone();
        let nlink = if item.kind == Kind::Directory {
            let child_directories = files.iter().filter(|(other, file)| {
                parents(other).last() == Some(path.as_slice()) && is_directory(Some(file))
            });
            2 + child_directories.count()
        } else {
            files.keys().filter(same).count()
        };
        let (bits, content, rdev) = match &item.kind {
            Kind::File(data) => (0o100_000, data.clone(), 0),
            Kind::Directory => (0o040_000, Vec::new(), 0),
            Kind::Symlink(target) => (0o120_000, target.clone(), 0),
            Kind::CharDevice(major, minor) => (
                0o020_000,
                Vec::new(),
                device_number(*major, *minor).unwrap(),
            ),
            Kind::BlockDevice(major, minor) => (
                0o060_000,
                Vec::new(),
                device_number(*major, *minor).unwrap(),
            ),
            Kind::Fifo => (0o010_000, Vec::new(), 0),
            Kind::Socket => (0o140_000, Vec::new(), 0),
            Kind::Link(_) => unreachable!("links are files"),
        };
        let seen = Seen {
            mode: bits | item.permissions,
            uid: item.uid,
            gid: item.gid,
            mtime: item.mtime,
            nlink: u32::try_from(nlink).unwrap(),
            rdev,
            content,
            xattrs: item.xattrs.clone(),
            first_name,
        };
        out.insert(path.clone(), seen);
    }
    out
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        8 => prop_oneof![Just("a"), Just("b"), Just("c"), Just("!d")].prop_map(|name| name.as_bytes().to_vec()),
        1 => Just(vec![b'n'; 255]),
        1 => Just(b"\xff new\nline".to_vec()),
    ];
    prop::collection::vec(name, 1..4).prop_map(|names| names.join(&b'/'))
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![Just(0), Just(1), 1..6000_usize, Just(4096), Just(300_000)];
    (len, any::<u8>(), any::<bool>()).prop_map(|(len, seed, holes)| {
        let byte = |at: usize| {
            if holes && (at / 5000).is_multiple_of(2) {
                0
            } else {
                seed.wrapping_add((at % 251).to_le_bytes()[0])
            }
        };
        (0..len).map(byte).collect()
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        6 => content().prop_map(Kind::File),
        6 => Just(Kind::Directory),
        4 => path().prop_map(Kind::Link),
        1 => (0..4096_u32, 0..1_048_576_u32).prop_map(|(major, minor)| Kind::CharDevice(major, minor)),
        1 => Just(Kind::BlockDevice(8, 300)),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
    ]
}

fn xattrs() -> impl Strategy<Value = BTreeMap<Vec<u8>, Vec<u8>>> {
    let name = prop_oneof![
        Just("user.a"),
        Just("trusted.overlay.opaque"),
        Just("security.selinux"),
        Just("system.posix_acl_access"),
        Just("system.posix_acl_default"),
        Just("system.posix_acl_access.not"),
        Just("lustre.lov"),
    ]
    .prop_map(|name| name.as_bytes().to_vec());
    let value_of = |len: std::ops::Range<usize>| prop::collection::vec(any::<u8>(), len);
    let value = prop_oneof![4 => value_of(0..40), 1 => value_of(1000..2000)];
    prop_oneof![3 => Just(BTreeMap::new()), 2 => prop::collection::btree_map(name, value, 1..4)]
}

fn item() -> impl Strategy<Value = Vec<Item>> {
    let attributes = (
        0..0o10_000_u16,
        any::<u32>(),
        0..70_000_u32,
        -5_000_000_000..9_000_000_000_i64,
        0..1_000_000_000_u32,
    );
    let plain = (path(), kind(), attributes, xattrs()).prop_map(
        |(path, kind, (permissions, uid, gid, seconds, nanoseconds), xattrs)| {
            let mtime = (seconds.clamp(-5_000_000_000, 8_000_000_000), nanoseconds);
            vec![Item {
                path,
                kind,
                permissions,
                uid,
                gid,
                mtime,
                xattrs,
                records: Vec::new(),
            }]
        },
    );
    let symlink = (path(), 1..3000_usize).prop_map(|(path, len)| {
        // Below a name that no other entry has, so that no path goes through it.
        vec![Item::new(
            [&path[..], b"-symlink"]
                .concat()
                .split_off(path.len().saturating_sub(8)),
            Kind::Symlink(vec![b't'; len]),
        )]
    });
    let whiteout = path().prop_map(|path| {
        let name = path
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(0, |slash| slash + 1);
        vec![Item::file(
            [&path[..name], b".wh.", &path[name..]].concat(),
            b"",
        )]
    });
    let opaque =
        path().prop_map(|path| vec![Item::file([&path[..], b"/.wh..wh..opq"].concat(), b"")]);
    let many = (path(), 50..400_usize, any::<u16>()).prop_map(|(path, count, seed)| {
        let name = |number: usize| {
            format!(
                "/{:05}-{}",
                (number * 7919 + usize::from(seed)) % 60_000,
                "x".repeat(number % 40)
            )
        };
        (0..count)
            .map(|number| Item::file([&path[..], name(number).as_bytes()].concat(), b""))
            .collect()
    });
    prop_oneof![12 => plain, 1 => symlink, 3 => whiteout, 1 => opaque, 1 => many]
}

fn layers() -> impl Strategy<Value = Vec<Vec<Item>>> {
    let layer = prop::collection::vec(item(), 0..14).prop_map(|items| items.concat());
    prop::collection::vec(layer, 1..5)
}

/// Another way to write the same path, as tar writers do.
fn spelled(path: &[u8], kind: &Kind, seed: usize) -> Vec<u8> {
    let slash: &[u8] = if seed.is_multiple_of(5) { b"/./" } else { b"/" };
    let begin: &[u8] = [&b""[..], b"./", b"/", b"", b".//"][seed % 5];
    let end: &[u8] = if *kind == Kind::Directory && seed.is_multiple_of(2) {
        b"/"
    } else {
        b""
    };
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    [begin, &names.join(slash), end].concat()
}

/// The layer's tar, in which paths are spelled one way here and another there.
fn tar_of(items: &[Item], seed: usize) -> Vec<u8> {
    let spelled = items.iter().enumerate().map(|(number, item)| {
        let mut item = item.clone();
        item.path = spelled(&item.path, &item.kind, number + seed);
        if let Kind::Link(target) = &item.kind {
            item.kind = Kind::Link(spelled(target, &item.kind, seed));
        }
        item
    });
    tar(&spelled.collect::<Vec<_>>())
}

/// Names of 255 bytes leave no room for a prefix; such entries are left out.
fn is_possible(item: &Item) -> bool {
    item.path
        .split(|byte| *byte == b'/')
        .all(|name| name.len() <= 255)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_filesystem_shows_what_the_layers_say(layers in layers(), seed in 0..60_usize) {
        let mut converter = Converter::new(ConvertOptions::default());
        let mut image = Image::default();
        let mut files = Files::new();
        let root = Item::directory("").mtime(0, 0);
        files.insert(Vec::new(), File { number: usize::MAX, item: root });
        let mut numbers = 0;
        let mut tars = Vec::new();
        for (below, mut items) in layers.into_iter().enumerate() {
            items.retain(is_possible);
            files = apply(&files, &mut items, &mut numbers);
            tars.push(tar_of(&items, seed));
            image.push(&mut converter, &tars[below]);
            let (seen, expected) = (image.listing(below + 1), expected(&files));
            for (path, expected) in &expected {
                prop_assert_eq!(Some(expected), seen.get(path), "layer {} at {}", below, path.escape_ascii());
            }
            for path in seen.keys() {
                prop_assert!(expected.contains_key(path), "layer {} has {}", below, path.escape_ascii());
            }
            fsck(&image.device(below + 1));
        }
        // A converter that reads the lower layers instead of their tars goes on with the same bytes.
        let count = 1 + seed % tars.len();
        let resumed = image.resumed(count, &tars[count..]);
        prop_assert!(resumed.blobs == image.blobs, "resumed above {} layers", count);
    }
}
