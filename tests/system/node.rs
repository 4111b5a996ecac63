//! `tranship node` with Debian's containerd, whose configuration lies in a scratch folder; and `tranship doctor` beside an agent.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use tranship_tests::command::tranship_output;
use tranship_tests::{AgentOptions, Cluster, need_tools, run, tranship};

const CONFIG: &str = r#"# By hand.
version = 2

[plugins."io.containerd.grpc.v1.cri"]
  # Keep in step with the kubelet.
  sandbox_image = "registry.example/pause:3.9"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native" # for a reason
"#;

/// A configuration of its own.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new(text: &str) -> Self {
        need_tools(&["containerd"]);
        let folder = tempfile::tempdir().expect("a scratch folder");
        fs::write(folder.path().join("config.toml"), text).expect("a configuration");
        Self { folder }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.config()).expect("the configuration")
    }

    fn node<'a>(config: &'a str, args: &[&'a str]) -> Vec<&'a str> {
        [&["node"], args, &["--config", config]].concat()
    }

    fn run(&self, args: &[&str]) -> String {
        let config = self.config().display().to_string();
        tranship(&Self::node(&config, args))
    }

    fn try_run(&self, args: &[&str]) -> (i32, String, String) {
        let config = self.config().display().to_string();
        tranship_output(&Self::node(&config, args))
    }

    fn shown(&self) -> String {
        let config = self.config().display().to_string();
        run("containerd", &["--config", &config, "config", "dump"])
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).expect("the folder");
        let mut names: Vec<String> = entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }
}

#[test]
fn containerd_takes_what_is_installed_and_gets_back_what_it_had() {
    let scene = Scene::new(CONFIG);
    let before = scene.shown();
    let dry = scene.run(&["install", "--dry-run"]);
    assert!(dry.contains("+    snapshotter = \"tranship\""), "{dry}");
    assert_eq!((scene.text(), scene.files().len()), (CONFIG.to_owned(), 1));

    scene.run(&["install", "--socket", "/run/a.sock"]);
    let after = scene.shown();
    for line in [
        "snapshotter = \"tranship\"",
        "disable_snapshot_annotations = false",
        "[proxy_plugins.tranship]",
        "address = \"/run/a.sock\"",
        "sandbox_image = \"registry.example/pause:3.9\"",
    ] {
        assert!(after.contains(line), "{line}\n{after}");
    }
    for remark in [
        "# By hand.",
        "# Keep in step with the kubelet.",
        "# for a reason",
    ] {
        assert!(scene.text().contains(remark), "{remark}\n{}", scene.text());
    }
    assert_eq!(
        scene.files(),
        ["config.toml", "config.toml.before-tranship"]
    );
    let status = scene.run(&["status", "--output", "json", "--address", "/nonexistent"]);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["for_all"], true);
    assert_eq!(status["socket"], "/run/a.sock");
    assert_eq!(status["program"], "1.6");
    assert_eq!(status["known"], Value::Null);

    let again = scene.text();
    scene.run(&["install", "--socket", "/run/a.sock"]);
    assert_eq!(scene.text(), again);
    // Another socket: what stood there before the first time still counts.
    scene.run(&["install", "--socket", "/run/b.sock"]);
    scene.run(&["uninstall"]);
    assert_eq!(scene.text(), CONFIG);
    assert_eq!(scene.shown(), before);
}

#[test]
fn the_default_configuration_can_be_installed_into_and_one_that_is_not_there() {
    let default = run("containerd", &["config", "default"]);
    let scene = Scene::new(&default);
    scene.run(&["install"]);
    assert!(scene.shown().contains("snapshotter = \"tranship\""));
    scene.run(&["uninstall"]);
    assert_eq!(scene.text(), default);

    let scene = Scene::new("");
    fs::remove_file(scene.config()).expect("it was there");
    scene.run(&["install"]);
    assert!(scene.shown().contains("snapshotter = \"tranship\""));
    scene.run(&["uninstall"]);
    assert_eq!(scene.text(), "version = 2\n");
}

#[test]
fn a_configuration_that_containerd_does_not_take_is_not_written() {
    // What a newer containerd refuses, played by one that refuses it either in the trial or in its place.
    for refused in ["*.trial-*", "*config.toml"] {
        let scene = Scene::new(CONFIG);
        let program = scene.folder.path().join("picky");
        let script = format!(
            "#!/bin/sh\ncase \"$2\" in\n{refused}) grep -q tranship \"$2\" && {{ echo too new >&2; exit 1; }};;\nesac\nexec containerd \"$@\"\n"
        );
        fs::write(&program, script).expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode");
        let program = program.display().to_string();
        let (code, _, told) = scene.try_run(&["install", "--containerd", &program]);
        assert_eq!(code, 1, "{told}");
        assert!(told.contains("too new"), "{told}");
        assert_eq!(scene.text(), CONFIG);
        let left = scene
            .files()
            .into_iter()
            .filter(|name| name.contains("trial") || name.contains("new-"));
        assert_eq!(left.count(), 0);
    }
}

#[test]
fn what_this_containerd_cannot_do_is_said() {
    let scene = Scene::new(CONFIG);
    let (code, _, told) = scene.try_run(&["install", "--runtime-class", "lazy"]);
    assert_eq!(code, 8, "{told}");
    assert!(told.contains("one snapshotter for all pods"), "{told}");
    let (code, _, told) = scene.try_run(&["install", "--containerd", "/nonexistent"]);
    assert_eq!(code, 4, "{told}");
    assert_eq!(scene.text(), CONFIG);
}

fn states(report: &Value, area: &str, part: &str) -> Vec<String> {
    let findings = report["findings"].as_array().expect("findings");
    let fitting = findings.iter().filter(|finding| {
        finding["area"] == area
            && finding["what"]
                .as_str()
                .is_some_and(|what| what.contains(part))
    });
    fitting
        .map(|finding| finding["state"].as_str().expect("a state").to_owned())
        .collect()
}

fn doctor(args: &[&str]) -> (i32, Value) {
    let (code, printed, told) = tranship_output(&[&["doctor", "--output", "json"], args].concat());
    let report = serde_json::from_str(&printed);
    (
        code,
        report.unwrap_or_else(|error| panic!("{error}: {printed} {told}")),
    )
}

#[test]
fn the_doctor_sees_what_is_right_and_what_is_wrong() {
    let scene = Scene::new(CONFIG);
    let mut cluster = Cluster::empty();
    let socket = cluster.folder().join("snapshotter.sock");
    let agent = cluster.start_agent(&AgentOptions {
        extra: format!(
            "\n[snapshotter]\nsocket = \"{}\"\nroot = \"{}\"\n",
            socket.display(),
            cluster.folder().join("snapshots").display()
        ),
        ..AgentOptions::default()
    });
    let (control, config) = (
        cluster.agents[agent].socket(),
        scene.config().display().to_string(),
    );
    let look = [
        "--agent",
        &control,
        "--config",
        &config,
        "--address",
        "/nonexistent",
    ];
    let (_, report) = doctor(&look);
    assert_eq!(
        states(&report, "containerd", "does not name the snapshotter"),
        ["odd"]
    );
    assert_eq!(states(&report, "kernel", "has overlayfs"), ["good"]);
    assert_eq!(states(&report, "kernel", "fuse-loop works"), ["good"]);
    assert_eq!(states(&report, "agent", "answers"), ["good"]);
    assert_eq!(states(&report, "agent", "left over"), ["good"]);
    assert_eq!(states(&report, "containerd", "cannot be asked"), ["unseen"]);

    scene.run(&["install", "--socket", &socket.display().to_string()]);
    let (code, report) = doctor(&look);
    assert_eq!(code, 7, "{report}");
    for right in ["somebody answers", "all pods use", "tells the snapshotter"] {
        assert_eq!(states(&report, "containerd", right), ["good"], "{report}");
    }

    cluster.agents[agent].kill();
    let (code, report) = doctor(&[&look[..], &["nonexistent.invalid/app:v1"]].concat());
    assert_eq!(code, 1, "{report}");
    assert_eq!(report["state"], "bad");
    assert_eq!(states(&report, "agent", "does not answer"), ["bad"]);
    assert_eq!(states(&report, "containerd", "nobody answers"), ["bad"]);
    assert_eq!(states(&report, "registry", "nonexistent.invalid"), ["bad"]);
    assert!(Path::new(&config).exists());
}
