//! `tranship-agent config check`.

use std::fs;
use std::process::{Command, Output};

fn check(text: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    fs::write(&path, text).unwrap();
    // What the tests' own environment says (TRANSHIP_VECTORS) is no setting.
    Command::new(env!("CARGO_BIN_EXE_tranship-agent"))
        .env_clear()
        .args(["config", "check", "--config"])
        .arg(path)
        .output()
        .unwrap()
}

#[test]
fn good_settings_pass_in_silence() {
    let output = check("[store]\nquota = \"1GiB\"\n");
    assert!(output.status.success());
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
}

#[test]
fn wrong_and_unknown_settings_are_named() {
    for (text, named) in [
        ("[store]\nquotta = \"1GiB\"\n", "store.quotta"),
        ("[store]\nquota = \"lots\"\n", "lots"),
        ("[swarm]\nlisten = \"nowhere\"\n", "swarm.listen"),
        ("state_dir = ", "agent.toml"),
    ] {
        let output = check(text);
        assert!(!output.status.success(), "{text}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(named), "{said}");
    }
}
