//! Configurations as they are found with containerd 1.7 and 2.x, planned for and taken back; the one of 1.6 is tried with its own
//! program in the system tests.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::apply::compare;
use super::containerd::{Effective, Version};
use super::plan::{self, Ground, Plan};
use super::settings;
use crate::cli::{NodeArgs, NodeInstallArgs};
use crate::failure::Exit;

/// As Kubernetes' guides have it for 1.7.
const CONFIG_17: &str = r#"# Managed by nobody; edit at will.
version = 2
root = "/var/lib/containerd"

[plugins]
  # Pods.
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "registry.k8s.io/pause:3.9" # keep in step with the kubelet
    [plugins."io.containerd.grpc.v1.cri".containerd]
      default_runtime_name = "runc"
      snapshotter = "overlayfs" # the usual one
      disable_snapshot_annotations = true
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
        runtime_type = "io.containerd.runc.v2"
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
          SystemdCgroup = true
"#;

/// What containerd 1.7 shows of it, as far as it matters.
const SHOWN_17: &str = r#"
version = 2
root = "/var/lib/containerd"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "registry.k8s.io/pause:3.9"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "runc"
snapshotter = "overlayfs"
disable_snapshot_annotations = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
base_runtime_spec = ""
cni_max_conf_num = 0
privileged_without_host_devices = false
runtime_type = "io.containerd.runc.v2"
snapshotter = ""
sandbox_mode = "podsandbox"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = ""
SystemdCgroup = true
"#;

/// What containerd 2.1 shows by default, as far as it matters.
const SHOWN_21: &str = r"
version = 3
root = '/var/lib/containerd'
imports = []
[plugins.'io.containerd.cri.v1.images']
snapshotter = 'overlayfs'
disable_snapshot_annotations = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = 'registry.k8s.io/pause:3.10'
[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = 'runc'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
runtime_path = ''
snapshotter = ''
sandboxer = 'podsandbox'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = ''
SystemdCgroup = true
[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]
platform = 'linux/amd64'
snapshotter = 'overlayfs'
";

fn ground(version: &str, text: Option<&str>, shown: &str) -> (tempfile::TempDir, Ground) {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    if let Some(text) = text {
        std::fs::write(&config, text).unwrap();
    }
    let version = Version::parse(version).unwrap();
    let ground = Ground::read(&config, version, || Ok(Effective::parse(shown).unwrap()));
    (dir, ground.unwrap())
}

fn args(runtime_class: Option<&str>) -> NodeInstallArgs {
    NodeInstallArgs {
        node: NodeArgs {
            containerd: PathBuf::from("containerd"),
            config: PathBuf::from("/etc/containerd/config.toml"),
            snapshotter: "tranship".to_owned(),
        },
        socket: PathBuf::from("/run/tranship/snapshotter.sock"),
        root: PathBuf::from("/var/lib/root"),
        runtime_class: runtime_class.map(str::to_owned),
        dry_run: false,
    }
}

fn planned(ground: &Ground, runtime_class: Option<&str>) -> Plan {
    let settings = settings::wanted(ground, &args(runtime_class)).unwrap();
    plan::install(ground, &settings).unwrap()
}

/// The text of a file after a plan.
fn after<'p>(plan: &'p Plan, path: &Path) -> &'p str {
    let change = plan.changes.iter().find(|change| change.path == path);
    change.unwrap().after.as_deref().unwrap()
}

/// What containerd shows once `text` lies over what it showed.
fn over(shown: &str, text: &str) -> Effective {
    fn merge(to: &mut Table, from: Table) {
        for (key, value) in from {
            match (to.get_mut(&key), value) {
                (Some(Value::Table(to)), Value::Table(from)) => merge(to, from),
                (_, value) => {
                    to.insert(key, value);
                }
            }
        }
    }
    let mut all: Table = shown.parse().unwrap();
    merge(&mut all, text.parse().unwrap());
    Effective::parse(&all.to_string()).unwrap()
}

/// The same ground after a plan, and what is planned to take it back.
fn taken_back(dir: &Path, version: Version, plan: &Plan, shown: &str) -> Plan {
    for change in &plan.changes {
        std::fs::create_dir_all(change.path.parent().unwrap()).unwrap();
        std::fs::write(&change.path, change.after.as_ref().unwrap()).unwrap();
    }
    let config = dir.join("config.toml");
    let ground = Ground::read(&config, version, || Ok(Effective::parse(shown).unwrap()));
    plan::uninstall(&ground.unwrap()).unwrap()
}

#[test]
fn the_file_of_1_7_is_edited_with_all_else_kept_and_taken_back() {
    let (dir, ground) = ground("1.7.27", Some(CONFIG_17), SHOWN_17);
    let plan = planned(&ground, None);
    let text = after(&plan, &ground.config);
    for kept in CONFIG_17.lines().filter(|line| line.contains('#')) {
        let kept = kept.split('#').nth(1).unwrap();
        assert!(text.contains(kept), "{kept}\n{text}");
    }
    compare(&ground.effective, &over(SHOWN_17, text), &plan.settings).unwrap();
    let shown = over(SHOWN_17, text);
    let root = shown.text(&["proxy_plugins", "tranship", "exports", "root"]);
    assert_eq!(root, Some("/var/lib/root"));
    let back = taken_back(dir.path(), ground.version, &plan, SHOWN_17);
    assert_eq!(after(&back, &ground.config), CONFIG_17);
    // A second time there is nothing to do.
    let again = Ground::read(&ground.config, ground.version, || {
        Ok(ground.effective.clone())
    });
    assert!(planned(&again.unwrap(), None).changes.is_empty());
}

#[test]
fn what_others_edited_since_stays_edited() {
    let (dir, ground) = ground("1.7.27", Some(CONFIG_17), SHOWN_17);
    let plan = planned(&ground, None);
    let text = after(&plan, &ground.config);
    let edited = text.replace("pause:3.9", "pause:3.10") + "\n[debug]\nlevel = \"debug\"\n";
    std::fs::write(&ground.config, edited).unwrap();
    let now = Ground::read(&ground.config, ground.version, || {
        Ok(ground.effective.clone())
    });
    let back = plan::uninstall(&now.unwrap()).unwrap();
    let expected = CONFIG_17.replace("pause:3.9", "pause:3.10") + "\n[debug]\nlevel = \"debug\"\n";
    let text = after(&back, &dir.path().join("config.toml"));
    // Where a table of ours stood an empty line may be left.
    let lines = |text: &str| {
        text.lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(lines(text), lines(&expected));
}

#[test]
fn a_runtime_of_ours_is_as_the_default_one() {
    let (_dir, ground) = ground("1.7.27", Some(CONFIG_17), SHOWN_17);
    let plan = planned(&ground, Some("lazy"));
    let shown = over(SHOWN_17, after(&plan, &ground.config));
    let runtimes = [
        "plugins",
        "io.containerd.grpc.v1.cri",
        "containerd",
        "runtimes",
        "lazy",
    ];
    let runtime = shown.get(&runtimes).unwrap().as_table().unwrap();
    assert_eq!(
        runtime["runtime_type"].as_str(),
        Some("io.containerd.runc.v2")
    );
    assert_eq!(runtime["snapshotter"].as_str(), Some("tranship"));
    assert_eq!(runtime["options"]["SystemdCgroup"].as_bool(), Some(true));
    let all = [
        "plugins",
        "io.containerd.grpc.v1.cri",
        "containerd",
        "snapshotter",
    ];
    assert_eq!(shown.text(&all), Some("overlayfs"));
}

#[test]
fn containerd_2_gets_a_file_of_its_own() {
    for (version, has_unpacker) in [("v2.0.5", false), ("v2.1.3", true), ("v2.4.0-beta.0", true)] {
        let (dir, ground) = ground(version, None, SHOWN_21);
        let plan = planned(&ground, None);
        let ours = after(&plan, &ground.drop_in_path());
        let shown = over(SHOWN_21, ours);
        compare(&ground.effective, &shown, &plan.settings).unwrap();
        let images = ["plugins", "io.containerd.cri.v1.images"];
        let of_images = |key| shown.get(&[images[0], images[1], key]).unwrap().to_string();
        assert_eq!(of_images("snapshotter"), "\"tranship\"");
        assert_eq!(
            of_images("disable_snapshot_annotations"),
            has_unpacker.to_string()
        );
        assert_eq!(ours.contains("unpack_config"), has_unpacker);
        assert_eq!(
            ours.contains("enable_remote_snapshot_annotations"),
            has_unpacker
        );
        let main = after(&plan, &ground.config);
        let imported = ground.drop_in_path().display().to_string();
        assert_eq!(
            main,
            format!("version = 3\nimports = [\"{imported}\"] # set by tranship\n")
        );
        let back = taken_back(dir.path(), ground.version, &plan, SHOWN_21);
        assert!(
            back.changes
                .iter()
                .any(|change| change.path == ground.drop_in_path() && change.after.is_none())
        );
        assert_eq!(after(&back, &ground.config), "version = 3\n");
    }
}

#[test]
fn a_folder_that_is_imported_already_needs_no_second_import() {
    let text = "version = 3\nimports = [\"conf.d/*.toml\"]\n";
    let (_dir, ground) = ground("v2.2.0", Some(text), SHOWN_21);
    let plan = planned(&ground, Some("lazy"));
    assert_eq!(plan.changes.len(), 1);
    let ours = over(SHOWN_21, after(&plan, &ground.drop_in_path()));
    let platforms = [
        "plugins",
        "io.containerd.cri.v1.images",
        "runtime_platforms",
        "lazy",
        "snapshotter",
    ];
    assert_eq!(ours.text(&platforms), Some("tranship"));
    compare(&ground.effective, &ours, &plan.settings).unwrap();
}

#[test]
fn a_file_of_version_2_keeps_its_names_under_containerd_2() {
    let (_dir, ground) = ground("v2.1.3", Some(CONFIG_17), SHOWN_21);
    let plan = planned(&ground, None);
    let ours: Table = after(&plan, &ground.drop_in_path()).parse().unwrap();
    assert_eq!(ours["version"].as_integer(), Some(2));
    let cri = &ours["plugins"]["io.containerd.grpc.v1.cri"]["containerd"];
    assert_eq!(cri["snapshotter"].as_str(), Some("tranship"));
    let shown = &plan
        .settings
        .iter()
        .find(|setting| setting.path.ends_with(&["snapshotter".to_owned()]))
        .unwrap()
        .shown;
    assert_eq!(
        shown.join("/"),
        "plugins/io.containerd.cri.v1.images/snapshotter"
    );
}

#[test]
fn what_cannot_be_is_refused() {
    let (_dir, old) = ground("1.6.20", Some("version = 2\n"), SHOWN_17);
    let refused = settings::wanted(&old, &args(Some("lazy"))).unwrap_err();
    assert_eq!(refused.exit, Exit::Unsupported);
    let version = |text: &str| Version::parse(text).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.toml");
    for (number, text, exit) in [
        ("1.5.9", "version = 2\n", Exit::Unsupported),
        ("1.6.20", "root = \"/x\"\n", Exit::Unsupported),
        ("1.7.1", "version = 3\n", Exit::Unsupported),
        ("1.7.1", "version = \n", Exit::Usage),
    ] {
        std::fs::write(&config, text).unwrap();
        let read = Ground::read(&config, version(number), || Ok(Effective::default()));
        assert_eq!(read.unwrap_err().exit, exit, "{number} {text}");
    }
    std::fs::write(&config, "version = 2\nplugins = 1\n").unwrap();
    let odd = Ground::read(&config, version("1.7.1"), || Ok(Effective::default())).unwrap();
    let settings = settings::wanted(&odd, &args(None)).unwrap();
    assert_eq!(
        plan::install(&odd, &settings).unwrap_err().exit,
        Exit::Usage
    );
}

#[test]
fn a_change_of_anything_else_is_found_out() {
    let (_dir, ground) = ground("v2.1.3", None, SHOWN_21);
    let plan = planned(&ground, None);
    let ours = after(&plan, &ground.drop_in_path());
    let stray = over(SHOWN_21, &format!("{ours}\n[debug]\nlevel = 'trace'\n"));
    let told = compare(&ground.effective, &stray, &plan.settings).unwrap_err();
    assert!(told.reason().contains("debug.level would change"), "{told}");
    let without = Effective::parse(SHOWN_21).unwrap();
    let told = compare(&ground.effective, &without, &plan.settings).unwrap_err();
    assert!(told.reason().contains("not there"), "{told}");
}
