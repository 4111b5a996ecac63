//! House rules that the compiler cannot hold: who may know whom, how long a file may grow, what each file opens
//! with, which names say nothing, and that documents and code agree.

#![expect(
    clippy::expect_used,
    reason = "a check that cannot read its own tree should stop"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest file, in lines, tests and all.
const MOST_LINES: usize = 500;

/// Nine files in ten stay below this many production lines.
const USUAL_LINES: usize = 350;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] = [
    "utils", "util", "common", "helpers", "misc", "types", "manager", "mod",
];

/// Who may depend on whom: a crate may use only what stands on its line.
const FLOORS: [(&str, &[&str]); 14] = [
    ("format", &[]),
    ("agent/store", &["format"]),
    ("agent/swarm", &["format"]),
    ("agent/source", &["format", "store", "swarm"]),
    ("agent/device", &[]),
    ("agent/containerd", &[]),
    ("agent/snapshotter", &["containerd"]),
    (
        "agent",
        &[
            "containerd",
            "device",
            "format",
            "snapshotter",
            "source",
            "store",
            "swarm",
        ],
    ),
    ("tracker", &["device", "format", "source", "store", "swarm"]),
    ("tools/simulate", &["format", "swarm"]),
    (
        "tools",
        &[
            "agent",
            "containerd",
            "device",
            "format",
            "simulate",
            "source",
            "store",
            "swarm",
            "tracker",
        ],
    ),
    (
        "benches",
        &[
            "agent", "device", "format", "simulate", "source", "store", "swarm", "tests", "tools",
            "tracker",
        ],
    ),
    (
        "tests",
        &[
            "agent",
            "containerd",
            "device",
            "format",
            "source",
            "store",
            "swarm",
            "tracker",
        ],
    ),
    // A workspace of its own: everything in it is compiled with coverage counters.
    ("tests/fuzz", &["device", "format"]),
];

/// The only crate that may say `unsafe`.
const UNSAFE_FLOOR: &str = "agent/device";

/// What may stand at the top level.
const TOP: [&str; 26] = [
    ".cargo",
    ".ci",
    ".config",
    ".git",
    ".gitattributes",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "agent",
    "benches",
    "clippy.toml",
    "deny.toml",
    "deploy",
    "docs",
    "format",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "target",
    "tests",
    "tools",
    "tracker",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files_below(dir: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a readable folder").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != ".git" {
            files_below(&path, ending, found);
        } else if path.extension().is_some_and(|found| found == ending) {
            found.push(path);
        }
    }
}

fn rust_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for dir in ["format", "agent", "tracker", "tools", "benches", "tests"] {
        files_below(&root().join(dir), "rs", &mut files);
    }
    files.sort();
    files
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).expect("a text file")
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}

/// The part of a file before its tests.
fn production(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text)
}

/// Whether a file is only ever compiled for tests.
fn is_test(path: &Path) -> bool {
    let shown = shown(path);
    shown.starts_with("tests/")
        || shown.starts_with("benches/")
        || shown.contains("/tests/")
        || shown.contains("/fuzz/")
        || shown.ends_with("/tests.rs")
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut faults = Vec::new();
    let (mut files, mut long) = (0, Vec::new());
    for path in rust_files() {
        let body = text(&path);
        let stem = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        if EMPTY_NAMES.contains(&stem) {
            faults.push(format!("{}: the name `{stem}` says nothing", shown(&path)));
        }
        if !body.starts_with("//!") {
            faults.push(format!("{}: opens without a `//!` sentence", shown(&path)));
        }
        let lines = body.lines().count();
        if lines > MOST_LINES {
            faults.push(format!(
                "{}: {lines} lines, at most {MOST_LINES}",
                shown(&path)
            ));
        }
        if is_test(&path) {
            continue;
        }
        let lines = production(&body).lines().count();
        files += 1;
        if lines > USUAL_LINES {
            long.push(format!("{} ({lines})", shown(&path)));
        }
    }
    if long.len() * 10 > files {
        faults.push(format!(
            "{} of {files} files are over {USUAL_LINES} lines, more than one in ten: {}",
            long.len(),
            long.join(", ")
        ));
    }
    report(&faults);
}

#[test]
fn floors_only_look_down() {
    let mut faults = Vec::new();
    for (dir, allowed) in FLOORS {
        let manifest = text(&root().join(dir).join("Cargo.toml"));
        let dependencies = manifest
            .split("[dependencies]")
            .nth(1)
            .unwrap_or_default()
            .split("\n[")
            .next()
            .unwrap_or_default();
        for line in dependencies.lines() {
            let Some(name) = line
                .strip_prefix("tranship-")
                .and_then(|rest| rest.split(['.', ' ', '=']).next())
            else {
                continue;
            };
            if !allowed.contains(&name) {
                faults.push(format!("{dir} may not depend on {name}"));
            }
        }
    }
    report(&faults);
}

#[test]
fn every_member_stands_on_a_floor_and_inherits_the_lints() {
    let manifest = text(&root().join("Cargo.toml"));
    let mut faults = Vec::new();
    for line in manifest.lines() {
        let Some(member) = line
            .trim()
            .strip_prefix('"')
            .and_then(|line| line.strip_suffix("\","))
        else {
            continue;
        };
        if !FLOORS.iter().any(|(dir, _)| *dir == member) {
            faults.push(format!("{member} has no line in FLOORS"));
            continue;
        }
        let own = text(&root().join(member).join("Cargo.toml"));
        if !own.contains("[lints]\nworkspace = true") {
            faults.push(format!("{member} does not inherit the workspace's lints"));
        }
    }
    report(&faults);
}

#[test]
fn unsafe_stays_in_the_device_crate() {
    let mut faults = Vec::new();
    for path in rust_files() {
        if shown(&path).starts_with(UNSAFE_FLOOR) || shown(&path) == "tests/tidy.rs" {
            continue;
        }
        for (number, line) in text(&path).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains("unsafe {")
                || code.contains("unsafe fn")
                || code.contains("unsafe impl")
            {
                faults.push(format!("{}:{}: unsafe", shown(&path), number + 1));
            }
        }
    }
    report(&faults);
}

#[test]
fn the_top_level_is_fixed() {
    let mut faults = Vec::new();
    for entry in fs::read_dir(root()).expect("the repository").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !TOP.contains(&name.as_str()) {
            faults.push(format!("{name} has no place at the top level"));
        }
    }
    report(&faults);
}

#[test]
fn each_dependency_has_its_reason() {
    let manifest = text(&root().join("Cargo.toml"));
    let section = manifest
        .split("[workspace.dependencies]")
        .nth(1)
        .unwrap_or_default()
        .split("\n[")
        .next()
        .unwrap_or_default();
    let mut faults = Vec::new();
    let mut reason = "";
    for line in section.lines().filter(|line| !line.is_empty()) {
        if line.starts_with('#') {
            reason = line;
        } else if !line.starts_with("tranship-") && reason.is_empty() {
            faults.push(format!("no reason above `{line}`"));
        }
    }
    report(&faults);
}

#[test]
fn every_system_test_is_run() {
    let dir = root().join("tests/system");
    let main = text(&dir.join("main.rs"));
    let mut faults = Vec::new();
    for entry in fs::read_dir(&dir).expect("tests/system").flatten() {
        let path = entry.path();
        let stem = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        if stem != "main" && !main.contains(&format!("mod {stem};")) {
            faults.push(format!("tests/system/{stem}.rs is never run"));
        }
    }
    report(&faults);
}

#[test]
fn every_fuzz_target_is_built_and_has_inputs() {
    let dir = root().join("tests/fuzz");
    let manifest = text(&dir.join("Cargo.toml"));
    let names = |dir: &str| {
        let entries = fs::read_dir(root().join("tests/fuzz").join(dir)).expect("tests/fuzz");
        let names = entries.flatten().map(|entry| entry.path());
        let names = names.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
        names.collect::<BTreeSet<String>>()
    };
    let mut faults = Vec::new();
    for target in names("targets") {
        if !manifest.contains(&format!("path = \"targets/{target}.rs\"")) {
            faults.push(format!("tests/fuzz/targets/{target}.rs is never built"));
        }
        let corpus = dir.join("corpus").join(&target);
        if !fs::read_dir(&corpus).is_ok_and(|mut inputs| inputs.next().is_some()) {
            faults.push(format!("{} holds no input", shown(&corpus)));
        }
    }
    for corpus in names("corpus").difference(&names("targets")) {
        faults.push(format!("tests/fuzz/corpus/{corpus} has no target"));
    }
    report(&faults);
}

#[test]
fn every_message_of_the_protocol_has_a_fuzz_target_of_its_own() {
    let protocol = text(&root().join("docs/protocol.md"));
    // The tables of messages alone give a type in a cell of its own.
    let rows = protocol.lines().filter(|line| line.starts_with('|'));
    let cells = rows.flat_map(|line| line.split('|').map(str::trim));
    let types = cells.filter_map(|cell| cell.strip_prefix("`0x")?.strip_suffix('`'));
    let types: BTreeSet<String> = types.map(str::to_owned).collect();
    assert!(types.len() > 20, "docs/protocol.md lists {types:?}");
    let dir = root().join("tests/fuzz/corpus/wire_message");
    let without = types
        .iter()
        .filter(|kind| !dir.join(kind).join("seed").is_file());
    let faults: Vec<String> = without
        .map(|kind| format!("{} holds no seed", shown(&dir.join(kind))))
        .collect();
    report(&faults);
}

#[test]
fn no_test_is_left_out_and_nothing_is_left_open() {
    let open = [
        "#[ignore",
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    let mut faults = Vec::new();
    for path in rust_files() {
        if shown(&path) == "tests/tidy.rs" {
            continue;
        }
        for (number, line) in text(&path).lines().enumerate() {
            if open.iter().any(|word| line.contains(word)) {
                faults.push(format!("{}:{}: {}", shown(&path), number + 1, line.trim()));
            }
        }
    }
    report(&faults);
}

/// Each name in quotes that begins like one of our metrics, in production code.
fn metrics_in_code() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in rust_files().iter().filter(|path| !is_test(path)) {
        for piece in production(&text(path)).split('"').skip(1).step_by(2) {
            let is_name = piece
                .chars()
                .all(|letter| letter.is_ascii_lowercase() || letter == '_');
            if is_name && piece.starts_with("tranship_") && piece.len() > 12 {
                names.insert(piece.to_owned());
            }
        }
    }
    names
}

#[test]
fn every_metric_is_in_the_operators_table() {
    let table = text(&root().join("docs/operations.md"));
    let faults: Vec<String> = metrics_in_code()
        .into_iter()
        .filter(|name| !table.contains(&format!("`{name}")))
        .map(|name| format!("{name} is not in docs/operations.md"))
        .collect();
    report(&faults);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut documents = Vec::new();
    files_below(&root(), "md", &mut documents);
    let mut faults = Vec::new();
    for path in documents {
        for link in text(&path).split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let place = path.parent().unwrap_or(&path).join(target);
            if !place.exists() {
                faults.push(format!("{}: {target} is not there", shown(&path)));
            }
        }
    }
    report(&faults);
}
