//! Running commands: ours from the folder that cargo built them into, others from the distribution.
//!
//! A failed command prints what it said, since that is the first thing that a reader of a red run wants.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output};

/// The folder of the binaries under test: `TRANSHIP_BIN_DIR`, else the profile folder of this test.
pub fn binary_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("TRANSHIP_BIN_DIR") {
        return PathBuf::from(dir);
    }
    let own = std::env::current_exe().expect("the path of this program");
    let dir = own.parent().expect("the folder of this program");
    // Tests lie in target/<profile>/deps, programs beside it.
    let profile = dir.parent().filter(|_| dir.ends_with("deps"));
    profile.unwrap_or(dir).to_path_buf()
}

/// One of our binaries; stops the test with the command that builds it where it is not there.
pub fn binary(name: &str) -> PathBuf {
    let path = binary_dir().join(name);
    assert!(
        path.exists(),
        "{} is not built: run `cargo build --workspace` first",
        path.display()
    );
    path
}

/// Stops the test with one clear sentence where a tool of the distribution is missing.
pub fn need_tools(names: &[&str]) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| {
            !std::env::split_paths(&path)
                .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
                .any(|dir| dir.join(name).exists())
        })
        .collect();
    assert!(
        missing.is_empty(),
        "these tests need {}: run tests/run, which installs them",
        missing.join(", ")
    );
}

/// Runs a command to its end and returns what it printed; stops the test where it failed.
pub fn run(program: impl AsRef<OsStr>, args: &[&str]) -> String {
    let output = Command::new(program.as_ref())
        .args(args)
        .output()
        .expect("a command that starts");
    checked(program.as_ref(), args, &output)
}

/// Runs `tranship` to its end; stops the test where it failed.
pub fn tranship(args: &[&str]) -> String {
    run(binary("tranship"), args)
}

/// Runs `tranship` and returns its exit code with both outputs, failed or not.
pub fn tranship_output(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(binary("tranship"))
        .args(args)
        .output()
        .expect("a command that starts");
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn checked(program: &OsStr, args: &[&str], output: &Output) -> String {
    assert!(
        output.status.success(),
        "{} {} failed with {}\n--- stdout\n{}\n--- stderr\n{}",
        program.to_string_lossy(),
        args.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
