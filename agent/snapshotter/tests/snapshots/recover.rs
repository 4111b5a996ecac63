//! What is left of a node: lost databases, damaged ones, folders that are gone.

use std::fs;
use std::path::Path;

use tranship_snapshotter::{Snapshot, SnapshotError, Snapshotter};

use crate::fake::{Fake, LAZY, folders, listed, plain, unpacking};

/// A lazy layer, an unpacked one on it, and a container on that; and one that was removed, and not yet cleaned up.
async fn furnish(root: &Path) -> Vec<Snapshot> {
    let snapshotter = Snapshotter::open(root, Fake::new()).unwrap();
    let image = format!("{LAZY}app");
    snapshotter
        .prepare(unpacking("sha256:1", "", &image))
        .await
        .unwrap_err();
    snapshotter
        .prepare(plain("extract", "sha256:1"))
        .await
        .unwrap();
    let labels = [("a".into(), "b".into())];
    snapshotter
        .commit("extract", "two", "", labels.into())
        .await
        .unwrap();
    snapshotter.prepare(plain("box", "two")).await.unwrap();
    snapshotter.prepare(plain("gone", "two")).await.unwrap();
    snapshotter.remove("gone").await.unwrap();
    snapshotter.list(&[]).await.unwrap()
}

#[tokio::test]
async fn a_lost_database_is_put_together_again() {
    let dir = tempfile::tempdir().unwrap();
    let before = furnish(dir.path()).await;
    fs::remove_file(dir.path().join("metadata.redb")).unwrap();
    let snapshotter = Snapshotter::open(dir.path(), Fake::new()).unwrap();
    let mut after = snapshotter.list(&[]).await.unwrap();
    // What had been removed is back: containerd's next garbage collection finds that it knows nothing of it.
    after.retain(|snapshot| snapshot.name != "gone");
    assert_eq!(after, before);
    snapshotter.remove("gone").await.unwrap();
    snapshotter.mounts("box").await.unwrap();
    assert!(matches!(
        snapshotter.remove("two").await,
        Err(SnapshotError::HasChildren { child_count: 1, .. })
    ));
    let again = snapshotter.prepare(plain("next", "two")).await.unwrap();
    assert!(!again.is_empty(), "and no number is given twice");
}

#[tokio::test]
async fn a_database_that_does_not_open_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let before = furnish(dir.path()).await;
    let database = dir.path().join("metadata.redb");
    let mut bytes = fs::read(&database).unwrap();
    bytes[..4096].fill(0x5a);
    fs::write(&database, bytes).unwrap();
    let snapshotter = Snapshotter::open(dir.path(), Fake::new()).unwrap();
    let after = snapshotter.list(&[]).await.unwrap();
    assert!(before.iter().all(|snapshot| after.contains(snapshot)));
    let aside = fs::read_dir(dir.path()).unwrap().any(|entry| {
        let name = entry.unwrap().file_name();
        name.to_string_lossy().starts_with("metadata.redb.broken-")
    });
    assert!(aside, "it is kept for whoever wants to look");
}

#[tokio::test]
async fn a_broken_snapshot_keeps_nobody_from_starting_and_can_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let before = furnish(dir.path()).await;
    let two = before
        .iter()
        .find(|snapshot| snapshot.name == "two")
        .unwrap();
    fs::remove_dir_all(dir.path().join(format!("snapshots/{}/fs", two.id))).unwrap();
    let snapshotter = Snapshotter::open(dir.path(), Fake::new()).unwrap();
    let quarantined = snapshotter.quarantined();
    assert_eq!(quarantined.len(), 1);
    assert_eq!(quarantined[0].0, "two");
    let mounts = snapshotter.mounts("box").await;
    assert!(
        matches!(mounts, Err(SnapshotError::Quarantined { .. })),
        "{mounts:?}"
    );
    snapshotter
        .prepare(plain("other", "sha256:1"))
        .await
        .unwrap();
    snapshotter.stat("two").await.unwrap();
    snapshotter.remove("box").await.unwrap();
    snapshotter.remove("two").await.unwrap();
    assert_eq!(snapshotter.quarantined(), []);
    snapshotter.clean_up().await.unwrap();
    assert_eq!(folders(dir.path()), listed(&snapshotter).await);
}

#[tokio::test]
async fn two_agents_do_not_share_a_database() {
    let dir = tempfile::tempdir().unwrap();
    let first = Snapshotter::open(dir.path(), Fake::new()).unwrap();
    let second = Snapshotter::open(dir.path(), Fake::new());
    assert!(
        matches!(second, Err(SnapshotError::Database { .. })),
        "{second:?}"
    );
    first.prepare(plain("a", "")).await.unwrap();
}
