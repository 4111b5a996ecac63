//! The life of a device process: it opens the image, takes the kernel's descriptor from the keeper, answers until the kernel ends the
//! connection or the agent asks it to leave.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tranship_device::keeper::{KeeperClient, KeeperError};
use tranship_device::{BlockRead, FuseError, FuseOptions, Session};
use tranship_format::{Digest, OpenLayerError};
use tranship_store::StoreError;

use super::Description;
use super::content::Content;
use super::link::Link;
use crate::front_end::FUSE_PART;
use crate::keeping::name;

/// The longest wait at a time; nothing is to be done when it is over.
const LONG: Duration = Duration::from_hours(24);

/// Why a device process cannot do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The agent's description of the device.
    #[error("the description {} cannot be read", .path.display())]
    Description {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store.
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
    /// The store does not know a blob.
    #[error("the store does not have {digest}")]
    NoBlob {
        /// The blob.
        digest: Digest,
    },
    /// A layer.
    #[error("a layer does not open")]
    Layer(#[from] OpenLayerError),
    /// The keeper.
    #[error("the keeper does not give the connection")]
    Keeper(#[from] KeeperError),
    /// The keeper has nothing of this device.
    #[error("nobody keeps the connection of device {device}")]
    NotKept {
        /// The device.
        device: String,
    },
    /// The kernel's requests.
    #[error("the kernel cannot be answered")]
    Fuse(#[from] FuseError),
    /// A thread.
    #[error("a thread does not start")]
    Thread(#[source] io::Error),
}

/// Serves the device that the file `description` tells of; `is_fresh` when nobody has before.
pub fn serve(description: &Path, is_fresh: bool) -> Result<(), ServeError> {
    let text = fs::read(description);
    let read = text.and_then(|text| Ok(serde_json::from_slice::<Description>(&text)?));
    let told = read.map_err(|source| ServeError::Description {
        path: description.to_owned(),
        source,
    })?;
    let link =
        Link::begin(told.supply, told.device.clone(), told.deadline).map_err(ServeError::Thread)?;
    let content: Arc<dyn BlockRead> = Arc::new(Content::open(
        &told.store,
        &told.layers,
        &link,
        told.read_ahead,
        told.block_cache_len,
    )?);
    let kept = KeeperClient::connect(&told.keeper)?.give(&name(&told.device, FUSE_PART))?;
    let Some(fd) = kept else {
        return Err(ServeError::NotKept {
            device: told.device,
        });
    };
    let options = FuseOptions {
        worker_count: told.worker_count,
        stop_grace: told.stop_grace,
        ..FuseOptions::default()
    };
    let session = Arc::new(if is_fresh {
        Session::new(fd, &told.file, content, options)?
    } else {
        Session::take_over(fd, &told.file, content, options)?
    });
    link.say_serving();
    let leaving = Arc::clone(&session);
    let waiting = move || {
        while !link.wait_to_leave(LONG) {}
        if let Err(error) = leaving.stop() {
            // The kernel sends them to the successor.
            tracing::info!(
                error = &error as &dyn Error,
                "reads are left to the successor"
            );
        }
    };
    thread::Builder::new()
        .name("leave".to_owned())
        .spawn(waiting)
        .map_err(ServeError::Thread)?;
    while !session.wait_for_end(LONG) {}
    Ok(())
}
