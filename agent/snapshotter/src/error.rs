//! Why a call is refused: what containerd tells apart, and what an operator reads.

use std::io;
use std::path::PathBuf;

use crate::lazy::ImageError;

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// There is no such snapshot.
    #[error("there is no snapshot {name:?}")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// There is one of this name already.
    #[error("snapshot {name:?} exists already")]
    Exists {
        /// Its name.
        name: String,
    },
    /// The snapshot to stand on is not finished.
    #[error("snapshot {name:?} is not committed, so nothing can stand on it")]
    ParentNotCommitted {
        /// Its name.
        name: String,
    },
    /// Others stand on it.
    #[error("snapshot {name:?} cannot be removed while {child_count} others stand on it")]
    HasChildren {
        /// Its name.
        name: String,
        /// How many.
        child_count: u64,
    },
    /// It is not of the kind that the call is about.
    #[error("snapshot {name:?} is {found}, and the call wants one that is {wanted}")]
    WrongKind {
        /// Its name.
        name: String,
        /// What it is.
        found: &'static str,
        /// What was wanted.
        wanted: &'static str,
    },
    /// The call itself makes no sense.
    #[error("{what}")]
    Invalid {
        /// What is wrong with it.
        what: String,
    },
    /// A snapshot was found broken when this agent started.
    #[error(
        "snapshot {name:?} is in quarantine: {why}; remove what uses it and the image, and pull that again"
    )]
    Quarantined {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// Its image may only be used lazily, and cannot be.
    #[error("{reference} is on snapshotter.require_lazy and would have to be unpacked: {why}")]
    NotLazy {
        /// The image.
        reference: String,
        /// Why it is not lazy.
        why: String,
    },
    /// The image behind it cannot be shown now.
    #[error("the image behind snapshot {name:?} cannot be shown")]
    Image {
        /// The snapshot's name.
        name: String,
        /// What the agent said.
        #[source]
        source: ImageError,
    },
    /// A folder of a snapshot.
    #[error("cannot {deed} {}", .path.display())]
    Folder {
        /// What was tried.
        deed: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The database.
    #[error("the database of snapshots does not {deed}")]
    Database {
        /// What was tried.
        deed: &'static str,
        /// What it said.
        #[source]
        source: Box<redb::Error>,
    },
    /// What the database holds of a snapshot is not what was written.
    #[error("what the database holds of snapshot {name:?} cannot be read")]
    Corrupt {
        /// Its name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

impl SnapshotError {
    pub(crate) fn database(deed: &'static str, source: impl Into<redb::Error>) -> Self {
        Self::Database {
            deed,
            source: Box::new(source.into()),
        }
    }

    pub(crate) fn not_found(name: &str) -> Self {
        Self::NotFound {
            name: name.to_owned(),
        }
    }
}
