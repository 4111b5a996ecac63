//! `tranship node` with containerds of every version, played: one reads a configuration and what that imports, brings it to its own version's
//! names, lays it over what it shows by default, and shows the whole. Debian's own is in the system tests.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use tempfile::TempDir;
use toml::{Table, Value};

use crate::fixture::{Ran, tranship};

/// The version of the one that is played, the configuration that it reads, and the file for what it shows.
const VERSION: &str = "TRANSHIP_TEST_CONTAINERD";
const CONFIG: &str = "TRANSHIP_TEST_CONFIG";
const SHOWN: &str = "TRANSHIP_TEST_SHOWN";

/// The sections of version 2 and of later ones.
const CRI: &str = "io.containerd.grpc.v1.cri";
const IMAGES: &str = "io.containerd.cri.v1.images";
const RUNTIME: &str = "io.containerd.cri.v1.runtime";

fn testdata(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/containerd");
    fs::read_to_string(dir.join(name)).unwrap()
}

/// The one that is played: a test so that its program is this one; without the variable it has nothing to do.
#[test]
fn plays_containerd() {
    let Ok(version) = std::env::var(VERSION) else {
        return;
    };
    let shown: Table = testdata(&format!("shown-{version}.toml")).parse().unwrap();
    let config = std::env::var(CONFIG).unwrap();
    let all = if config.is_empty() {
        shown
    } else {
        read(shown, Path::new(&config))
    };
    fs::write(std::env::var(SHOWN).unwrap(), all.to_string()).unwrap();
}

/// What is shown of a configuration with all that it imports; the later file counts.
fn read(mut shown: Table, config: &Path) -> Table {
    let own = shown["version"].as_integer().unwrap();
    let mut pending = vec![config.to_owned()];
    let mut root = None;
    while let Some(path) = pending.pop() {
        let mut table: Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        let version = table
            .get("version")
            .map_or(1, |version| version.as_integer().unwrap());
        assert!((2..=own).contains(&version), "config version {version}");
        let root = *root.get_or_insert(version);
        assert!(
            version <= root,
            "drop-in config version {version} higher than {root}"
        );
        if version == 2 && own > 2 {
            migrate(&mut table);
        }
        for import in table
            .remove("imports")
            .into_iter()
            .flat_map(|list| list.as_array().cloned().unwrap())
        {
            pending.extend(files(
                &path.parent().unwrap().join(import.as_str().unwrap()),
            ));
        }
        table.remove("version");
        complete(&shown, &mut table, own);
        lay(&mut shown, table);
    }
    shown
}

/// The files of a name, which may be a pattern for all of a folder.
fn files(named: &Path) -> Vec<PathBuf> {
    if named.file_name().unwrap() != "*.toml" {
        return vec![named.to_owned()];
    }
    let entries = fs::read_dir(named.parent().unwrap()).into_iter().flatten();
    let all = entries.map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .collect()
}

/// The names of version 3 for what version 2 has in one section.
fn migrate(table: &mut Table) {
    let Some(Value::Table(plugins)) = table.get_mut("plugins") else {
        return;
    };
    let Some(Value::Table(mut cri)) = plugins.remove(CRI) else {
        return;
    };
    let mut images = Table::new();
    if let Some(pause) = cri.remove("sandbox_image") {
        images.insert(
            "pinned_images".to_owned(),
            Table::from_iter([("sandbox".to_owned(), pause)]).into(),
        );
    }
    if let Some(registry) = cri.remove("registry") {
        images.insert("registry".to_owned(), registry);
    }
    if let Some(Value::Table(containerd)) = cri.get_mut("containerd") {
        for key in ["snapshotter", "disable_snapshot_annotations"] {
            images.extend(containerd.remove_entry(key));
        }
    }
    plugins.insert(IMAGES.to_owned(), images.into());
    plugins.insert(RUNTIME.to_owned(), cri.into());
}

/// Runtimes and snapshotters that are new come with all of their keys.
fn complete(shown: &Table, table: &mut Table, version: i64) {
    let section = if version > 2 { RUNTIME } else { CRI };
    let usual = &shown["plugins"][section]["containerd"]["runtimes"]["runc"];
    let mut empty = usual.as_table().unwrap().clone();
    for (key, value) in &mut empty {
        let fresh = match &*value {
            Value::String(_) if key.starts_with("sandbox") => Value::from("podsandbox"),
            Value::String(_) => Value::from(""),
            Value::Array(_) => Value::Array(Vec::new()),
            Value::Table(_) => Table::new().into(),
            other => other.clone(),
        };
        *value = fresh;
    }
    let cri = table
        .get_mut("plugins")
        .and_then(|plugins| plugins.get_mut(section))
        .and_then(|section| section.get_mut("containerd"))
        .and_then(|containerd| containerd.get_mut("runtimes"));
    let runtimes = cri.and_then(Value::as_table_mut);
    for (name, runtime) in runtimes.into_iter().flatten() {
        if name != "runc" {
            let mut whole = empty.clone();
            lay(&mut whole, runtime.as_table().unwrap().clone());
            *runtime = whole.into();
        }
    }
    let plugins = table.get_mut("proxy_plugins").and_then(Value::as_table_mut);
    for (_, plugin) in plugins.into_iter().flatten() {
        let plugin = plugin.as_table_mut().unwrap();
        let known: &[&str] = if version > 2 {
            &["type", "address", "platform"]
        } else {
            &["type", "address"]
        };
        for key in known {
            plugin.entry(*key).or_insert_with(|| Value::from(""));
        }
    }
}

fn lay(to: &mut Table, from: Table) {
    for (key, value) in from {
        match (to.get_mut(&key), value) {
            (Some(Value::Table(to)), Value::Table(from)) => lay(to, from),
            (_, value) => {
                to.insert(key, value);
            }
        }
    }
}

/// A node with a containerd that is played.
struct Scene {
    dir: TempDir,
}

impl Scene {
    /// `refused` is a pattern for configurations that it does not take once they speak of us.
    fn new(version: &str, text: Option<&str>, refused: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let scene = Self { dir };
        fs::create_dir(scene.dir.path().join("etc")).unwrap();
        if let Some(text) = text {
            fs::write(scene.config(), text).unwrap();
        }
        let play = std::env::current_exe().unwrap();
        let shown = scene.dir.path().join("shown");
        let script = format!(
            r#"#!/bin/sh
case "$*" in
--version) echo "containerd github.com/containerd/containerd v{version}.9 0cae"; exit;;
"config default") config=;;
*) config=$2;;
esac
case "$config" in
{refused}) grep -q tranship "$config" && {{ echo too new >&2; exit 1; }};;
esac
rm -f '{shown}'
{VERSION}={version} {CONFIG}="$config" {SHOWN}='{shown}' '{play}' --exact node::plays_containerd >'{shown}.told' 2>&1 && exec cat '{shown}'
cat '{shown}.told' >&2
exit 1
"#,
            shown = shown.display(),
            play = play.display(),
        );
        fs::write(scene.program(), script).unwrap();
        fs::set_permissions(scene.program(), fs::Permissions::from_mode(0o755)).unwrap();
        scene
    }

    fn program(&self) -> String {
        self.dir.path().join("containerd").display().to_string()
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("etc/config.toml")
    }

    fn node(&self, args: &[&str]) -> Ran {
        let (program, config) = (self.program(), self.config().display().to_string());
        let which = ["--containerd", &program, "--config", &config];
        tranship(&[&["node"], args, &which[..]].concat())
    }

    fn status(&self) -> Json {
        let asked = ["status", "--output", "json", "--address", "/nonexistent"];
        self.node(&asked).json()
    }

    /// What the containerd shows now.
    fn shown(&self) -> Table {
        let version = std::process::Command::new(self.program())
            .arg("--config")
            .arg(self.config())
            .args(["config", "dump"])
            .output()
            .unwrap();
        assert!(version.status.success(), "{version:?}");
        String::from_utf8(version.stdout).unwrap().parse().unwrap()
    }

    /// All files, by their name below the folder of the configuration.
    fn files(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let etc = self.dir.path().join("etc");
        let mut pending = vec![etc.clone()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    pending.push(path);
                    continue;
                }
                let name = path.strip_prefix(&etc).unwrap().display().to_string();
                found.insert(name, fs::read_to_string(path).unwrap());
            }
        }
        found
    }
}

/// Versions, each with the configurations that are found with it.
const FOUND: [(&str, &[&str]); 5] = [
    ("1.6", &["config-2.toml", "shown-1.6.toml"]),
    ("1.7", &["config-2.toml", "shown-1.7.toml"]),
    ("2.0", &["config-2.toml", "config-3.toml", "shown-2.0.toml"]),
    ("2.1", &["config-2.toml", "config-3.toml", "shown-2.1.toml"]),
    ("2.4", &["config-3.toml", "config-4.toml", "shown-2.4.toml"]),
];

#[test]
fn each_containerd_takes_what_is_installed_and_gets_back_what_it_had() {
    for (version, names) in FOUND {
        for name in names {
            let told = format!("{version} with {name}");
            let text = testdata(name);
            let scene = Scene::new(version, Some(&text), "none");
            let (files, before) = (scene.files(), scene.shown());
            let dry = scene.node(&["install", "--dry-run"]).ok();
            assert!(dry.contains("tranship"), "{told}: {dry}");
            assert_eq!(scene.files(), files, "{told}");

            scene.node(&["install", "--socket", "/run/a.sock"]).ok();
            let now = scene.files();
            assert_eq!(now["config.toml.before-tranship"], text, "{told}");
            for remark in text.lines().filter_map(|line| line.split_once('#')) {
                assert!(now["config.toml"].contains(remark.1), "{told}: {remark:?}");
            }
            let status = scene.status();
            assert_eq!(status["program"], version, "{told}");
            assert_eq!(status["socket"], "/run/a.sock", "{told}");
            assert_eq!(status["for_all"], true, "{told}");
            let again = scene.node(&["install", "--socket", "/run/a.sock"]).ok();
            assert_eq!((again.as_str(), scene.files()), ("", now), "{told}");

            scene.node(&["uninstall"]).ok();
            let mut left = scene.files();
            let kept = left.remove("config.toml.before-tranship");
            assert_eq!((left, kept), (files, Some(text)), "{told}");
            assert_eq!(scene.shown(), before, "{told}");
        }
    }
}

#[test]
fn what_a_containerd_refuses_is_not_left_behind() {
    for (version, names) in FOUND {
        // In the trial, and after that in its place.
        for refused in ["*.trial-*", "*/config.toml"] {
            let text = testdata(names[0]);
            let scene = Scene::new(version, Some(&text), refused);
            let files = scene.files();
            let ran = scene.node(&["install"]);
            assert_eq!(ran.code, 1, "{version}: {}", ran.stderr);
            assert!(ran.stderr.contains("too new"), "{version}: {}", ran.stderr);
            let mut left = scene.files();
            left.remove("config.toml.before-tranship");
            assert_eq!(left, files, "{version} refuses {refused}");
        }
    }
}

#[test]
fn pods_of_a_runtime_class_alone_are_for_those_that_can() {
    for (version, names) in FOUND {
        let scene = Scene::new(version, Some(&testdata(names[0])), "none");
        let files = scene.files();
        let ran = scene.node(&["install", "--runtime-class", "lazy"]);
        if version == "1.6" {
            assert_eq!((ran.code, scene.files()), (8, files), "{}", ran.stderr);
            continue;
        }
        ran.ok();
        let status = scene.status();
        assert_eq!(status["for_all"], false, "{version}");
        assert_eq!(status["handlers"], serde_json::json!(["lazy"]), "{version}");
        let section = if version == "1.7" { CRI } else { RUNTIME };
        let runtime = &scene.shown()["plugins"][section]["containerd"]["runtimes"]["lazy"];
        // As the usual one, whose options an operator has set.
        assert_eq!(
            runtime["options"]["SystemdCgroup"].as_bool(),
            Some(true),
            "{version}"
        );
    }
}

#[test]
fn a_containerd_that_pulls_the_old_way_is_told_the_old_way() {
    let text = testdata("config-3.toml");
    let key = "  snapshotter = 'native'";
    for (setting, is_old) in [
        ("use_local_image_pull = true", true),
        ("max_concurrent_downloads = 10", true),
        ("max_concurrent_downloads = 3", false),
    ] {
        let text = text.replace(key, &format!("  {setting}\n{key}"));
        let scene = Scene::new("2.1", Some(&text), "none");
        scene.node(&["install"]).ok();
        let images = &scene.shown()["plugins"][IMAGES];
        let is_disabled = images["disable_snapshot_annotations"].as_bool();
        assert_eq!(is_disabled, Some(!is_old), "{setting}");
    }
}
