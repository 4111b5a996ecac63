//! The life of a device process: it opens the image, takes the kernel's descriptor from the keeper, answers until the kernel ends the
//! connection or the agent asks it to leave.

use std::error::Error;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tranship_device::keeper::{KeeperClient, KeeperError};
use tranship_device::{BlockRead, FuseConnection, FuseError, FuseOptions, Session};
use tranship_format::{Digest, OpenLayerError};
use tranship_store::StoreError;

use super::Description;
use super::content::Content;
use super::link::Link;
use super::message::SPEAKS;
use super::second::SecondHolder;
use crate::front_end::{FUSE_PART, REQUESTS_PART};
use crate::keeping::name;

/// The longest wait at a time; nothing is to be done when it is over.
const LONG: Duration = Duration::from_hours(24);
const STACK_LEN: usize = 128 << 10;

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
    let (agent, device) = (told.supply.clone(), told.device.clone());
    let link = Link::begin(agent, device, SPEAKS, told.deadline).map_err(ServeError::Thread)?;
    let content: Arc<dyn BlockRead> = Arc::new(Content::open(
        &told.store,
        &told.layers,
        &link,
        told.read_ahead,
        told.block_cache_len,
    )?);
    let live = kept(&told)?;
    if let Some((program, seconds)) = &told.keeper_program {
        let holder = SecondHolder {
            device: told.device.clone(),
            socket: told.keeper.clone(),
            program: program.clone(),
            patience: Duration::from_secs(*seconds),
            held: duplicates(&live).map_err(ServeError::Thread)?,
        };
        holder.begin().map_err(ServeError::Thread)?;
    }
    let options = FuseOptions {
        worker_count: told.worker_count,
        stop_grace: told.stop_grace,
        ..FuseOptions::default()
    };
    let session = Arc::new(if is_fresh {
        Session::new(live, &told.file, content, options)?
    } else {
        Session::take_over(live, &told.file, content, options)?
    });
    link.say_serving();
    let (over, is_over) = mpsc::channel();
    let (leaving, has_left) = (Arc::clone(&session), over.clone());
    begin("leave", move || {
        while !link.wait_to_leave(LONG) {}
        if let Err(error) = leaving.stop() {
            // They are not waited for: the successor does them again.
            tracing::info!(
                error = &error as &dyn Error,
                "reads are left to the successor"
            );
        }
        // Nobody listens when the connection has ended as well.
        let _ = has_left.send(());
    })?;
    begin("end", move || {
        while !session.wait_for_end(LONG) {}
        let _ = over.send(());
    })?;
    // Either is the end, and no third is.
    let _ = is_over.recv();
    Ok(())
}

fn duplicates(live: &FuseConnection) -> io::Result<Vec<(&'static str, OwnedFd)>> {
    let mut held = Vec::new();
    if let Some(requests) = &live.requests {
        held.push((REQUESTS_PART, requests.try_clone()?));
    }
    held.push((FUSE_PART, live.fd.try_clone()?));
    Ok(held)
}

/// Starts a thread that does little.
fn begin(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), ServeError> {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_LEN)
        .spawn(work)
        .map(drop)
        .map_err(ServeError::Thread)
}

/// What the keeper has of the device.
fn kept(told: &Description) -> Result<FuseConnection, ServeError> {
    let keeper = KeeperClient::connect(&told.keeper)?;
    let fd = keeper.give(&name(&told.device, FUSE_PART))?;
    Ok(FuseConnection {
        fd: fd.ok_or_else(|| ServeError::NotKept {
            device: told.device.clone(),
        })?,
        requests: keeper.give(&name(&told.device, REQUESTS_PART))?,
    })
}
