//! Images that nobody unpacks.

use std::sync::Arc;
use std::time::Duration;

use tranship_containerd::types::Mount;
use tranship_snapshotter::{Kind, SnapshotError, Snapshotter};

use crate::fake::{Fake, LAZY, folders, plain, unpacking};

fn open(dir: &tempfile::TempDir) -> (Arc<Fake>, Snapshotter) {
    let fake = Fake::new();
    let snapshotter = Snapshotter::open(dir.path(), fake.clone()).unwrap();
    (fake, snapshotter)
}

/// Prepares a layer as containerd does, and looks for what stands there then as containerd does.
async fn pull(snapshotter: &Snapshotter, target: &str, parent: &str, image: &str) -> String {
    let answer = snapshotter.prepare(unpacking(target, parent, image)).await;
    assert!(
        matches!(answer, Err(SnapshotError::Exists { .. })),
        "{answer:?}"
    );
    let filter = format!(r#"labels."containerd.io/snapshot.ref"=={target},parent=="{parent}""#);
    let found = snapshotter.list(&[filter]).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].kind, Kind::Committed);
    found[0].name.clone()
}

#[tokio::test]
async fn a_lazy_image_is_attached_once_where_a_container_stands_on_it_and_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, snapshotter) = open(&dir);
    let image = format!("{LAZY}app:v1");
    let one = pull(&snapshotter, "sha256:1", "", &image).await;
    let two = pull(&snapshotter, "sha256:2", &one, &image).await;
    assert_eq!((one.as_str(), two.as_str()), ("sha256:1", "sha256:2"));
    assert!(
        fake.attached.lock().unwrap().is_empty(),
        "a pull shows nothing"
    );
    let rootfs = snapshotter
        .prepare(plain("k8s.io/9/box", &two))
        .await
        .unwrap();
    let attached = fake.attached.lock().unwrap().clone();
    let (target, layers) = attached.first_key_value().unwrap();
    assert_eq!((attached.len(), layers.layer_count), (1, 2));
    assert!(
        rootfs[0]
            .options
            .contains(&format!("lowerdir={}", target.display()))
    );
    assert_eq!(snapshotter.mounts("k8s.io/9/box").await.unwrap(), rootfs);
    assert_eq!(snapshotter.usage(&two).await.unwrap().len, 2000);
    let view = snapshotter
        .view(plain("k8s.io/9/look", &two))
        .await
        .unwrap();
    assert_eq!(
        (view[0].r#type.as_str(), view[0].source.as_str()),
        ("bind", target.to_str().unwrap())
    );

    for name in ["k8s.io/9/box", "k8s.io/9/look", &two, &one] {
        snapshotter.remove(name).await.unwrap();
    }
    assert_eq!(fake.attached.lock().unwrap().len(), 1);
    snapshotter.clean_up().await.unwrap();
    assert!(fake.attached.lock().unwrap().is_empty());
    assert!(folders(dir.path()).is_empty());
}

#[tokio::test]
async fn namespaces_share_a_lazy_layer_unless_it_stands_on_something_else() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, snapshotter) = open(&dir);
    let image = format!("{LAZY}app:v1");
    let one = pull(&snapshotter, "sha256:1", "", &image).await;
    assert_eq!(pull(&snapshotter, "sha256:1", "", &image).await, one);
    assert_eq!(
        fake.asked.lock().unwrap().len(),
        1,
        "the second time nobody is asked"
    );
    let two = pull(&snapshotter, "sha256:2", &one, &image).await;
    // In another namespace the first layer was unpacked.
    snapshotter.prepare(plain("x", "")).await.unwrap();
    snapshotter
        .commit("x", "other/3/sha256:1", "", [].into())
        .await
        .unwrap();
    let other = pull(&snapshotter, "sha256:2", "other/3/sha256:1", &image).await;
    assert_ne!(other, two);
    assert_eq!(
        pull(&snapshotter, "sha256:2", "other/3/sha256:1", &image).await,
        other
    );
}

#[tokio::test]
async fn an_unpacked_layer_stands_on_a_lazy_one() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, snapshotter) = open(&dir);
    let one = pull(&snapshotter, "sha256:1", "", &format!("{LAZY}base")).await;
    let upper = snapshotter
        .prepare(unpacking("sha256:2", &one, "plain/app"))
        .await
        .unwrap();
    let target = fake.attached.lock().unwrap().keys().next().unwrap().clone();
    assert!(
        upper[0]
            .options
            .contains(&format!("lowerdir={}", target.display()))
    );
    let key = unpacking("sha256:2", &one, "plain/app").key;
    snapshotter
        .commit(&key, "k8s.io/8/sha256:2", "", [].into())
        .await
        .unwrap();
    let rootfs = snapshotter
        .prepare(plain("box", "k8s.io/8/sha256:2"))
        .await
        .unwrap();
    let files = upper[0]
        .options
        .iter()
        .find_map(|option| option.strip_prefix("upperdir="));
    let lower = format!("lowerdir={}:{}", files.unwrap(), target.display());
    assert!(rootfs[0].options.contains(&lower));
}

/// Docker puts a layer with a few files of its own between an image and each of its containers.
#[tokio::test]
async fn dockers_layer_between_an_image_and_a_container_is_written_and_stood_on() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, snapshotter) = open(&dir);
    let one = pull(&snapshotter, "sha256:1", "", &format!("{LAZY}app")).await;
    let init = plain("moby/3/box-init", &one);
    let init = snapshotter.prepare(init).await.unwrap();
    let option = |mounts: &[Mount], key: &str| {
        let options = mounts[0].options.iter();
        let mut found = options.filter_map(|option| option.strip_prefix(key));
        found.next().unwrap().to_owned()
    };
    let target = fake.attached.lock().unwrap().keys().next().unwrap().clone();
    let target = target.display().to_string();
    assert_eq!(option(&init, "lowerdir="), target);
    let commit = snapshotter.commit("moby/3/box-init", "moby/4/box-init", "", [].into());
    commit.await.unwrap();
    let rootfs = snapshotter.prepare(plain("moby/5/box", "moby/4/box-init"));
    let rootfs = rootfs.await.unwrap();
    let lower = format!("{}:{target}", option(&init, "upperdir="));
    assert_eq!(option(&rootfs, "lowerdir="), lower);
    for name in ["moby/5/box", "moby/4/box-init", &one] {
        snapshotter.remove(name).await.unwrap();
    }
    snapshotter.clean_up().await.unwrap();
    assert!(folders(dir.path()).is_empty() && fake.attached.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_image_that_cannot_be_shown_fails_its_own_container_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, snapshotter) = open(&dir);
    let image = format!("{LAZY}app");
    let one = pull(&snapshotter, "sha256:1", "", &image).await;
    fake.broken.lock().unwrap().insert(image.clone());
    let before = folders(dir.path());
    let failed = snapshotter.prepare(plain("box", &one)).await;
    assert!(matches!(failed, Err(SnapshotError::Image { .. })));
    assert_eq!(folders(dir.path()), before);
    fake.broken.lock().unwrap().clear();
    snapshotter.prepare(plain("box", &one)).await.unwrap();
}

#[tokio::test]
async fn a_slow_image_holds_up_no_other_call() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, snapshotter) = open(&dir);
    let (slow, quick) = (format!("{LAZY}slow"), format!("{LAZY}quick"));
    let slow_layer = pull(&snapshotter, "sha256:1", "", &slow).await;
    let quick_layer = pull(&snapshotter, "sha256:2", "", &quick).await;
    fake.slow.lock().unwrap().insert(slow);
    let waiting: Vec<_> = (0..100)
        .map(|number| {
            let (snapshotter, parent) = (snapshotter.clone(), slow_layer.clone());
            let key = format!("slow-{number}");
            tokio::spawn(async move { snapshotter.prepare(plain(&key, &parent)).await })
        })
        .collect();
    tokio::time::timeout(Duration::from_mins(1), async {
        snapshotter
            .prepare(plain("quick", &quick_layer))
            .await
            .unwrap();
        snapshotter.mounts("quick").await.unwrap();
        snapshotter
            .commit("quick", "done", "", [].into())
            .await
            .unwrap();
        snapshotter.remove("done").await.unwrap();
        snapshotter.clean_up().await.unwrap();
    })
    .await
    .expect("other calls go on");
    assert!(waiting.iter().all(|call| !call.is_finished()));
    fake.permits.add_permits(100);
    for call in waiting {
        call.await.unwrap().unwrap();
    }
}
