//! `diff` tells what two images share, by layer, by file and by chunk.

use crate::fixture::{Entry, Layout, Stored, noise, tranship};

#[test]
fn equal_files_are_shared_where_no_layer_is() {
    let (common, own) = (noise(900_000, 5), noise(400_000, 6));
    let convert = |entries: &[(&str, Entry<'_>)]| {
        let source = Layout::new().layer(Stored::Plain, entries).finish();
        let dir = tempfile::tempdir().unwrap();
        let reference = format!("oci:{}", dir.path().display());
        tranship(&["convert", &source.reference(), &reference]).ok();
        (dir, reference)
    };
    let (_dir, a) = convert(&[("lib/common", Entry::File(&common))]);
    let (_other, b) = convert(&[
        ("bin/own", Entry::File(&own)),
        ("opt/other-name", Entry::File(&common)),
    ]);
    let report = tranship(&["diff", "--files", "--output", "json", &a, &b]).json();
    assert_eq!(report["layers"]["shared_count"], 0);
    assert_eq!(report["files"]["size"], 1_300_000);
    assert_eq!(report["files"]["shared_size"], 900_000);
    let chunks = &report["chunks"];
    let shared = chunks["shared_size"].as_u64().unwrap();
    assert!((890_000..910_000).contains(&shared), "{report}");
    let rest = chunks["rest_size"].as_u64().unwrap();
    assert_eq!(rest + shared, chunks["size"].as_u64().unwrap());

    let same = tranship(&["diff", "--output", "json", &a, &a]).json();
    assert_eq!(same["layers"]["share"], 1.0);
    assert_eq!(same["chunks"]["rest_size"], 0);
    assert_eq!(same.get("files"), None);
    assert!(tranship(&["diff", &a, &b]).ok().contains("chunks"));
}
