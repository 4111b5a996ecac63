//! What `tranship node` and `tranship doctor` take.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{AgentArgs, RegistryArgs};

/// `node`
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// Make this node's containerd use the agent for containers' root filesystems
    Install(NodeInstallArgs),
    /// Take back what `install` set, and nothing else
    Uninstall(NodeUninstallArgs),
    /// Show what is installed, and what of it is in effect
    Status(NodeStatusArgs),
}

/// Which containerd.
#[derive(Args, Clone, Debug)]
pub(crate) struct NodeArgs {
    /// containerd's program, which tells its version and checks its configuration
    #[arg(long, value_name = "PROGRAM", default_value = "containerd")]
    pub(crate) containerd: PathBuf,
    /// containerd's configuration; that of k3s is /var/lib/rancher/k3s/agent/etc/containerd/config.toml
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/containerd/config.toml"
    )]
    pub(crate) config: PathBuf,
    /// The name under which containerd knows the snapshotter
    #[arg(long, value_name = "NAME", default_value = "tranship")]
    pub(crate) snapshotter: String,
}

/// `node install`
#[derive(Args, Clone, Debug)]
pub(crate) struct NodeInstallArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// The agent's snapshotter.socket
    #[arg(
        long,
        value_name = "SOCKET",
        default_value = "/run/tranship/snapshotter.sock"
    )]
    pub(crate) socket: PathBuf,
    /// The agent's snapshotter.root
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/containerd/io.containerd.snapshotter.v1.tranship"
    )]
    pub(crate) root: PathBuf,
    /// Only for pods of the `RuntimeClass` with this handler, and not for all (containerd 1.7 and later)
    #[arg(long, value_name = "HANDLER")]
    pub(crate) runtime_class: Option<String>,
    /// Show what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `node uninstall`
#[derive(Args, Clone, Debug)]
pub(crate) struct NodeUninstallArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// Show what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `node status`
#[derive(Args, Clone, Debug)]
pub(crate) struct NodeStatusArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// containerd's socket
    #[arg(
        long,
        value_name = "SOCKET",
        default_value = "/run/containerd/containerd.sock",
        env = "CONTAINERD_ADDRESS"
    )]
    pub(crate) address: PathBuf,
}

/// `doctor`
#[derive(Args, Clone, Debug)]
pub(crate) struct DoctorArgs {
    /// Images whose registries are tried: whether we are let in, ranges, referrers; nothing is pulled
    #[arg(value_name = "REF")]
    pub(crate) references: Vec<String>,
    #[command(flatten)]
    pub(crate) status: NodeStatusArgs,
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
    #[command(flatten)]
    pub(crate) tracker: DoctorTrackerArgs,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// Which trackers the doctor asks.
#[derive(Args, Clone, Debug)]
pub(crate) struct DoctorTrackerArgs {
    /// HTTP address of a tracker that is asked how it stands, and whether it has this node [may be given several times]
    #[arg(long = "tracker", value_name = "URL", env = "TRANSHIP_TRACKER")]
    pub(crate) trackers: Vec<String>,
    /// File with the operator token, which a tracker that is not on this machine wants [default: the tracker's own, if it is]
    #[arg(long, value_name = "FILE", env = "TRANSHIP_OPERATOR_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
}
