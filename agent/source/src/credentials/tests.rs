//! Docker's configuration in the spellings that are found, and helpers that answer, fail and are missing.

use std::path::Path;

use super::*;

fn basic(username: &str, password: &str) -> Credential {
    Credential::Basic {
        username: username.into(),
        password: Secret::new(password),
    }
}

fn config(dir: &Path, text: &str) -> Credentials {
    let path = dir.join("config.json");
    std::fs::write(&path, text).unwrap();
    Credentials::anonymous()
        .with_docker_config(path)
        .with_helper_dir(dir)
}

fn helper(dir: &Path, name: &str, script: &str) {
    let path = dir.join(format!("docker-credential-{name}"));
    write_program(&path, &format!("#!/bin/sh\n{script}\n"));
}

/// Writes a program by a process of its own: a file that this one had open for writing may be open in what another
/// test starts just then, and cannot be run as long as it is.
pub(crate) fn write_program(path: &Path, text: &str) {
    let mut writer = std::process::Command::new("/bin/sh")
        .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = writer.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, text.as_bytes()).unwrap();
    drop(input);
    assert!(writer.wait().unwrap().success());
}

async fn find(credentials: &Credentials, repo: &str) -> Credential {
    credentials.find(&repo.parse().unwrap()).await.unwrap()
}

async fn refused(credentials: &Credentials, repo: &str) -> String {
    let error = credentials.find(&repo.parse().unwrap()).await.unwrap_err();
    error.to_string()
}

#[tokio::test]
async fn keys_are_found_in_every_spelling() {
    let dir = tempfile::tempdir().unwrap();
    // dTpw is u:p.
    for (key, repo) in [
        ("h.example", "h.example/a"),
        ("https://h.example", "h.example/a"),
        ("https://h.example/v1/", "h.example/a"),
        ("http://h.example:5000/v2/", "h.example:5000/a/b"),
        ("https://index.docker.io/v1/", "busybox"),
        ("docker.io", "team/app"),
        ("registry-1.docker.io", "team/app"),
    ] {
        let credentials = config(
            dir.path(),
            &format!(r#"{{"auths":{{"{key}":{{"auth":"dTpw"}}}}}}"#),
        );
        assert_eq!(find(&credentials, repo).await, basic("u", "p"), "{key}");
        assert_eq!(
            find(&credentials, "other.example/a").await,
            Credential::Anonymous
        );
    }
}

#[tokio::test]
async fn the_most_specific_path_counts() {
    let dir = tempfile::tempdir().unwrap();
    let credentials = config(
        dir.path(),
        r#"{"auths":{"h.example":{"username":"all","password":"1"},
                     "h.example/team":{"username":"team","password":"2"},
                     "h.example/team/app":{}}}"#,
    );
    assert_eq!(
        find(&credentials, "h.example/team/app").await,
        basic("team", "2")
    );
    assert_eq!(
        find(&credentials, "h.example/teams").await,
        basic("all", "1")
    );
    let given = credentials.with("h.example", basic("by hand", "3"));
    assert_eq!(
        find(&given, "h.example/team/app").await,
        basic("by hand", "3")
    );
}

#[tokio::test]
async fn tokens_and_padding_are_understood() {
    let dir = tempfile::tempdir().unwrap();
    let credentials = config(
        dir.path(),
        r#"{"auths":{"i.example":{"auth":"dTpw","identitytoken":"it"},
                     "r.example":{"registrytoken":"rt"},
                     "pad.example":{"auth":"dXNlcjpwYTpzcwAA"},
                     "nopad.example":{"auth":"dXNlcjpwYQ"},
                     "bad.example":{"auth":"!!!!"},
                     "nocolon.example":{"auth":"dXNlcg=="}}}"#,
    );
    let secret = Secret::new;
    assert_eq!(
        find(&credentials, "i.example/a").await,
        Credential::IdentityToken(secret("it"))
    );
    assert_eq!(
        find(&credentials, "r.example/a").await,
        Credential::RegistryToken(secret("rt"))
    );
    assert_eq!(
        find(&credentials, "pad.example/a").await,
        basic("user", "pa:ss")
    );
    assert_eq!(
        find(&credentials, "nopad.example/a").await,
        basic("user", "pa")
    );
    assert!(
        refused(&credentials, "bad.example/a")
            .await
            .contains("bad.example")
    );
    assert!(
        refused(&credentials, "nocolon.example/a")
            .await
            .contains("log in again")
    );
}

#[tokio::test]
async fn helpers_are_asked_for_the_server() {
    let dir = tempfile::tempdir().unwrap();
    helper(
        dir.path(),
        "echo",
        r#"read -r server; printf '{"ServerURL":"x","Username":"%s","Secret":"s"}' "$server""#,
    );
    helper(
        dir.path(),
        "token",
        r#"echo '{"Username":"<token>","Secret":"it"}'"#,
    );
    helper(
        dir.path(),
        "none",
        "echo credentials not found in native keychain; exit 1",
    );
    helper(dir.path(), "broken", "echo locked key ring; exit 1");
    helper(dir.path(), "noise", "echo hello");
    let credentials = config(
        dir.path(),
        r#"{"credsStore":"echo","auths":{"file.example":{"auth":"dTpw"}},
            "credHelpers":{"t.example":"token","n.example":"none","b.example":"broken",
                           "x.example":"noise","m.example":"missing","s.example":"../up"}}"#,
    );
    assert_eq!(
        find(&credentials, "h.example:5000/a").await,
        basic("h.example:5000", "s")
    );
    assert_eq!(
        find(&credentials, "busybox").await,
        basic("https://index.docker.io/v1/", "s")
    );
    assert_eq!(find(&credentials, "file.example/a").await, basic("u", "p"));
    assert_eq!(
        find(&credentials, "t.example/a").await,
        Credential::IdentityToken(Secret::new("it"))
    );
    assert_eq!(
        find(&credentials, "n.example/a").await,
        Credential::Anonymous
    );
    assert!(
        refused(&credentials, "b.example/a")
            .await
            .contains("locked key ring")
    );
    assert!(
        refused(&credentials, "x.example/a")
            .await
            .contains("not JSON")
    );
    assert!(
        refused(&credentials, "m.example/a")
            .await
            .contains("is it installed?")
    );
    assert!(
        refused(&credentials, "s.example/a")
            .await
            .contains("no slash")
    );
}

#[tokio::test]
async fn a_missing_file_holds_nothing_and_a_broken_one_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Credentials::anonymous().with_docker_config(dir.path().join("no.json"));
    assert_eq!(find(&missing, "h.example/a").await, Credential::Anonymous);
    let broken = config(dir.path(), "{");
    assert!(
        refused(&broken, "h.example/a")
            .await
            .contains("config.json")
    );
    let unreadable = Credentials::anonymous().with_docker_config(dir.path());
    assert!(
        refused(&unreadable, "h.example/a")
            .await
            .contains("could not read")
    );
}

#[tokio::test]
async fn secrets_of_kubernetes_are_read_from_their_folder_and_their_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(".dockerconfigjson");
    // dTpw is u:p.
    let text = r#"{"auths":{"*.example":{"auth":"dTpw"},"a.example/team":{"username":"t","password":"q"}}}"#;
    std::fs::write(&file, text).unwrap();
    for path in [dir.path(), &file] {
        let credentials = Credentials::anonymous().with_pull_secret(path);
        assert_eq!(find(&credentials, "b.example/app").await, basic("u", "p"));
        assert_eq!(
            find(&credentials, "a.example/team/app").await,
            basic("t", "q")
        );
        let other = find(&credentials, "example/app").await;
        assert_eq!(other, Credential::Anonymous);
    }
    let gone = Credentials::anonymous().with_pull_secret(dir.path().join("absent"));
    assert_eq!(find(&gone, "b.example/app").await, Credential::Anonymous);
}

#[tokio::test]
async fn after_a_refusal_the_next_source_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret.json");
    std::fs::write(
        &secret,
        r#"{"auths":{"h.example":{"username":"s","password":"3"}}}"#,
    )
    .unwrap();
    let learnt = Arc::new(Learnt::in_memory());
    let repo = "h.example/a".parse().unwrap();
    learnt.learn(&repo, basic("l", "1"));
    let docker = r#"{"auths":{"h.example":{"username":"d","password":"2"}}}"#;
    let credentials = config(dir.path(), docker)
        .with_learnt(learnt)
        .with_pull_secret(&secret);
    let mut refused = Vec::new();
    for expected in [
        basic("l", "1"),
        basic("d", "2"),
        basic("s", "3"),
        Credential::Anonymous,
    ] {
        let found = credentials.find_other(&repo, &refused).await.unwrap();
        assert_eq!(found, expected);
        refused.push(found);
    }
    assert_eq!(find(&credentials, "h.example/b").await, basic("d", "2"));
}

#[test]
fn secrets_do_not_show() {
    let credentials = Credentials::anonymous().with("h.example", basic("u", "hunter2"));
    assert!(!format!("{credentials:?}").contains("hunter2"));
}
