//! Documents as builders write them, and the image that a machine takes from them.

use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn manifest(text: &str, media_type: Option<&str>) -> Manifest {
    let text = text.replace("DIGEST", DIGEST);
    Manifest::new(Bytes::from(text), media_type)
}

const IMAGE: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
 "config":{"mediaType":"c","digest":"DIGEST","size":2,"data":"e30="},
 "layers":[{"mediaType":"l","digest":"DIGEST","size":9007199254740993,"urls":["u"],"annotations":{"k":"v"}}],
 "annotations":null,"x-new":{"deep":[1,2]}}"#;

#[test]
fn unknown_fields_survive_being_written_again() {
    let original = manifest(IMAGE, None);
    assert_eq!(original.media_type(), media_type::OCI_MANIFEST);
    let image = original.image().unwrap();
    assert_eq!(image.layers[0].size, 9_007_199_254_740_993);
    let written = Manifest::from_image(&image).unwrap();
    let value = |manifest: &Manifest| -> serde_json::Value {
        serde_json::from_slice(manifest.bytes()).unwrap()
    };
    let mut expected = value(&original);
    expected.as_object_mut().unwrap().remove("annotations");
    assert_eq!(value(&written), expected);
    let again = Manifest::from_image(&image).unwrap();
    assert_eq!(
        written.digest(),
        again.digest(),
        "written the same each time"
    );
}

#[test]
fn a_document_that_is_two_things_is_none() {
    let both = r#"{"schemaVersion":2,"manifests":[],"layers":[],
        "config":{"mediaType":"c","digest":"DIGEST","size":2}}"#;
    let neither = r#"{"schemaVersion":2}"#;
    let old =
        r#"{"schemaVersion":1,"layers":[],"config":{"mediaType":"c","digest":"DIGEST","size":2}}"#;
    for text in [both, neither, old] {
        let error = manifest(text, None).parse().unwrap_err();
        assert!(matches!(error, ManifestError::Ambiguous { .. }), "{text}");
    }
    // What the header says and what the document is must agree.
    for (text, said) in [
        (IMAGE, media_type::OCI_INDEX),
        (
            r#"{"schemaVersion":2,"manifests":[]}"#,
            media_type::DOCKER_MANIFEST,
        ),
    ] {
        let error = manifest(text, Some(said)).parse().unwrap_err();
        assert!(matches!(error, ManifestError::Ambiguous { .. }), "{text}");
    }
    let docker = r#"{"schemaVersion":2,"manifests":[]}"#;
    assert!(
        manifest(docker, Some(media_type::DOCKER_LIST))
            .index()
            .is_ok()
    );
}

#[test]
fn documents_that_are_not_well_formed_are_refused() {
    for text in [
        "",
        "null",
        "[]",
        r#"{"schemaVersion":2,"manifests":7}"#,
        r#"{"schemaVersion":2,"manifests":[{"mediaType":"m","digest":"DIGEST","size":-1}]}"#,
        r#"{"schemaVersion":2,"manifests":[{"mediaType":"m","digest":"sha256:zz","size":1}]}"#,
    ] {
        let error = manifest(text, None).parse().unwrap_err();
        assert!(matches!(error, ManifestError::Malformed { .. }), "{text}");
    }
}

#[test]
fn kinds_are_not_confused() {
    let image = manifest(IMAGE, None);
    let error = image.index().unwrap_err().to_string();
    assert!(
        error.ends_with("is an image manifest, not an image index"),
        "{error}"
    );
}

fn index(entries: &[(&str, &str)]) -> ImageIndex {
    let entries = entries.iter().map(|(name, platform)| {
        let mut entry = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(name.as_bytes()), 1);
        if !platform.is_empty() {
            let (platform, feature) = platform.split_once('+').unwrap_or((platform, ""));
            let mut platform: Platform = platform.parse().unwrap();
            platform.os_features = [feature]
                .into_iter()
                .filter(|f| !f.is_empty())
                .map(str::to_owned)
                .collect();
            entry.platform = Some(platform);
        }
        entry
    });
    ImageIndex::new(entries.collect())
}

#[test]
fn the_image_that_suits_best_is_taken() {
    let all = index(&[
        ("attestation", "unknown/unknown"),
        ("windows", "windows/amd64"),
        ("v3", "linux/amd64/v3"),
        ("amd64", "linux/amd64"),
        ("amd64 again", "linux/amd64"),
        ("lazy", "linux/amd64+tranship.v1"),
        ("v6", "linux/arm/v6"),
        ("v7", "linux/arm/v7"),
        ("v5", "linux/arm/v5"),
        ("arm64", "linux/arm64/v8"),
    ]);
    let feature = Platform {
        os_features: vec!["tranship.v1".into(), "other".into()],
        ..Platform::linux("amd64")
    };
    let parse = |text: &str| text.parse::<Platform>().unwrap();
    for (wanted, name) in [
        (Platform::linux("amd64"), "amd64"),
        (parse("linux/x86_64"), "amd64"),
        (parse("linux/amd64/v3"), "v3"),
        (parse("linux/amd64/v4"), "v3"),
        (feature, "lazy"),
        (parse("linux/arm"), "v7"),
        (parse("linux/arm/v6"), "v6"),
        (parse("linux/aarch64"), "arm64"),
    ] {
        let entry = all.select(&wanted).unwrap();
        assert_eq!(entry.digest, Digest::of(name.as_bytes()), "{wanted}");
    }
    let error = all
        .select(&Platform::linux("riscv64"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no image for linux/riscv64; it offers windows/amd64, linux/amd64/v3"),
        "{error}"
    );
    assert!(!error.contains("unknown/unknown"), "{error}");
}

#[test]
fn an_only_image_without_a_platform_suits_everyone() {
    let wanted = Platform::linux("s390x");
    let only = index(&[("it", ""), ("attestation", "unknown/unknown")]);
    assert_eq!(only.select(&wanted).unwrap().digest, Digest::of(b"it"));
    assert!(index(&[("one", ""), ("two", "")]).select(&wanted).is_err());
    assert!(
        index(&[])
            .select(&wanted)
            .unwrap_err()
            .to_string()
            .ends_with("offers none")
    );
}

#[test]
fn attestations_are_known_by_annotation_too() {
    let mut entry = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(b""), 0);
    assert!(!entry.is_attestation());
    entry.annotations.insert(
        "vnd.docker.reference.type".into(),
        "attestation-manifest".into(),
    );
    assert!(entry.is_attestation());
}

#[test]
fn platforms_print_and_parse() {
    for text in ["linux/amd64", "linux/arm/v7"] {
        assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "linux",
        "linux/",
        "/amd64",
        "linux/arm/v7/x",
        "linux//v7",
    ] {
        assert!(text.parse::<Platform>().is_err(), "{text}");
    }
    assert_eq!(Platform::of_this_machine().os, "linux");
}

#[test]
fn configurations_keep_what_is_the_runtimes() {
    let text = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["A=b"]}},
            "rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}},"history":[{{"created_by":"x"}}]}}"#
    );
    let mut config = ImageConfig::parse(text.as_bytes()).unwrap();
    assert_eq!(config.rootfs.diff_ids, [DIGEST.parse().unwrap()]);
    config.rootfs.diff_ids = vec![Digest::of(b"new")];
    let written = ImageConfig::parse(&config.encode().unwrap()).unwrap();
    assert_eq!(written, config);
    assert_eq!(written.other["config"]["Env"][0], "A=b");
    assert!(ImageConfig::parse(b"{}").is_err());
}

#[test]
fn a_trace_of_reads_on_top_is_no_layer_of_the_device() {
    let mut image = manifest(IMAGE, None).image().unwrap();
    let plain = image.layers[0].clone();
    let mut trace = plain.clone();
    let key = tranship_format::annotation::ACCELERATION_LAYER.to_owned();
    trace.annotations.insert(key.clone(), "yes".to_owned());
    image.layers = vec![plain.clone(), trace.clone()];
    assert_eq!(image.device_layers(), std::slice::from_ref(&plain));
    // Only on top, only with this word, and never all there is.
    let mut other = plain.clone();
    other.annotations.insert(key, "no".to_owned());
    for layers in [
        vec![trace.clone(), plain.clone()],
        vec![plain, other],
        vec![trace],
    ] {
        image.layers = layers;
        assert_eq!(image.device_layers(), image.layers);
    }
}
