//! Plugins that answer, that fail, that hang and that are asked by many at once.

use std::fs;

use super::*;
use crate::credentials::{Credentials, Secret};

struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    /// A plugin for `*.example` that counts its calls in `calls` and keeps its question in `question`.
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = r#"{"apiVersion":"kubelet.config.k8s.io/v1","kind":"CredentialProviderConfig","providers":[
            {"name":"plugin","matchImages":["*.example"],"defaultCacheDuration":"1h","args":["give"],
             "env":[{"name":"WHO","value":"me"}],"apiVersion":"credentialprovider.kubelet.k8s.io/v1"}]}"#;
        fs::write(dir.path().join("config.json"), config).unwrap();
        let scene = Self { dir };
        scene.plays(script);
        scene
    }

    /// The plugin does something else from now on.
    fn plays(&self, script: &str) {
        let dir = self.dir.path().display();
        let text =
            format!("#!/bin/sh\ncd {dir}\necho \"$1 $WHO\" >>calls\ncat >question\n{script}\n");
        // A new file each time: one that is being run cannot be written.
        let (new, path) = (self.dir.path().join("new"), self.dir.path().join("plugin"));
        crate::credentials::write_program(&new, &text);
        fs::rename(new, path).unwrap();
    }

    fn plugins(&self) -> Plugins {
        Plugins::read(&self.dir.path().join("config.json"), self.dir.path()).unwrap()
    }

    fn calls(&self) -> usize {
        let calls = fs::read_to_string(self.dir.path().join("calls"));
        calls.unwrap_or_default().lines().count()
    }
}

fn answer(kept_for: &str, life: &str, password: &str) -> String {
    format!(
        r#"echo '{{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1",
            "cacheKeyType":"{kept_for}","cacheDuration":"{life}","auth":{{
            "*.example":{{"username":"u","password":"{password}"}},
            "a.example/team":{{"username":"team","password":"{password}"}}}}}}'"#
    )
}

fn basic(username: &str, password: &str) -> Credential {
    Credential::Basic {
        username: username.to_owned(),
        password: Secret::new(password),
    }
}

fn repo(text: &str) -> RepoRef {
    text.parse().unwrap()
}

async fn find(plugins: &Plugins, text: &str) -> Vec<Credential> {
    plugins.find(&repo(text), &[]).await.unwrap()
}

#[tokio::test]
async fn a_plugin_is_asked_as_the_kubelet_asks_it() {
    let scene = Scene::new(&answer("Registry", "1h", "p"));
    let plugins = scene.plugins();
    assert_eq!(
        find(&plugins, "a.example/team/app").await,
        [basic("team", "p"), basic("u", "p")]
    );
    let read = |name: &str| fs::read_to_string(scene.dir.path().join(name)).unwrap();
    let question: serde_json::Value = serde_json::from_str(&read("question")).unwrap();
    let expected = serde_json::json!({
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "kind": "CredentialProviderRequest",
        "image": "a.example/team/app"
    });
    assert_eq!(question, expected);
    assert_eq!(read("calls"), "give me\n");
    assert_eq!(find(&plugins, "a.other/x").await, []);
    assert_eq!(scene.calls(), 1);
}

#[tokio::test]
async fn answers_are_kept_for_what_they_say() {
    for (kept_for, calls) in [
        ("Image", [1, 2, 3]),
        ("Registry", [1, 1, 2]),
        ("Global", [1, 1, 1]),
    ] {
        let scene = Scene::new(&answer(kept_for, "1h", "p"));
        let plugins = scene.plugins();
        let repos = ["a.example/x", "a.example/y", "b.example/x"];
        for (repo, calls) in repos.into_iter().zip(calls) {
            for _ in 0..2 {
                assert_eq!(find(&plugins, repo).await, [basic("u", "p")]);
            }
            assert_eq!(scene.calls(), calls, "{kept_for} {repo}");
        }
    }
    let scene = Scene::new(&answer("Registry", "0s", "p"));
    let plugins = scene.plugins();
    for calls in 1..3 {
        find(&plugins, "a.example/x").await;
        assert_eq!(scene.calls(), calls);
    }
}

#[tokio::test]
async fn what_is_kept_is_renewed_before_it_ends() {
    let scene = Scene::new(&answer("Registry", "100s", "old"));
    let plugins = scene.plugins();
    find(&plugins, "a.example/x").await;
    scene.plays(&answer("Registry", "100s", "new"));
    pass(85).await;
    assert_eq!(find(&plugins, "a.example/x").await, [basic("u", "old")]);
    pass(10).await;
    assert_eq!(find(&plugins, "a.example/x").await, [basic("u", "new")]);
    assert_eq!(scene.calls(), 2);
}

#[tokio::test]
async fn a_plugin_that_fails_costs_nothing_while_what_it_gave_is_good() {
    let scene = Scene::new(&answer("Registry", "100s", "old"));
    let plugins = scene.plugins();
    find(&plugins, "a.example/x").await;
    scene.plays("echo 'no metadata service' >&2; exit 1");
    pass(95).await;
    for _ in 0..3 {
        assert_eq!(find(&plugins, "a.example/x").await, [basic("u", "old")]);
    }
    assert_eq!(
        scene.calls(),
        2,
        "one that failed is left alone for a while"
    );
    pass(6).await;
    let error = plugins.find(&repo("a.example/x"), &[]).await.unwrap_err();
    assert!(error.to_string().contains("no metadata service"), "{error}");
    scene.plays(&answer("Registry", "100s", "new"));
    pass(20).await;
    assert_eq!(find(&plugins, "a.example/x").await, [basic("u", "new")]);
}

#[tokio::test]
async fn what_a_registry_refused_is_asked_for_anew_and_not_too_often() {
    let scene = Scene::new(&answer("Registry", "1h", "old"));
    let plugins = scene.plugins();
    let old = find(&plugins, "a.example/x").await;
    scene.plays(&answer("Registry", "1h", "new"));
    let refused = |old: &[Credential]| {
        let old = old.to_vec();
        let plugins = &plugins;
        async move { plugins.find(&repo("a.example/x"), &old).await.unwrap() }
    };
    assert_eq!(refused(&old).await, old, "it was given a moment ago");
    pass(11).await;
    let (one, other) = tokio::join!(refused(&old), refused(&old));
    assert_eq!(one, [basic("u", "new")]);
    assert_eq!(one, other);
    assert_eq!(scene.calls(), 2);
}

#[tokio::test]
async fn many_wait_for_one_answer() {
    let scene = Scene::new(&answer("Registry", "1h", "p"));
    let plugins = Arc::new(scene.plugins());
    let asking = (0..20).map(|number| {
        let plugins = Arc::clone(&plugins);
        tokio::spawn(async move { find(&plugins, &format!("a.example/x{number}")).await })
    });
    for asked in asking.collect::<Vec<_>>() {
        assert_eq!(asked.await.unwrap(), [basic("u", "p")]);
    }
    assert_eq!(scene.calls(), 1);
}

#[tokio::test]
async fn answers_that_are_none_are_refused_and_never_quoted() {
    for script in [
        "echo hunter2",
        r#"echo '{"kind":"Secret","apiVersion":"hunter1","cacheKeyType":"Image","auth":{"a":{"password":"hunter2"}}}'"#,
        r#"echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"All","auth":{"a":{"password":"hunter2"}}}'"#,
        "head -c 3000000 /dev/zero",
        "exit 3",
    ] {
        let plugins = Scene::new(script);
        let error = plugins.plugins().find(&repo("a.example/x"), &[]).await;
        let told = error.unwrap_err().to_string();
        assert!(
            !told.contains("hunter2") && told.contains("plugin"),
            "{told}"
        );
    }
}

#[tokio::test]
async fn a_missing_plugin_is_an_error_only_where_nobody_else_knows() {
    let scene = Scene::new("");
    fs::remove_file(scene.dir.path().join("plugin")).unwrap();
    let credentials = Credentials::anonymous().with_plugins(scene.plugins());
    let error = credentials.find(&repo("a.example/x")).await.unwrap_err();
    assert!(error.to_string().contains("cannot be run"), "{error}");
    let given = credentials.with("a.example", basic("u", "p"));
    assert_eq!(
        given.find(&repo("a.example/x")).await.unwrap(),
        basic("u", "p")
    );
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_hangs_is_given_up() {
    // The clock stands still while something is to be done and jumps when nothing is: a hang takes no time here.
    let scene = Scene::new("exec cat /dev/zero >/dev/null");
    let error = scene.plugins().find(&repo("a.example/x"), &[]).await;
    let told = error.unwrap_err().to_string();
    assert!(told.contains("no answer within"), "{told}");
}

async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}
