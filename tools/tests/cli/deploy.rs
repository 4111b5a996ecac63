//! What `deploy/` and the README tell people to run: documents that parse, settings that are some, files and flags that are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tranship_agent::config::Layers;

use crate::fixture::tranship;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All documents of a manifest.
fn documents(name: &str) -> Vec<Value> {
    let text = text(&format!("deploy/kubernetes/{name}"));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn all() -> Vec<Value> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("deploy/kubernetes")).unwrap() {
        let name = entry.unwrap().file_name();
        found.extend(documents(name.to_str().unwrap()));
    }
    found
}

fn of_kind<'v>(all: &'v [Value], kind: &str) -> Vec<&'v Value> {
    all.iter()
        .filter(|document| document["kind"] == kind)
        .collect()
}

fn config_map(all: &[Value], key: &str) -> String {
    let maps = of_kind(all, "ConfigMap").into_iter();
    let mut texts = maps.filter_map(|map| map["data"][key].as_str());
    texts
        .next()
        .unwrap_or_else(|| panic!("no {key}"))
        .to_owned()
}

/// The same with what stands in comments as examples.
fn uncommented(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let bare = line.trim_start().strip_prefix("# ").unwrap_or(line);
        let is_setting = bare.starts_with('[') || bare.contains(" = ");
        if is_setting {
            bare.to_owned()
        } else {
            String::new()
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn agent_settings(text: &str) -> tranship_agent::config::Config {
    let layers = Layers {
        file: Some((PathBuf::from("agent.toml"), text.to_owned())),
        ..Layers::default()
    };
    let loaded = layers.load().unwrap();
    assert_eq!(loaded.unknown, [""; 0]);
    loaded.config
}

/// Flags that a verb takes.
fn flags(verb: &[&str]) -> BTreeSet<String> {
    let help = tranship(&[verb, &["--help"]].concat()).ok();
    let words = help.split([' ', '\n', ',', '[', ']', '=']);
    let flags = words.filter(|word| word.starts_with("--"));
    flags.map(str::to_owned).collect()
}

#[test]
fn every_object_says_what_it_is_and_none_has_rights() {
    let all = all();
    assert!(all.len() >= 9);
    for document in &all {
        for key in ["apiVersion", "kind"] {
            assert!(document[key].is_string(), "{document}");
        }
        assert!(document["metadata"]["name"].is_string(), "{document}");
    }
    for kind in ["Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"] {
        assert!(
            of_kind(&all, kind).is_empty(),
            "nothing of ours speaks to Kubernetes"
        );
    }
    for kind in ["Deployment", "DaemonSet"] {
        for workload in of_kind(&all, kind) {
            let (spec, pod) = (&workload["spec"], &workload["spec"]["template"]);
            assert_eq!(spec["selector"]["matchLabels"], pod["metadata"]["labels"]);
            assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
            let account = of_kind(&all, "ServiceAccount")[0];
            assert_eq!(
                pod["spec"]["serviceAccountName"],
                account["metadata"]["name"]
            );
            mounts_have_volumes(&all, &pod["spec"]);
        }
    }
}

fn mounts_have_volumes(all: &[Value], pod: &Value) {
    let volumes = pod["volumes"].as_array().unwrap();
    for container in pod["containers"].as_array().unwrap() {
        for mount in container["volumeMounts"].as_array().unwrap() {
            assert!(
                volumes.iter().any(|volume| volume["name"] == mount["name"]),
                "{mount}"
            );
        }
    }
    for volume in volumes {
        for (kind, name) in [
            ("ConfigMap", &volume["configMap"]["name"]),
            (
                "PersistentVolumeClaim",
                &volume["persistentVolumeClaim"]["claimName"],
            ),
        ] {
            let named = of_kind(all, kind)
                .into_iter()
                .any(|one| one["metadata"]["name"] == *name);
            assert!(name.is_null() || named, "{volume}");
        }
    }
}

#[test]
fn settings_are_some_also_those_in_comments() {
    let all = all();
    let agent = config_map(&all, "agent.toml");
    let in_kubernetes = agent_settings(&agent);
    assert!(!in_kubernetes.device.detach_on_stop);
    agent_settings(&uncommented(&agent));
    let shipped = text("deploy/config/agent.toml");
    agent_settings(&shipped);
    let with_examples = agent_settings(&uncommented(&shipped));
    assert_eq!(
        with_examples.snapshotter.socket,
        in_kubernetes.snapshotter.socket
    );
    for text in [
        config_map(&all, "tracker.toml"),
        text("deploy/config/tracker.toml"),
    ] {
        for text in [uncommented(&text), text] {
            let loaded = tranship_tracker::Config::parse(&text).unwrap();
            assert_eq!(loaded.unknown, [""; 0]);
            assert_eq!(loaded.config.listen, "0.0.0.0:9475");
        }
    }
}

#[test]
fn addresses_and_names_agree() {
    let all = all();
    let agent = agent_settings(&config_map(&all, "agent.toml"));
    let socket = agent.snapshotter.socket.unwrap().display().to_string();
    let unit = text("deploy/systemd/tranship-snapshotter.socket");
    assert!(unit.contains(&format!("ListenStream={socket}\n")));
    let help = tranship(&["node", "install", "--help"]).ok();
    assert!(help.contains(&format!("[default: {socket}]")), "{help}");
    let examples = agent_settings(&uncommented(&config_map(&all, "agent.toml")));
    let image = examples.image_service.socket.unwrap().display().to_string();
    assert!(text("README.md").contains(&format!("--image-service-endpoint=unix://{image}")));

    let install = config_map(&all, "install.sh");
    let class = of_kind(&all, "RuntimeClass")[0];
    let handler = class["handler"].as_str().unwrap();
    assert!(install.contains(&format!("node install --runtime-class {handler}\n")));
    for unit in install
        .split_whitespace()
        .filter(|word| word.ends_with(".socket") && word.starts_with("tranship"))
    {
        assert!(root().join("deploy/systemd").join(unit).exists(), "{unit}");
    }
    let ports: Vec<u64> = of_kind(&all, "Service")
        .iter()
        .map(|service| service["spec"]["ports"][0]["port"].as_u64().unwrap())
        .collect();
    assert_eq!(ports, [9475, 9476]);
    let tracker = config_map(&all, "tracker.toml");
    assert!(
        ports
            .iter()
            .all(|port| tracker.contains(&format!("0.0.0.0:{port}")))
    );
    let container = text("deploy/Containerfile");
    for program in [
        "tranship",
        "tranship-agent",
        "tranship-keeper",
        "tranship-device",
    ] {
        assert!(
            container.contains(&format!("target/release/{program} ")),
            "{program}"
        );
        assert!(install.contains(program));
    }
    assert!(container.contains("target/release/tranship-tracker "));
    let images: BTreeSet<_> = ["Deployment", "DaemonSet"]
        .iter()
        .map(|kind| {
            of_kind(&all, kind)[0]["spec"]["template"]["spec"]["containers"][0]["image"].to_string()
        })
        .collect();
    assert_eq!(images.len(), 1);
    assert!(text("README.md").contains(images.first().unwrap().trim_matches('"')));
}

#[test]
fn scripts_are_scripts_and_flags_are_there() {
    let all = all();
    let install = config_map(&all, "install.sh");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("install.sh");
    fs::write(&path, &install).unwrap();
    let checked = std::process::Command::new("sh")
        .arg("-n")
        .arg(&path)
        .status()
        .unwrap();
    assert!(checked.success());
    // Every line that runs the command line, in the README, the documents and the scripts.
    let mut seen = 0;
    for (name, text) in [
        ("README.md", text("README.md")),
        ("docs/operations.md", text("docs/operations.md")),
        ("install.sh", install),
    ] {
        for line in text.lines() {
            // There it names a namespace.
            let line = if line.contains("kubectl") { "" } else { line };
            let Some(at) = line.find("tranship ") else {
                continue;
            };
            let line = line.get(at..).unwrap();
            let command = line.split(['#', '`', '|', ';', '(']).next().unwrap();
            let words: Vec<&str> = command.split_whitespace().skip(1).collect();
            let verb: Vec<&str> = match words.as_slice() {
                [first @ ("node" | "swarm"), second, ..] if !second.contains('|') => {
                    vec![first, second]
                }
                [first, ..] if first.chars().all(|c| c.is_ascii_lowercase()) => vec![first],
                _ => continue,
            };
            if tranship(&[&verb[..], &["--help"]].concat()).code != 0 {
                // Prose about the product, and not a command.
                assert!(
                    !words.iter().any(|word| word.starts_with("--")),
                    "{name}: {line}"
                );
                continue;
            }
            let known = flags(&verb);
            for flag in words.iter().filter(|word| word.starts_with("--")) {
                let flag = flag
                    .split('=')
                    .next()
                    .unwrap()
                    .trim_end_matches([',', '.', ')', ':']);
                assert!(known.contains(flag), "{name}: {flag} of {line}");
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "{seen}");
}
