//! Looking into an image: what `ls`, `cat` and `export` show is what the layers say.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;

use crate::fixture::{Entry, Layout, Stored, TIME, noise, tranship};

struct Image {
    _dir: tempfile::TempDir,
    reference: String,
    large: Vec<u8>,
}

fn image() -> Image {
    let large = noise(900_000, 3);
    let name = format!("deep/{}/{}", "n".repeat(90), "m".repeat(90));
    let source = Layout::new()
        .layer(
            Stored::Gzip,
            &[
                ("etc", Entry::Dir),
                ("etc/old", Entry::File(b"old")),
                ("etc/gone", Entry::File(b"gone")),
                ("large", Entry::File(&large)),
                ("link", Entry::Symlink("/etc/old")),
                ("hard", Entry::HardLink("large")),
                ("rich", Entry::Rich(b"rich")),
                ("null", Entry::Device(1, 3)),
                (&name, Entry::File(b"far")),
            ],
        )
        .layer(
            Stored::Zstd,
            &[
                ("etc/old", Entry::File(b"new")),
                ("etc/.wh.gone", Entry::File(b"")),
            ],
        )
        .finish();
    let dir = tempfile::tempdir().unwrap();
    let reference = format!("oci:{}:lazy", dir.path().display());
    tranship(&["convert", &source.reference(), &reference]).ok();
    Image {
        _dir: dir,
        reference,
        large,
    }
}

#[test]
fn files_are_listed_as_the_layers_left_them() {
    let image = image();
    assert_eq!(
        tranship(&["ls", &image.reference, "/etc"]).ok(),
        "/etc/old\n"
    );
    assert_eq!(
        tranship(&["ls", &format!("{}:/etc", image.reference)]).ok(),
        "/etc/old\n"
    );
    let all = tranship(&["ls", "-R", &image.reference]).ok();
    assert!(all.contains("/null\n") && !all.contains("gone"), "{all}");
    let long = tranship(&["ls", "-l", &image.reference]).ok();
    assert!(
        long.contains("-rw-r--r--   2     0     0     900000 2023-11-14 22:13 /hard\n"),
        "{long}"
    );
    assert!(long.contains("/link -> /etc/old\n"), "{long}");
    let rows = tranship(&["ls", "--output", "json", &image.reference, "/rich"]).json();
    assert_eq!(rows[0]["uid"], 3_000_000);
    assert_eq!(rows[0]["mtime"], TIME);
}

#[test]
fn files_are_read_whole_and_links_are_followed() {
    let image = image();
    assert_eq!(tranship(&["cat", &image.reference, "/etc/old"]).ok(), "new");
    assert_eq!(tranship(&["cat", &image.reference, "/link"]).ok(), "new");
    let large = tranship(&["cat", &format!("{}:/hard", image.reference)]);
    assert_eq!(large.code, 0);
    assert!(large.stdout == image.large);
    assert_eq!(tranship(&["cat", &image.reference, "/etc/gone"]).code, 4);
    assert_eq!(tranship(&["cat", &image.reference, "/etc/old/x"]).code, 4);
    assert_eq!(tranship(&["cat", &image.reference, "/etc"]).code, 2);
}

#[test]
fn the_exported_tar_holds_everything() {
    let image = image();
    let ran = tranship(&["export", "--tar", "-", &image.reference]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let again = tranship(&["export", "--tar", "-", &image.reference]);
    assert!(
        ran.stdout == again.stdout,
        "the same image gives the same tar"
    );

    let mut found = BTreeMap::new();
    let mut archive = tar::Archive::new(ran.stdout.as_slice());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let pax: BTreeMap<String, Vec<u8>> = entry
            .pax_extensions()
            .unwrap()
            .into_iter()
            .flatten()
            .map(|record| record.unwrap())
            .map(|record| {
                (
                    record.key().unwrap().to_owned(),
                    record.value_bytes().to_vec(),
                )
            })
            .collect();
        let mut bytes = Vec::new();
        let (header, link) = (
            entry.header().clone(),
            entry.link_name().unwrap().map(std::borrow::Cow::into_owned),
        );
        entry.read_to_end(&mut bytes).unwrap();
        found.insert(
            path.trim_end_matches('/').to_owned(),
            (header, link, pax, bytes),
        );
    }
    assert_eq!(found["etc/old"].3, b"new");
    assert!(!found.contains_key("etc/gone"));
    // `hard` comes before `large`: it has the bytes, and `large` links to it.
    assert!(found["hard"].3 == image.large);
    assert_eq!(found["large"].1.as_ref().unwrap().to_str(), Some("hard"));
    assert_eq!(found["link"].1.as_ref().unwrap().to_str(), Some("/etc/old"));
    let (header, _, pax, bytes) = &found["rich"];
    assert_eq!(bytes, b"rich");
    assert_eq!(pax["SCHILY.xattr.user.note"], b"kept");
    assert_eq!(pax["mtime"], b"1700000000.123456789");
    assert_eq!(pax["uid"], b"3000000");
    assert_eq!(header.mode().unwrap(), 0o644);
    let null = &found["null"].0;
    assert_eq!(null.entry_type(), tar::EntryType::Char);
    assert_eq!(
        (null.device_major().unwrap(), null.device_minor().unwrap()),
        (Some(1), Some(3))
    );
    let deep = format!("deep/{}/{}", "n".repeat(90), "m".repeat(90));
    assert_eq!(found[&deep].3, b"far");
}

#[test]
fn the_exported_tar_converts_to_an_image_with_the_same_files() {
    let image = image();
    let tar = tranship(&["export", "--tar", "-", &image.reference]).stdout;
    let source = Layout::new().tar_layer(Stored::Plain, &tar).finish();
    let dir = tempfile::tempdir().unwrap();
    let reference = format!("oci:{}", dir.path().display());
    tranship(&["convert", &source.reference(), &reference]).ok();
    let list = |reference: &str| tranship(&["ls", "-R", "--output", "json", reference]).json();
    let without_sizes = |mut rows: serde_json::Value| {
        // A directory's size is how its entries are stored, which depends on the order of layers.
        for row in rows.as_array_mut().unwrap() {
            if row["kind"] == "directory" {
                row["size"] = 0.into();
            }
        }
        rows
    };
    assert_eq!(
        without_sizes(list(&reference)),
        without_sizes(list(&image.reference))
    );
    let again = tranship(&["export", "--tar", "-", &reference]).stdout;
    assert!(again == tar);
}

#[test]
fn the_raw_device_is_an_erofs_of_the_told_size() {
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("device");
    tranship(&["export", "--raw", path.to_str().unwrap(), &image.reference]).ok();
    let device = fs::read(&path).unwrap();
    assert_eq!(device[1024..1028], 0xe0f5_e1e2_u32.to_le_bytes());
    let shown = tranship(&["inspect", "--output", "json", &image.reference]).json();
    assert_eq!(shown["device_size"], device.len());
    let filesystem = tranship_format::erofs::Filesystem::open(device).unwrap();
    let inode = filesystem.lookup(b"large").unwrap();
    let mut bytes = vec![0; image.large.len()];
    assert_eq!(filesystem.read(&inode, 0, &mut bytes).unwrap(), bytes.len());
    assert!(bytes == image.large);
}
