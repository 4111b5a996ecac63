//! What images take on disk, as it is when the kubelet asks.
//!
//! containerd asks what a committed snapshot takes once, when it first sees it, and adds that up from then on; a lazy one takes more with all that is
//! read of it. So its answer for our snapshots is replaced by their sum of this moment. Other snapshotters' filesystems stay as
//! containerd says they are.

use std::error::Error;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use tranship_containerd::cri::{FilesystemUsage, ImageFsInfoResponse, UInt64Value};
use tranship_containerd::prost::Message;
use tranship_snapshotter::{Snapshotter, Usage};

use super::frame;

/// What containerd calls the folder of a proxy plugin that is named as `tranship node install` names it, if the plugin says no other.
const FOLDER: &str = "io.containerd.snapshotter.v1.tranship";
/// The kubelet's namespace of containerd.
const NAMESPACE: &str = "k8s.io";

/// The snapshots on this node, and where they are.
#[derive(Clone, Debug)]
pub(crate) struct Accounts {
    pub(crate) snapshotter: Snapshotter,
    pub(crate) root: PathBuf,
}

impl Accounts {
    /// containerd's answer about filesystems with what is true of ours; as it came where it cannot be read.
    pub(super) async fn correct(&self, body: Bytes) -> Bytes {
        let message = frame::open(body.clone());
        let Some(mut answer) = message.and_then(|it| ImageFsInfoResponse::decode(it).ok()) else {
            return body;
        };
        let used = match self.snapshotter.usage_of(NAMESPACE).await {
            Ok(used) => used,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn Error,
                    "what images take is told as containerd last heard it"
                );
                return body;
            }
        };
        let filesystems = answer.image_filesystems.iter_mut();
        for filesystem in filesystems.chain(&mut answer.container_filesystems) {
            if self.is_of(filesystem) {
                set(filesystem, used);
            }
        }
        frame::close(&answer.encode_to_vec()).unwrap_or(body)
    }

    fn is_of(&self, filesystem: &FilesystemUsage) -> bool {
        let place = filesystem
            .fs_id
            .as_ref()
            .map(|id| Path::new(&id.mountpoint));
        place.is_some_and(|place| {
            place == self.root || place.file_name() == Some(OsStr::new(FOLDER))
        })
    }
}

fn set(filesystem: &mut FilesystemUsage, used: Usage) {
    filesystem.used_bytes = Some(UInt64Value { value: used.len });
    filesystem.inodes_used = Some(UInt64Value {
        value: used.inode_count,
    });
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    if let Some(now) = now.ok().and_then(|now| i64::try_from(now.as_nanos()).ok()) {
        filesystem.timestamp = now;
    }
}
