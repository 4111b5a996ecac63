//! References as people write them, and as they get them wrong.

use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn parse(text: &str) -> ImageReference {
    text.parse().unwrap()
}

fn registry(text: &str) -> RegistryReference {
    match parse(text) {
        ImageReference::Registry(reference) => reference,
        other => panic!("{text} parsed as {other:?}"),
    }
}

fn problem(text: &str) -> ReferenceProblem {
    text.parse::<ImageReference>()
        .unwrap_err()
        .problem()
        .clone()
}

#[test]
fn bare_names_mean_docker_hub() {
    for (text, path) in [
        ("busybox", "library/busybox"),
        ("docker.io/busybox", "library/busybox"),
        ("index.docker.io/library/busybox", "library/busybox"),
        ("team/app", "team/app"),
        ("docker://team/app", "team/app"),
    ] {
        let repo = registry(text).repo;
        assert_eq!(
            (repo.host(), repo.api_host(), repo.path()),
            ("docker.io", "registry-1.docker.io", path),
            "{text}"
        );
    }
}

#[test]
fn hosts_are_told_from_repositories() {
    for (text, host, path) in [
        ("localhost/app", "localhost", "app"),
        ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000", "a/b/c"),
        ("Registry.Example/app", "registry.example", "app"),
        ("[::1]:5000/app", "[::1]:5000", "app"),
        ("[::1]/app", "[::1]", "app"),
        ("host-1:80/a__b-c--d.e", "host-1:80", "a__b-c--d.e"),
    ] {
        let repo = registry(text).repo;
        assert_eq!(
            (repo.host(), repo.api_host(), repo.path()),
            (host, host, path)
        );
    }
}

#[test]
fn digest_decides_over_tag_and_latest_is_the_default() {
    let digest: Digest = format!("sha256:{HEX}").parse().unwrap();
    let both = registry(&format!("host.example/app:v1@sha256:{HEX}"));
    assert_eq!(both.tag.as_deref(), Some("v1"));
    assert_eq!(both.selector(), ManifestSelector::Digest(digest));
    assert_eq!(
        registry("host.example/app:v1").selector(),
        ManifestSelector::Tag("v1".into())
    );
    assert_eq!(
        registry("host.example:5000/app").selector(),
        ManifestSelector::Tag("latest".into())
    );
}

#[test]
fn printed_references_parse_to_the_same() {
    for text in [
        "docker://docker.io/library/busybox",
        "docker://127.0.0.1:5000/t/bb:v1",
        &format!("docker://[::1]:5000/t/bb:v1@sha256:{HEX}"),
        "oci:some/dir",
        "oci:/abs/dir:v1",
        "oci:dir:docker.io/library/busybox:1.36",
        &format!("oci:dir@home:v1@sha256:{HEX}"),
        "oci-archive:file.tar:v1",
        &format!("oci-archive:file.tar@sha256:{HEX}"),
    ] {
        assert_eq!(parse(text).to_string(), text);
    }
    assert_eq!(parse(&parse("busybox:1").to_string()), parse("busybox:1"));
}

#[test]
fn layouts_keep_path_and_name_apart() {
    let ImageReference::OciDir(reference) = parse("oci:/a/b:docker.io/library/x:1") else {
        panic!("not a directory");
    };
    assert_eq!(reference.path, PathBuf::from("/a/b"));
    assert_eq!(reference.tag.as_deref(), Some("docker.io/library/x:1"));
    let ImageReference::OciArchive(reference) = parse("oci-archive:x.tar") else {
        panic!("not an archive");
    };
    assert_eq!(reference.selector(), None);
}

#[test]
fn wrong_references_name_the_wrong_part() {
    use ReferenceProblem as P;
    assert_eq!(problem(""), P::Empty);
    assert_eq!(problem("docker://"), P::Empty);
    assert_eq!(problem("oci:"), P::Empty);
    assert_eq!(problem("oci-archive::v1"), P::Empty);
    assert_eq!(problem("host.example/"), P::Empty);
    assert_eq!(problem("https://host/app"), P::WebAddress("https".into()));
    assert_eq!(
        problem("-host.example/app"),
        P::Host("-host.example".into())
    );
    assert_eq!(problem("host:0/app"), P::Host("host:0".into()));
    assert_eq!(problem("host:65536/app"), P::Host("host:65536".into()));
    assert_eq!(problem("host:+80/app"), P::Host("host:+80".into()));
    assert_eq!(problem("[::zz]/app"), P::Host("[::zz]".into()));
    assert_eq!(problem("h.example/App"), P::Repository("App".into()));
    assert_eq!(problem("h.example/a//b"), P::Repository("a//b".into()));
    assert_eq!(problem("h.example/a..b"), P::Repository("a..b".into()));
    assert_eq!(problem("h.example/../b"), P::Repository("../b".into()));
    assert_eq!(problem("h.example/a:"), P::Tag(String::new()));
    assert_eq!(problem("h.example/a:-x"), P::Tag("-x".into()));
    assert_eq!(problem("oci:dir:"), P::Tag(String::new()));
    assert_eq!(
        problem("h.example/a@sha256:12"),
        P::Digest("sha256:12".into())
    );
    assert_eq!(problem("h.example/a@md5:12"), P::Digest("md5:12".into()));
    let long = format!("h.example/a:{}", "t".repeat(129));
    assert_eq!(problem(&long), P::Tag("t".repeat(129)));
}
