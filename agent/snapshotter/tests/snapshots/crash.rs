//! `kill -9` in the middle of calls: what was acknowledged is there, nothing else is half there, and numbers are never given twice.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use tranship_snapshotter::{SnapshotError, Snapshotter};

use crate::fake::{Fake, folders, listed, plain};

/// Names the folder of the one that is killed.
const CHILD: &str = "TRANSHIP_SNAPSHOTS_TO_BE_KILLED";

/// The one that is killed: a test so that its program is this one; without the variable it has nothing to do.
#[tokio::test]
async fn makes_and_removes_until_it_is_killed() {
    let Some(root) = env::var_os(CHILD) else {
        return;
    };
    let snapshotter = Snapshotter::open(Path::new(&root), Fake::new()).unwrap();
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}").unwrap();
        out.flush().unwrap();
    };
    let taken = listed(&snapshotter)
        .await
        .last()
        .copied()
        .unwrap_or_default();
    for number in taken + 1.. {
        let (key, name) = (format!("k-{number}"), format!("n-{number}"));
        snapshotter.prepare(plain(&key, "")).await.unwrap();
        say(format!("made {key}"));
        say(format!("going {key}"));
        snapshotter
            .commit(&key, &name, "", [].into())
            .await
            .unwrap();
        say(format!("made {name}"));
        if number % 3 == 0 {
            say(format!("going {name}"));
            snapshotter.remove(&name).await.unwrap();
            say(format!("gone {name}"));
        }
        if number % 7 == 0 {
            snapshotter.clean_up().await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    // Whether each name is there for certain, gone for certain, or was about to go.
    let mut said: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..6 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "crash::makes_and_removes_until_it_is_killed",
                "--nocapture",
            ])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut left = 11 + round * 7;
        while left > 0 {
            let line = lines.next().unwrap().unwrap();
            if let Some((word, name)) = line.split_once(' ')
                && ["made", "going", "gone"].contains(&word)
            {
                said.insert(name.to_owned(), word.to_owned());
                left -= 1;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some((word, name)) = line.split_once(' ') {
                said.insert(name.to_owned(), word.to_owned());
            }
        }
        check(dir.path(), &said).await;
    }
}

async fn check(root: &Path, said: &BTreeMap<String, String>) {
    let snapshotter = Snapshotter::open(root, Fake::new()).unwrap();
    assert_eq!(snapshotter.quarantined(), [], "no row without its folder");
    for (name, word) in said {
        match (word.as_str(), snapshotter.stat(name).await) {
            ("made", Ok(_))
            | ("gone", Err(SnapshotError::NotFound { .. }))
            | ("going", Ok(_) | Err(SnapshotError::NotFound { .. })) => {}
            (word, found) => panic!("{name} was {word}, and is now {found:?}"),
        }
    }
    let rows = listed(&snapshotter).await;
    let missing: BTreeSet<u64> = rows.difference(&folders(root)).copied().collect();
    assert!(missing.is_empty(), "{missing:?}");
    snapshotter.clean_up().await.unwrap();
    assert_eq!(folders(root), rows);
}
