//! Containers' root filesystems for containerd: lazily loaded images, and layers unpacked the usual way.
//!
//! containerd calls a snapshotter for every layer of every image of a node and for every container. This one answers for all of
//! them: a layer whose image can be shown by the agent is never unpacked, any other is unpacked by containerd into folders here. What
//! the agent can do stands behind [`Images`]; what containerd is told lives in a database that a crash leaves whole.

#![forbid(unsafe_code)]

mod error;
mod filter;
mod folders;
mod lazy;
mod metadata;
mod mounts;
mod recover;
mod server;
mod snapshot;
mod snapshotter;
mod socket;

pub use error::SnapshotError;
pub use lazy::{ImageError, Images, Verdict, Wanted};
pub use server::serve;
pub use snapshot::{Kind, LazyLayers, Snapshot, Usage};
pub use snapshotter::{LabelChange, Request, Snapshotter};
pub use socket::{bind, listen};
pub use tranship_containerd::tonic::async_trait;
