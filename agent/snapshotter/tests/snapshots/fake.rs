//! An agent that shows whatever it is asked for, notes what it was asked, and can be told to wait or to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;
use tranship_snapshotter::{
    ImageError, Images, LazyLayers, Request, Snapshotter, Usage, Verdict, Wanted, async_trait,
};

/// Images of this beginning are lazy; those of `require/` must be, and are not.
pub(crate) const LAZY: &str = "lazy/";

#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) attached: Mutex<BTreeMap<PathBuf, LazyLayers>>,
    pub(crate) asked: Mutex<Vec<Wanted>>,
    /// References whose attaches wait for a permit here.
    pub(crate) slow: Mutex<BTreeSet<String>>,
    pub(crate) permits: Semaphore,
    /// References that cannot be shown.
    pub(crate) broken: Mutex<BTreeSet<String>>,
}

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            attached: Mutex::default(),
            asked: Mutex::default(),
            slow: Mutex::default(),
            permits: Semaphore::new(0),
            broken: Mutex::default(),
        })
    }
}

#[async_trait]
impl Images for Fake {
    async fn find(&self, wanted: &Wanted) -> Verdict {
        self.asked.lock().unwrap().push(wanted.clone());
        if wanted.reference.starts_with("require/") {
            return Verdict::Refused {
                why: "it is not converted".to_owned(),
            };
        }
        if !wanted.reference.starts_with(LAZY) {
            return Verdict::Unpack;
        }
        Verdict::Lazy(LazyLayers {
            reference: wanted.reference.clone(),
            manifest: "sha256:cc".to_owned(),
            layer_count: wanted.position + 1,
        })
    }

    async fn attach(&self, layers: &LazyLayers, target: &Path) -> Result<(), ImageError> {
        if self.slow.lock().unwrap().contains(&layers.reference) {
            self.permits.acquire().await.unwrap().forget();
        }
        if self.broken.lock().unwrap().contains(&layers.reference) {
            return Err("the registry is down".into());
        }
        let mut attached = self.attached.lock().unwrap();
        attached.insert(target.to_path_buf(), layers.clone());
        Ok(())
    }

    async fn detach(&self, target: &Path) -> Result<(), ImageError> {
        self.attached.lock().unwrap().remove(target);
        Ok(())
    }

    fn attached(&self) -> Vec<PathBuf> {
        self.attached.lock().unwrap().keys().cloned().collect()
    }

    fn usage(&self, layers: &LazyLayers) -> Usage {
        Usage {
            len: u64::from(layers.layer_count) * 1000,
            inode_count: 4,
        }
    }
}

/// A prepare as containerd's unpacker makes it.
pub(crate) fn unpacking(target: &str, parent: &str, image: &str) -> Request {
    let labels = [
        ("containerd.io/snapshot.ref", target),
        ("containerd.io/snapshot/cri.image-ref", image),
        ("containerd.io/snapshot/cri.manifest-digest", "sha256:aa"),
        ("containerd.io/snapshot/cri.layer-digest", "sha256:bb"),
    ];
    Request {
        key: format!("k8s.io/7/extract-1 {target}"),
        parent: parent.to_owned(),
        labels: labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    }
}

/// A prepare for a container.
pub(crate) fn plain(key: &str, parent: &str) -> Request {
    Request {
        key: key.to_owned(),
        parent: parent.to_owned(),
        ..Request::default()
    }
}

/// The numbers of the folders that are there.
pub(crate) fn folders(root: &Path) -> BTreeSet<u64> {
    let entries = std::fs::read_dir(root.join("snapshots")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| name.parse().unwrap()).collect()
}

/// The numbers of the snapshots that are listed.
pub(crate) async fn listed(snapshotter: &Snapshotter) -> BTreeSet<u64> {
    let all = snapshotter.list(&[]).await.unwrap();
    all.iter().map(|snapshot| snapshot.id).collect()
}
