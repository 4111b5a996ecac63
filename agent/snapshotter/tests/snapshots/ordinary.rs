//! Images that containerd unpacks: folders, mounts, codes, clean-up.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use tranship_snapshotter::{Kind, LabelChange, SnapshotError, Snapshotter};

use crate::fake::{Fake, folders, listed, plain, unpacking};

#[tokio::test]
async fn layers_stand_on_each_other_and_a_container_on_them() {
    let dir = tempfile::tempdir().unwrap();
    let snapshotter = Snapshotter::open(dir.path(), Fake::new()).unwrap();
    let base = snapshotter.prepare(plain("ns/1/base", "")).await.unwrap();
    assert_eq!(base[0].r#type, "bind");
    assert_eq!(base[0].options, ["rw", "rbind"]);
    fs::write(format!("{}/file", base[0].source), [1; 9000]).unwrap();
    fs::hard_link(
        format!("{}/file", base[0].source),
        format!("{}/same", base[0].source),
    )
    .unwrap();
    symlink("file", format!("{}/link", base[0].source)).unwrap();
    fs::set_permissions(&base[0].source, fs::Permissions::from_mode(0o711)).unwrap();
    snapshotter
        .commit(
            "ns/1/base",
            "ns/2/one",
            "",
            [("a".into(), "b".into())].into(),
        )
        .await
        .unwrap();
    let second = snapshotter
        .prepare(plain("ns/3/next", "ns/2/one"))
        .await
        .unwrap();
    assert_eq!(second[0].r#type, "overlay");
    let upper = second[0]
        .options
        .iter()
        .find_map(|option| option.strip_prefix("upperdir="))
        .unwrap();
    assert_eq!(fs::metadata(upper).unwrap().mode() & 0o7777, 0o711);
    assert!(
        second[0]
            .options
            .contains(&format!("lowerdir={}", base[0].source))
    );
    snapshotter
        .commit("ns/3/next", "ns/4/two", "", [].into())
        .await
        .unwrap();
    let rootfs = snapshotter
        .prepare(plain("ns/5/box", "ns/4/two"))
        .await
        .unwrap();
    let lower = format!("lowerdir={upper}:{}", base[0].source);
    assert!(rootfs[0].options.contains(&lower), "{rootfs:?}");
    assert_eq!(snapshotter.mounts("ns/5/box").await.unwrap(), rootfs);

    let usage = snapshotter.usage("ns/2/one").await.unwrap();
    let file = fs::metadata(format!("{}/file", base[0].source)).unwrap();
    let top = fs::metadata(&base[0].source).unwrap();
    assert_eq!(usage.len, (file.blocks() + top.blocks()) * 512);
    assert_eq!(
        usage.inode_count, 3,
        "the folder, the file and the symbolic link"
    );
    let view = snapshotter
        .view(plain("ns/6/look", "ns/2/one"))
        .await
        .unwrap();
    assert_eq!(
        (view[0].r#type.as_str(), &view[0].source),
        ("bind", &base[0].source)
    );
    assert_eq!(view[0].options, ["ro", "rbind"]);
    let view = snapshotter
        .view(plain("ns/7/look", "ns/4/two"))
        .await
        .unwrap();
    assert!(
        view[0]
            .options
            .iter()
            .all(|option| !option.starts_with("upperdir"))
    );
}

#[tokio::test]
async fn refusals_are_those_that_containerd_tells_apart() {
    let dir = tempfile::tempdir().unwrap();
    let snapshotter = Snapshotter::open(dir.path(), Fake::new()).unwrap();
    snapshotter.prepare(plain("active", "")).await.unwrap();
    let again = snapshotter.prepare(plain("active", "")).await;
    assert!(
        matches!(again, Err(SnapshotError::Exists { .. })),
        "{again:?}"
    );
    let on_active = snapshotter.prepare(plain("b", "active")).await;
    assert!(matches!(
        on_active,
        Err(SnapshotError::ParentNotCommitted { .. })
    ));
    let on_nothing = snapshotter.prepare(plain("b", "never")).await;
    assert!(matches!(on_nothing, Err(SnapshotError::NotFound { .. })));
    let nameless = snapshotter.prepare(plain("", "")).await;
    assert!(matches!(nameless, Err(SnapshotError::Invalid { .. })));
    snapshotter
        .commit("active", "done", "", [].into())
        .await
        .unwrap();
    let gone = snapshotter.commit("active", "done", "", [].into()).await;
    assert!(matches!(gone, Err(SnapshotError::NotFound { .. })));
    let of_committed = snapshotter.mounts("done").await;
    assert!(matches!(of_committed, Err(SnapshotError::WrongKind { .. })));
    snapshotter.view(plain("view", "done")).await.unwrap();
    let from_view = snapshotter.commit("view", "other", "", [].into()).await;
    assert!(matches!(from_view, Err(SnapshotError::WrongKind { .. })));
    let with_child = snapshotter.remove("done").await;
    assert!(matches!(
        with_child,
        Err(SnapshotError::HasChildren { child_count: 1, .. })
    ));
    snapshotter.remove("view").await.unwrap();
    snapshotter.remove("done").await.unwrap();
    let twice = snapshotter.remove("done").await;
    assert!(matches!(twice, Err(SnapshotError::NotFound { .. })));
    assert_eq!(
        folders(dir.path()).len(),
        2,
        "removing takes no folder away"
    );
    snapshotter.clean_up().await.unwrap();
    assert!(folders(dir.path()).is_empty());
}

#[tokio::test]
async fn labels_are_changed_one_by_one_or_all_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let snapshotter = Snapshotter::open(dir.path(), Fake::new()).unwrap();
    let mut request = plain("a", "");
    request.labels = [("x.y/z".into(), "1".into()), ("other".into(), "2".into())].into();
    snapshotter.prepare(request).await.unwrap();
    let only = LabelChange::parse(&["labels.x.y/z".into(), "labels.new".into()]).unwrap();
    let given = [("new".into(), "3".into()), ("ignored".into(), "4".into())];
    let changed = snapshotter.update("a", given.into(), only).await.unwrap();
    assert_eq!(
        changed.labels,
        [("new".into(), "3".into()), ("other".into(), "2".into())].into()
    );
    let all = LabelChange::parse(&[]).unwrap();
    let changed = snapshotter
        .update("a", [].into(), all.clone())
        .await
        .unwrap();
    assert!(changed.labels.is_empty() && changed.kind == Kind::Active);
    assert!(LabelChange::parse(&["parent".into()]).is_err());
    let unknown = snapshotter.update("never", [].into(), all).await;
    assert!(matches!(unknown, Err(SnapshotError::NotFound { .. })));
}

#[tokio::test]
async fn a_snapshot_can_be_committed_onto_a_parent_that_it_was_made_without() {
    let dir = tempfile::tempdir().unwrap();
    let snapshotter = Snapshotter::open(dir.path(), Fake::new()).unwrap();
    for (key, name) in [("a", "one"), ("b", "two")] {
        snapshotter.prepare(plain(key, "")).await.unwrap();
        snapshotter.commit(key, name, "", [].into()).await.unwrap();
    }
    snapshotter.prepare(plain("c", "")).await.unwrap();
    snapshotter
        .commit("c", "three", "one", [].into())
        .await
        .unwrap();
    assert_eq!(snapshotter.stat("three").await.unwrap().parent, "one");
    assert!(snapshotter.remove("one").await.is_err());
    snapshotter.prepare(plain("d", "one")).await.unwrap();
    let moved = snapshotter.commit("d", "four", "two", [].into()).await;
    assert!(matches!(moved, Err(SnapshotError::Invalid { .. })));
}

#[tokio::test]
async fn an_image_that_is_not_lazy_is_unpacked_and_one_that_must_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    let snapshotter = Snapshotter::open(dir.path(), fake.clone()).unwrap();
    let request = unpacking("sha256:1", "", "plain/image:v1");
    let mounts = snapshotter.prepare(request).await.unwrap();
    assert_eq!(mounts[0].r#type, "bind");
    assert_eq!(fake.asked.lock().unwrap().len(), 1);
    let refused = snapshotter
        .prepare(unpacking("sha256:2", "", "require/image"))
        .await;
    assert!(matches!(refused, Err(SnapshotError::NotLazy { .. })));
    assert_eq!(listed(&snapshotter).await, folders(dir.path()));
}
