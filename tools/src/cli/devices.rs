//! The command line of the verbs that are about the agent's devices.

use std::path::PathBuf;

use clap::Args;

use super::AgentArgs;

/// `attach`
#[derive(Args, Clone, Debug)]
pub(crate) struct AttachArgs {
    /// Converted image
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// How the kernel or a VM sees it: auto, fuse-loop, erofs-file, ublk, kernel-nbd, nbd or vhost-user-blk
    #[arg(long, default_value = "auto", value_name = "NAME")]
    pub(crate) front_end: String,
    /// What reads do that no source serves: wait, wait=TIME or error [default: wait, for as long as the agent is told]
    #[arg(long, value_name = "WORD")]
    pub(crate) unserved: Option<String>,
    /// Let the agent use plain HTTP for this image's registry
    #[arg(long)]
    pub(crate) plain_http: bool,
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
}

/// `devices`
#[derive(Args, Clone, Debug)]
pub(crate) struct DevicesArgs {
    /// Show instead what the kernel or the keeper has of the agent's and no device knows of
    #[arg(long)]
    pub(crate) orphans: bool,
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
}

/// `detach`
#[derive(Args, Clone, Debug)]
pub(crate) struct DetachArgs {
    /// Id of the device, or the reference of an image, all of whose devices are meant
    #[arg(value_name = "ID|REF")]
    pub(crate) device: String,
    /// Take it away at once with all its mounts, whoever shares or reads it; reads that hang fail
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
}

/// `mount`
#[derive(Args, Clone, Debug)]
pub(crate) struct MountArgs {
    /// Converted image; it is attached first if it is not yet
    #[arg(value_name = "REF|ID")]
    pub(crate) reference: String,
    /// Directory to mount at
    #[arg(value_name = "DIR")]
    pub(crate) target: PathBuf,
    /// How the kernel sees the device, if it has to be attached: auto, fuse-loop, erofs-file, ublk or kernel-nbd
    #[arg(long, default_value = "auto", value_name = "NAME")]
    pub(crate) front_end: String,
    /// Put a writable overlay on top
    #[arg(long)]
    pub(crate) writable: bool,
    /// What reads do that no source serves: wait, wait=TIME or error [default: wait, for as long as the agent is told]
    #[arg(long, value_name = "WORD")]
    pub(crate) unserved: Option<String>,
    /// Let the agent use plain HTTP for this image's registry
    #[arg(long)]
    pub(crate) plain_http: bool,
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
}

/// `umount`
#[derive(Args, Clone, Debug)]
pub(crate) struct UmountArgs {
    /// Directory that `mount` mounted
    #[arg(value_name = "DIR")]
    pub(crate) target: PathBuf,
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
}

/// `trace`
#[derive(Args, Clone, Debug)]
pub(crate) struct TraceArgs {
    /// Id of the device, or the reference it was attached by
    #[arg(value_name = "ID|REF")]
    pub(crate) device: String,
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
}
