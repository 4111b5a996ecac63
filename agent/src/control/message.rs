//! What goes over the control socket, as types.
//!
//! Digests and peer ids are strings here: a tool that only prints them needs no format crate, and a daemon that learns a
//! new form of either does not break an older tool.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::waiting::{Unserved, WaitInfo};

/// Which front end the caller wishes for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrontEndChoice {
    /// The best one that this kernel has, or what the daemon's configuration says.
    #[default]
    Auto,
    /// A read-only loop device over a FUSE file: works on every kernel.
    FuseLoop,
    /// A FUSE file that EROFS mounts directly, without a block device between (Linux 6.12 and later).
    ErofsFile,
    /// A block device of the kernel's ublk driver.
    Ublk,
    /// A block device of the kernel's NBD driver, for machines without FUSE.
    KernelNbd,
    /// A unix socket that speaks NBD, for virtual machines and copying tools.
    Nbd,
    /// A unix socket that speaks vhost-user-blk: a disk for virtual machines, whose memory it shares.
    VhostUserBlk,
}

/// The front end that a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrontEndName {
    /// See [`FrontEndChoice::FuseLoop`].
    FuseLoop,
    /// See [`FrontEndChoice::ErofsFile`].
    ErofsFile,
    /// See [`FrontEndChoice::Ublk`].
    Ublk,
    /// See [`FrontEndChoice::KernelNbd`].
    KernelNbd,
    /// See [`FrontEndChoice::Nbd`].
    Nbd,
    /// See [`FrontEndChoice::VhostUserBlk`].
    VhostUserBlk,
}

impl FrontEndName {
    /// Whether it makes a device of this machine, which can be mounted here; else it is a socket for virtual machines and tools.
    pub const fn is_mountable(self) -> bool {
        match self {
            Self::FuseLoop | Self::ErofsFile | Self::Ublk | Self::KernelNbd => true,
            Self::Nbd | Self::VhostUserBlk => false,
        }
    }

    /// Whether the kernel reads it through a FUSE file, which a device process can answer and a keeper hold.
    pub(crate) const fn is_by_fuse(self) -> bool {
        match self {
            Self::FuseLoop | Self::ErofsFile => true,
            Self::Ublk | Self::KernelNbd | Self::Nbd | Self::VhostUserBlk => false,
        }
    }
}

impl fmt::Display for FrontEndName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FuseLoop => "fuse-loop",
            Self::ErofsFile => "erofs-file",
            Self::Ublk => "ublk",
            Self::KernelNbd => "kernel-nbd",
            Self::Nbd => "nbd",
            Self::VhostUserBlk => "vhost-user-blk",
        })
    }
}

impl fmt::Display for FrontEndChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::FuseLoop => "fuse-loop",
            Self::ErofsFile => "erofs-file",
            Self::Ublk => "ublk",
            Self::KernelNbd => "kernel-nbd",
            Self::Nbd => "nbd",
            Self::VhostUserBlk => "vhost-user-blk",
        })
    }
}

impl FromStr for FrontEndChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "fuse-loop" => Ok(Self::FuseLoop),
            "erofs-file" => Ok(Self::ErofsFile),
            "ublk" => Ok(Self::Ublk),
            "kernel-nbd" => Ok(Self::KernelNbd),
            "nbd" => Ok(Self::Nbd),
            "vhost-user-blk" => Ok(Self::VhostUserBlk),
            other => Err(format!(
                "{other:?} is no front end; there are auto, fuse-loop, erofs-file, ublk, kernel-nbd, nbd and vhost-user-blk"
            )),
        }
    }
}

/// `POST /v1/devices`: make a device of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// The image, as a user names it.
    pub reference: String,
    /// How the kernel (or a virtual machine) should see it.
    #[serde(default)]
    pub front_end: FrontEndChoice,
    /// Speak HTTP without TLS to the registry of this image, whatever the configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_http: Option<bool>,
    /// What reads do that no source serves; unless set what the device has, and with a new one, to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unserved: Option<Unserved>,
}

/// What a device does at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    /// It answers reads.
    #[default]
    Attached,
    /// The daemon has started anew and has not been able to bring this one back yet; it keeps trying.
    Recovering,
}

/// How much of an image is on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FillInfo {
    /// Stored bytes of all layers that are on this node.
    pub present_len: u64,
    /// Stored bytes of all layers.
    pub stored_len: u64,
}

/// A device: the answer to an attach, and one row of `GET /v1/devices`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// Names the device in later calls; the same image with the same front end has the same id.
    pub id: String,
    /// The image, as it was asked for.
    pub reference: String,
    /// Digest of the manifest that the reference led to.
    pub manifest: String,
    /// How it is seen.
    pub front_end: FrontEndName,
    /// Length of the device, in bytes.
    pub size: u64,
    /// The block device, the FUSE file, or the socket.
    pub path: PathBuf,
    /// The same as a URI for NBD clients; only with that front end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbd_uri: Option<String>,
    /// What the device does.
    #[serde(default)]
    pub state: DeviceState,
    /// How many attaches share it; it goes when as many detaches came.
    #[serde(default)]
    pub use_count: u32,
    /// Where it is mounted.
    #[serde(default)]
    pub mounts: Vec<MountInfo>,
    /// How much of it is here.
    #[serde(default)]
    pub fill: FillInfo,
    /// Whether it reads a plain file of this node, without the daemon.
    #[serde(default)]
    pub graduated: bool,
    /// What its reads do that no source serves.
    #[serde(default)]
    pub unserved: Unserved,
    /// How long such a read waits before it fails, in milliseconds: as the image's policy says, or the configuration where that does
    /// not. 0 from daemons that do not tell.
    #[serde(default)]
    pub deadline_ms: u64,
    /// The id of the process that answers its reads, if it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<u32>,
    /// Its reads that hang at the moment, if any do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<WaitInfo>,
}

/// The answer to `DELETE /v1/devices/{id}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachReply {
    /// How many attaches still share the device; at 0 it is gone.
    pub use_count: u32,
}

/// `POST /v1/devices/{id}/mounts`: mount the device's filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRequest {
    /// An absolute path; the directory is made when it is not there.
    pub target: PathBuf,
    /// Whether writes are taken, into a directory of the daemon's; they end with the mount.
    #[serde(default)]
    pub writable: bool,
}

/// A mount of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountInfo {
    /// The device that is mounted.
    pub device: String,
    /// Where.
    pub target: PathBuf,
    /// Whether writes are taken.
    pub writable: bool,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    #[serde(default)]
    pub version: String,
    /// This node in the swarm.
    pub peer_id: String,
    /// The swarm as this node sees it.
    #[serde(default)]
    pub swarm: SwarmStatus,
    /// The chunks on this node's disk.
    #[serde(default)]
    pub store: StoreStatus,
    /// From where bytes came, since the daemon started.
    #[serde(default)]
    pub sources: SourceCounters,
    /// Devices that are attached.
    #[serde(default)]
    pub device_count: u32,
    /// Mounts of those.
    #[serde(default)]
    pub mount_count: u32,
    /// Reads of devices that hang because no source gives their chunk.
    #[serde(default)]
    pub waiting_count: u32,
    /// How long the longest of them has, in milliseconds.
    #[serde(default)]
    pub longest_wait_ms: u64,
    /// Containers' root filesystems for containerd, where that calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<SnapshotStatus>,
}

/// Containers' root filesystems for containerd.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// Images that containerd pulled since the daemon started, by what was decided of them.
    #[serde(default)]
    pub images: Vec<SnapshotImages>,
    /// Snapshots that cannot be used.
    #[serde(default)]
    pub quarantined: Vec<QuarantinedSnapshot>,
}

/// Images of which the same was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotImages {
    /// Whether they are shown lazily; else they are unpacked, or refused.
    pub lazy: bool,
    /// Why, in one word.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// A snapshot that cannot be used until it is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedSnapshot {
    /// Its name in containerd's metadata.
    pub name: String,
    /// What is wrong with it.
    pub why: String,
}

/// The swarm as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwarmStatus {
    /// Where this node listens for peers.
    #[serde(default)]
    pub listen: Vec<String>,
    /// The trackers from the configuration.
    #[serde(default)]
    pub trackers: Vec<String>,
    /// Whether one of them has taken this node as a member.
    #[serde(default)]
    pub joined: bool,
    /// How many of them have.
    #[serde(default)]
    pub joined_count: u32,
    /// Peers with an open connection.
    #[serde(default)]
    pub peer_count: u32,
}

/// The chunks on this node's disk. Lengths are in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Stored bytes that are present.
    pub used_len: u64,
    /// How many there may be.
    pub quota_len: u64,
    /// Blobs of which something is known.
    #[serde(default)]
    pub blob_count: u32,
    /// Chunks that were found corrupt on this disk and dropped.
    #[serde(default)]
    pub corrupt_count: u64,
    /// Chunks that made room for others.
    #[serde(default)]
    pub evicted_count: u64,
    /// Chunks that were copied from another blob here instead of being fetched.
    #[serde(default)]
    pub copied_count: u64,
    /// Chunks that could not be kept because the disk or the quota was full.
    #[serde(default)]
    pub refused_count: u64,
}

/// From where bytes came, since the daemon started. Lengths are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCounters {
    /// Chunks that were here.
    #[serde(default)]
    pub store_len: u64,
    /// Chunks from other agents.
    #[serde(default)]
    pub peer_len: u64,
    /// Chunks from the tracker's seed.
    #[serde(default)]
    pub seed_len: u64,
    /// Chunks from the registry.
    #[serde(default)]
    pub registry_len: u64,
    /// Chunks that this node gave to others.
    #[serde(default)]
    pub served_len: u64,
    /// Chunks that did not have their hash and were thrown away.
    #[serde(default)]
    pub refused_count: u64,
    /// Grants that peers showed and that were not believed.
    #[serde(default)]
    pub refused_grant_count: u64,
    /// Requests that were made a second time elsewhere because the first was slow.
    #[serde(default)]
    pub hedge_count: u64,
    /// Chunks asked of peers and the seed, those made a second time included.
    #[serde(default)]
    pub request_count: u64,
    /// Peers that answered that they were busy.
    #[serde(default)]
    pub busy_count: u64,
    /// Chunks read from the registry without a lease, because a reader waited and nobody gave anything.
    #[serde(default)]
    pub override_count: u64,
}

/// Any answer that is not a success.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// What went wrong, from the deed down to the cause.
    pub error: String,
    /// What to do about it; empty when there is nothing to say.
    #[serde(default)]
    pub hint: String,
}

/// The one line that `--print-ready` puts on standard output, so that whoever started the daemon needs no fixed ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyLine {
    /// This node in the swarm.
    pub peer_id: String,
    /// The control socket.
    pub control: PathBuf,
    /// Address of metrics and health, when they are on.
    pub http: Option<String>,
    /// Where this node listens for peers.
    pub listen: Vec<String>,
}
