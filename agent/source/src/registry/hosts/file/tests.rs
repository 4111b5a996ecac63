//! What a `hosts.toml` means, and what is refused.

use super::*;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn hosts(text: &str) -> Hosts {
    read(folder(&[("hosts.toml", text)]).path()).unwrap()
}

fn apis(hosts: &Hosts) -> Vec<&str> {
    let mirrors = hosts.mirrors.iter();
    mirrors
        .map(|host| host.api.as_ref().unwrap().as_str())
        .collect()
}

#[test]
fn hosts_keep_the_order_of_the_file() {
    let hosts = hosts(
        r#"
        server = "https://registry-1.docker.io"
        [host."https://z.example"]
        [host."https://a.example:5000"]
        [host."m.example"]
        [host."http://b.example/cached/v2/"]
        "#,
    );
    assert_eq!(
        apis(&hosts),
        [
            "https://z.example/v2",
            "https://a.example:5000/v2",
            "https://m.example/v2",
            "http://b.example/cached/v2"
        ]
    );
    let registry = hosts.registry.api.unwrap();
    assert_eq!(registry.as_str(), "https://registry-1.docker.io/v2");
}

#[test]
fn paths_stand_as_they_are_only_where_the_file_says_so() {
    let hosts = hosts(
        r#"
        [host."https://a.example/v2/proxy"]
        override_path = true
        [host."https://b.example/v2/proxy"]
        "#,
    );
    assert_eq!(
        apis(&hosts),
        [
            "https://a.example/v2/proxy",
            "https://b.example/v2/proxy/v2"
        ]
    );
    assert_eq!(hosts.registry, Host::default());
}

#[test]
fn capabilities_are_all_unless_named() {
    let hosts = hosts(
        r#"
        capabilities = ["push"]
        [host."https://a.example"]
        capabilities = ["pull", "Resolve"]
        [host."https://b.example"]
        capabilities = []
        [host."https://c.example"]
        capabilities = ["pull", "referrers"]
        "#,
    );
    let can = |host: &Host| (host.can.pull, host.can.resolve, host.can.push);
    let mirrors: Vec<_> = hosts.mirrors.iter().map(can).collect();
    assert_eq!(
        mirrors,
        [
            (true, true, false),
            (true, true, true),
            (true, false, false)
        ]
    );
    assert_eq!(can(&hosts.registry), (false, false, true));
}

#[test]
fn certificates_and_headers_are_read() {
    let dir = folder(&[
        (
            "hosts.toml",
            r#"
            ca = "own.pem"
            dial_timeout = "3s"
            [host."https://a.example"]
            ca = ["own.pem", "other.pem"]
            client = [["me.cert", "me.key"]]
            skip_verify = true
            [host."https://a.example".header]
            x-one = "1"
            x-many = ["2", "3"]
            [host."https://b.example"]
            client = "both.pem"
            [host."https://c.example"]
            client = ["both.pem"]
            "#,
        ),
        ("own.pem", "OWN"),
        ("other.pem", "OTHER"),
        ("me.cert", "CERT"),
        ("me.key", "KEY"),
        ("both.pem", "BOTH"),
    ]);
    let hosts = read(dir.path()).unwrap();
    assert_eq!(hosts.registry.tls.roots, ["OWN"]);
    assert_eq!(hosts.registry.dial_timeout, Some(Duration::from_secs(3)));
    let identities: Vec<_> = hosts
        .mirrors
        .iter()
        .map(|host| &host.tls.identity)
        .collect();
    let some = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    assert_eq!(
        identities,
        [&some("CERT\nKEY\n"), &some("BOTH\n"), &some("BOTH\n")]
    );
    let first = hosts.mirrors.first().unwrap();
    assert_eq!(first.tls.roots, ["OWN", "OTHER"]);
    assert!(first.tls.skip_verify);
    assert_eq!(first.headers.get("x-one").unwrap(), "1");
    assert_eq!(first.headers.get_all("x-many").iter().count(), 2);
    let shown = format!("{hosts:?}");
    assert!(!shown.contains("KEY"), "{shown}");
}

#[test]
fn dockers_folders_hold_certificates_alone() {
    let dir = folder(&[
        ("ca.crt", "CA"),
        ("me.cert", "CERT"),
        ("me.key", "KEY"),
        ("readme", "?"),
    ]);
    let hosts = read(dir.path()).unwrap();
    assert!(hosts.mirrors.is_empty() && hosts.registry.api.is_none());
    assert_eq!(hosts.registry.tls.roots, ["CA"]);
    assert_eq!(hosts.registry.tls.identity.unwrap(), "CERT\nKEY\n");
    assert_eq!(read(folder(&[]).path()).unwrap(), Hosts::default());
    let keyless = folder(&[("me.cert", "CERT")]);
    let told = read(keyless.path()).unwrap_err().to_string();
    assert!(told.contains("me.key"), "{told}");
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    for (text, named) in [
        ("server = ", "not well formed"),
        ("server = \"https://\"", "no host"),
        ("server = \"https://u:p@h\"", "no host"),
        ("[host.\"https://a b\"]", "no host"),
        ("capabilities = [\"steal\"]", "steal"),
        ("ca = \"absent.pem\"", "absent.pem"),
        ("[header]\n\"x y\" = \"1\"", "x y"),
        ("dial_timeout = \"soon\"", "soon"),
        ("skip_verify = \"yes\"", "not well formed"),
    ] {
        let dir = folder(&[("hosts.toml", text)]);
        let told = read(dir.path()).unwrap_err().to_string();
        assert!(told.contains(named), "{text}: {told}");
    }
}
