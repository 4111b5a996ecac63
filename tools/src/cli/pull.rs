//! What `tranship pull` takes.

use std::path::PathBuf;

use clap::Args;
use tranship_source::Platform;

use super::RegistryArgs;

/// `pull`
#[derive(Args, Clone, Debug)]
pub(crate) struct PullArgs {
    /// Image, converted or with one that was converted from it beside it; any other is unpacked
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// Platform to take from an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<Platform>,
    /// containerd's socket
    #[arg(
        long,
        value_name = "SOCKET",
        default_value = "/run/containerd/containerd.sock",
        env = "CONTAINERD_ADDRESS"
    )]
    pub(crate) containerd: PathBuf,
    /// containerd's namespace; the kubelet's is k8s.io
    #[arg(
        short,
        long,
        value_name = "NAME",
        default_value = "default",
        env = "CONTAINERD_NAMESPACE"
    )]
    pub(crate) namespace: String,
    /// The name under which containerd knows our snapshotter
    #[arg(
        long,
        value_name = "NAME",
        default_value = "tranship",
        env = "CONTAINERD_SNAPSHOTTER"
    )]
    pub(crate) snapshotter: String,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}
