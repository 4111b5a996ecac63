//! The command line of `tranship swarm`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use tranship_source::Platform;

use super::{ImageArgs, RegistryArgs};

/// Where the tracker answers, and who asks.
#[derive(Args, Clone, Debug)]
pub(crate) struct TrackerArgs {
    /// The tracker's HTTP address
    #[arg(long, value_name = "URL", default_value = tranship_tracker::client::DEFAULT_URL, env = "TRANSHIP_TRACKER")]
    pub(crate) tracker: String,
    /// File with the operator token, which orders need [default: the tracker's own, if it is on this machine]
    #[arg(long, value_name = "FILE", env = "TRANSHIP_OPERATOR_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// `swarm`
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum SwarmVerb {
    /// Show what the tracker knows: members, images, blobs, its seed
    Status(TrackerArgs),
    /// List the members
    Peers(TrackerArgs),
    /// Show how far an image has spread: who has its stripes, who gets them, what the registry gave
    Image(SwarmImageArgs),
    /// Let the tracker's seed fetch an image, or what a start reads of it, so that a start finds it near
    Seed(SwarmSeedArgs),
    /// Ban a peer from the swarm
    Ban(SwarmPeerArgs),
    /// Take a ban back
    Unban(SwarmPeerArgs),
}

/// `swarm image`
#[derive(Args, Clone, Debug)]
pub(crate) struct SwarmImageArgs {
    /// Image, or the digest of its manifest
    #[arg(value_name = "REF|DIGEST")]
    pub(crate) reference: String,
    /// Platform to take from an index, as os/arch[/variant] [default: this machine's]
    #[arg(long)]
    pub(crate) platform: Option<Platform>,
    /// Show each stripe
    #[arg(long)]
    pub(crate) stripes: bool,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    #[command(flatten)]
    pub(crate) tracker: TrackerArgs,
}

/// `swarm seed`
#[derive(Args, Clone, Debug)]
pub(crate) struct SwarmSeedArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    /// Fetch only what this trace names, in its order: what `tranship trace -o json` printed of this image, `-` for stdin
    #[arg(long, value_name = "FILE", conflicts_with = "stop")]
    pub(crate) trace: Option<PathBuf>,
    /// Do not wait until the seed has it
    #[arg(long, conflicts_with = "stop")]
    pub(crate) detach: bool,
    /// Take the order back: the seed keeps what it has and fetches no more
    #[arg(long)]
    pub(crate) stop: bool,
    #[command(flatten)]
    pub(crate) tracker: TrackerArgs,
}

/// `swarm ban` and `swarm unban`
#[derive(Args, Clone, Debug)]
pub(crate) struct SwarmPeerArgs {
    /// Peer id, as `swarm peers` lists it
    #[arg(value_name = "PEER")]
    pub(crate) peer: String,
    #[command(flatten)]
    pub(crate) tracker: TrackerArgs,
}
