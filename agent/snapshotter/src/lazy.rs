//! What the snapshotter asks of the agent: whether an image can be shown lazily, and to show it.

use std::error::Error;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use tranship_containerd::tonic::async_trait;

use crate::snapshot::{LazyLayers, Usage};

/// Why an image cannot be shown, in the agent's own words.
pub type ImageError = Box<dyn Error + Send + Sync>;

/// A layer that containerd is about to unpack, as far as its labels tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Who wants it: the namespace of containerd, empty where it is not said.
    pub namespace: String,
    /// The image, as containerd was asked for it.
    pub reference: String,
    /// The digest of the manifest that it chose; old ones do not say.
    pub manifest: Option<String>,
    /// The digest of the layer.
    pub layer: Option<String>,
    /// How many layers of the image are below it.
    pub position: u32,
}

/// Whether a layer is to be unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is not: these layers show the same files.
    Lazy(LazyLayers),
    /// It is.
    Unpack,
    /// It would have to be, and its repository is one of which the operator wants no image unpacked.
    Refused {
        /// Why it is not lazy.
        why: String,
    },
}

/// The agent, as the snapshotter sees it. Calls about one image may be slow; they hold up no call about another.
#[async_trait]
pub trait Images: Debug + Send + Sync + 'static {
    /// Whether a layer can be shown lazily. Waits for the registry at most as long as a pull would.
    async fn find(&self, wanted: &Wanted) -> Verdict;

    /// Mounts layers at `target`, read-only, or finds that they are mounted there; again after a crash or a restart of the machine.
    async fn attach(&self, layers: &LazyLayers, target: &Path) -> Result<(), ImageError>;

    /// Takes the mount at `target` away, and what stands behind it if nobody else has it. Nothing may be there.
    async fn detach(&self, target: &Path) -> Result<(), ImageError>;

    /// Where something is attached, or should be.
    fn attached(&self) -> Vec<PathBuf>;

    /// What the uppermost of these layers takes on this node's disk.
    fn usage(&self, layers: &LazyLayers) -> Usage;
}
