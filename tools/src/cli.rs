//! The command line: verbs, their arguments and what they say in `--help`. Nothing here does anything.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::output::Format;
use crate::progress::Watch;
use tranship_simulate::Rate;
use tranship_source::Platform;
use tranship_source::registry::HOSTS_DIRS;

mod devices;
mod node;
mod pull;
mod swarm;

pub(crate) use devices::{AttachArgs, DetachArgs, DevicesArgs, MountArgs, TraceArgs, UmountArgs};
pub(crate) use node::{
    DoctorArgs, DoctorTrackerArgs, NodeArgs, NodeInstallArgs, NodeStatusArgs, NodeUninstallArgs,
    NodeVerb,
};
pub(crate) use pull::PullArgs;
pub(crate) use swarm::{SwarmImageArgs, SwarmPeerArgs, SwarmSeedArgs, SwarmVerb, TrackerArgs};

const EXIT_CODES: &str = "\
References: docker://HOST/REPO:TAG[@sha256:…] (docker:// may be left out), oci:DIR[:TAG], oci-archive:FILE[:TAG]

Exit codes: 0 ok, 1 failed, 2 usage, 3 verification or policy, 4 not found, 5 denied,
            6 unavailable, 7 partial, 8 unsupported";

/// Container images as lazily loaded block devices, verified chunk by chunk, shared peer to peer.
#[derive(Debug, Parser)]
#[command(name = "tranship", version, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every verb takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// Form of the result on stdout
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "TRANSHIP_OUTPUT"
    )]
    pub(crate) output: Format,
    /// How to show progress on stderr: bars on a terminal (auto), NDJSON events, or none
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "TRANSHIP_PROGRESS"
    )]
    pub(crate) progress: Watch,
    /// Log filter for stderr, such as `debug` or `tranship_source=trace`
    #[arg(
        long,
        global = true,
        default_value = "error",
        env = "TRANSHIP_LOG",
        value_name = "FILTER"
    )]
    pub(crate) log: String,
}

/// How to talk to registries.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RegistryArgs {
    /// Use plain HTTP for the registries named in this command (loopback registries never need it)
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// Directory of docker's config.json, for credentials [default: `$DOCKER_CONFIG` or ~/.docker]
    #[arg(long, value_name = "DIR")]
    pub(crate) docker_config: Option<PathBuf>,
    /// Directories that say how registries are reached, as containerd's certs.d
    #[arg(long, value_name = "DIR", value_delimiter = ':', default_values = HOSTS_DIRS, env = "TRANSHIP_HOSTS_DIR")]
    pub(crate) hosts_dir: Vec<PathBuf>,
    /// How long to try again when a registry fails in a way that may pass [default: 15s]
    #[arg(long, value_name = "TIME")]
    pub(crate) retry_for: Option<humantime::Duration>,
}

/// Where the agent listens.
#[derive(Args, Clone, Debug)]
pub(crate) struct AgentArgs {
    /// The agent's control socket
    #[arg(long, value_name = "SOCKET", default_value = crate::config::DEFAULT_AGENT, env = "TRANSHIP_AGENT")]
    pub(crate) agent: PathBuf,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Turn an image into one that starts lazily, and push it
    Convert(ConvertArgs),
    /// Show a converted image's manifest, layers and chunks
    Inspect(InspectArgs),
    /// Check every byte of an image against its digests and chunk hashes
    Verify(VerifyArgs),
    /// Show what two converted images share, and what a node that has one must fetch of the other
    Diff(DiffArgs),
    /// List files of a converted image, reading only what that needs
    Ls(LsArgs),
    /// Write a file of a converted image to stdout, reading only what that needs
    Cat(CatArgs),
    /// Write a converted image as a raw device image or as one tar
    Export(ExportArgs),
    /// Attach an image as a block device through the agent
    Attach(AttachArgs),
    /// Detach a device
    Detach(DetachArgs),
    /// Mount an image's filesystem through the agent
    Mount(MountArgs),
    /// Unmount what `mount` mounted
    Umount(UmountArgs),
    /// Have containerd pull an image, lazily where that is possible
    Pull(PullArgs),
    /// List the agent's devices
    Devices(DevicesArgs),
    /// Show what was read of a device, in order: with it the tracker's seed fetches what a start reads
    Trace(TraceArgs),
    /// Make this node's containerd use the agent, or take that back
    #[command(subcommand)]
    Node(NodeVerb),
    /// Look for what is wrong on this node, and say what to do about it
    Doctor(DoctorArgs),
    /// See how the swarm stands, and give its tracker orders
    #[command(subcommand)]
    Swarm(SwarmVerb),
    /// Show the settings in effect and from where they come
    Config(AgentArgs),
    /// Live through a swarm of thousands of nodes in virtual time, and print what it came to
    Simulate(SimulateArgs),
    /// See it work on this machine: a registry, a tracker and some nodes, timed
    Demo(DemoArgs),
    /// Steps of the demo that run in processes of their own
    #[command(hide = true, subcommand)]
    DemoStep(DemoStep),
}

/// `convert`
#[derive(Args, Clone, Debug)]
pub(crate) struct ConvertArgs {
    /// Image to convert, or the file of a disk (raw or qcow2): a path, or a name that ends in .raw, .img, .dd or .qcow2
    #[arg(value_name = "SRC")]
    pub(crate) source: String,
    /// Where the converted image goes
    #[arg(value_name = "DST")]
    pub(crate) destination: String,
    /// Platform to take from an index, as os/arch[/variant] [default: this machine's]
    #[arg(long)]
    pub(crate) platform: Option<Platform>,
    /// Convert every Linux image of an index; what else it lists passes through untouched
    #[arg(long, conflicts_with = "platform")]
    pub(crate) all_platforms: bool,
    /// How DST holds the converted image
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    pub(crate) mode: Mode,
    /// Do not convert base layers again that DST's repository holds converted: trusts whoever may push there
    #[arg(long)]
    pub(crate) reuse: bool,
    /// Unit of compression: a power of two from 4KiB to 32KiB
    #[arg(long, default_value = "32KiB", value_name = "SIZE")]
    pub(crate) block_size: bytesize::ByteSize,
    /// Stored bytes a chunk aims at: the unit of transfer and verification
    #[arg(long, default_value = "256KiB", value_name = "SIZE")]
    pub(crate) chunk_size: bytesize::ByteSize,
    /// Converted image on whose device a disk is put as one more layer: only sectors that differ are stored
    #[arg(long, value_name = "REF")]
    pub(crate) base: Option<String>,
    /// Threads that compress [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// zstd level from 1 to 19: higher ones take longer and store less
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=19))]
    pub(crate) level: i32,
    /// Where layers are spooled before they are pushed [default: $TMPDIR or /tmp]
    #[arg(long, value_name = "DIR")]
    pub(crate) tmp_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// How a converted image stands beside its original.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// DST names the converted image alone
    #[default]
    Tag,
    /// DST names an index that lists the original, untouched, and the converted image behind it
    Index,
    /// The converted image refers to the original, which DST's repository gets too if it lacks it; DST names the converted
    /// image, unless it is SRC
    Attach,
}

/// A reference and how to reach it.
#[derive(Args, Clone, Debug)]
pub(crate) struct ImageArgs {
    /// Image
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// Platform to take from an index, as os/arch[/variant] [default: this machine's]
    #[arg(long)]
    pub(crate) platform: Option<Platform>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// `verify`
#[derive(Args, Clone, Debug)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    /// When all is right, push a proof of each layer that has no chunk table, beside the image
    #[arg(long)]
    pub(crate) write_proof: bool,
}

/// `inspect`
#[derive(Args, Clone, Debug)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,
}

/// `diff`
#[derive(Args, Clone, Debug)]
pub(crate) struct DiffArgs {
    /// Image that is here
    #[arg(value_name = "A")]
    pub(crate) a: String,
    /// Image that is wanted
    #[arg(value_name = "B")]
    pub(crate) b: String,
    /// Compare files by content too, which reads both images whole
    #[arg(long)]
    pub(crate) files: bool,
    /// Platform to take from an index, as os/arch[/variant] [default: this machine's]
    #[arg(long)]
    pub(crate) platform: Option<Platform>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// `ls`
#[derive(Args, Clone, Debug)]
pub(crate) struct LsArgs {
    /// Image, or image and path joined by a colon
    #[arg(value_name = "REF[:PATH]")]
    pub(crate) reference: String,
    /// Path in the image
    #[arg(value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// Descend into directories
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Show mode, owner, size and time
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Platform to take from an index
    #[arg(long)]
    pub(crate) platform: Option<Platform>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// `cat`
#[derive(Args, Clone, Debug)]
pub(crate) struct CatArgs {
    /// Image, or image and path joined by a colon
    #[arg(value_name = "REF[:PATH]")]
    pub(crate) reference: String,
    /// Path in the image; symbolic links are followed inside the image
    #[arg(value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// Platform to take from an index
    #[arg(long)]
    pub(crate) platform: Option<Platform>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// `export`
#[derive(Args, Clone, Debug)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    #[command(flatten)]
    pub(crate) form: ExportForm,
}

/// What `export` writes.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct ExportForm {
    /// Write the device as a sparse file
    #[arg(long, value_name = "FILE")]
    pub(crate) raw: Option<PathBuf>,
    /// Write the merged filesystem as a tar; `-` is stdout
    #[arg(long, value_name = "FILE|-")]
    pub(crate) tar: Option<PathBuf>,
}

/// `simulate`
#[derive(Args, Clone, Debug)]
pub(crate) struct SimulateArgs {
    /// The scenario: hosts, links, image, what goes wrong
    #[arg(value_name = "SCENARIO.toml")]
    pub(crate) scenario: PathBuf,
    /// Seed of everything random in it; the same seed gives the same figures [default: the scenario's]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

/// `demo`
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// Image to use, an ordinary one or one of block-device layers [default: one packed from this machine's own files]
    #[arg(long, value_name = "REF")]
    pub(crate) image: Option<String>,
    /// Nodes that start the image at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) nodes: u16,
    /// Speed of each machine's network link, each way: 50mbit, 1gbit, 20MB/s …
    #[arg(long, default_value = "200mbit", value_name = "RATE")]
    pub(crate) link: Rate,
    /// Speed of the registry's link, if it is not as the others'
    #[arg(long, value_name = "RATE")]
    pub(crate) registry_link: Option<Rate>,
    /// Leave everything running when the measurements are done, until Ctrl-C
    #[arg(long)]
    pub(crate) keep: bool,
    /// Where the demo puts its files [default: a new directory under $TMPDIR or /tmp]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Command whose success means ready [default: one that imports a good part of an interpreter's library]
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

/// Steps of the demo in processes of their own: one for what belongs to a node's link, one for what changes its root.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum DemoStep {
    /// Pull all layers of an image, then unpack them
    Pull {
        /// Image
        reference: String,
        /// Empty directory that takes the layers' bytes
        #[arg(long)]
        download: PathBuf,
        /// Empty directory that takes the files
        #[arg(long)]
        root: PathBuf,
    },
    /// Become a command inside a root directory
    Enter {
        /// The new root
        root: PathBuf,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
