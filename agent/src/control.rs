//! The local control API: HTTP and JSON over a unix socket that only the socket's owner may open.
//!
//! The types here are the whole contract between the daemon and whatever drives it (the `tranship` tool, a
//! snapshotter); both sides compile against them. Unknown fields are ignored when read, so that a tool and a daemon of
//! neighbouring versions understand each other.

mod client;
mod http;
mod message;
pub(crate) mod server;
mod waiting;

pub use client::{Client, ControlError};
pub use message::{
    AttachRequest, DetachReply, DeviceInfo, DeviceState, ErrorReply, FillInfo, FrontEndChoice,
    FrontEndName, MountInfo, MountRequest, QuarantinedSnapshot, ReadyLine, SnapshotImages,
    SnapshotStatus, SourceCounters, Status, StoreStatus, SwarmStatus,
};
pub use waiting::{OrphanInfo, Unserved, WaitInfo};

/// Where the daemon listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tranship/agent.sock";
