//! A block device of the kernel's own NBD driver, served over a socket pair by this process.
//!
//! For kernels without FUSE. The device belongs to nobody's process: when the one that serves it is gone, the kernel sees its end of the pair
//! close, holds the reads, and goes on when a successor hands it another pair.
//!
//! One connection, and none of the driver's own time limit: with that, a read that the network holds up for longer than the limit has its
//! connection taken for dead, and with several connections one after the other, until the device fails. Without it, reads that were in
//! progress when a connection died are sent again at the next look at them. The kernel looks every 30 s unless it is told otherwise.

mod netlink;

use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::block_read::BlockRead;
use crate::crew::Crew;
use crate::errno::{Refusal, refusal};

use super::Export;
use super::buffers::Buffers;
use super::handshake::Agreed;
use super::protocol::{PAYLOAD_LEN_MAX, transmission_flags};
use super::transmission::Transmission;

use netlink::{Attributes, Netlink, find_u32};

/// Where the kernel shows block devices.
const BLOCK_DEVICES: &str = "/sys/block";
/// Length of a sector, in bytes.
const SECTOR_LEN: u64 = 512;
/// How often the kernel looks at reads in progress, in milliseconds: the longest pause that a death of this process makes, once there is a
/// successor. Each look at a read that still waits is a line in the kernel's log.
const LOOK_MS: u32 = 2000;
/// Commands of the driver, and numbers of what is said with them.
const CONNECT: u8 = 1;
const DISCONNECT: u8 = 2;
const RECONFIGURE: u8 = 3;
mod attribute {
    pub(super) const NUMBER: u16 = 1;
    pub(super) const LEN: u16 = 2;
    pub(super) const BLOCK_LEN: u16 = 3;
    pub(super) const FLAGS: u16 = 5;
    pub(super) const SOCKETS: u16 = 7;
    pub(super) const PATIENCE: u16 = 8;
    pub(super) const IDENTIFIER: u16 = 10;
    /// Of each socket.
    pub(super) const SOCKET: u16 = 1;
    pub(super) const DESCRIPTOR: u16 = 1;
}

/// Bounds of a device.
#[derive(Debug, Clone, Copy)]
pub struct KernelNbdOptions {
    /// Most reads in progress at one time.
    pub worker_count: usize,
    /// How long readers wait for a successor of the process that served the device, before they get errors.
    pub patience: Duration,
    /// How long stopping waits for reads in progress.
    pub stop_grace: Duration,
}

impl Default for KernelNbdOptions {
    fn default() -> Self {
        Self {
            worker_count: 16,
            patience: Duration::from_mins(10),
            stop_grace: Duration::from_secs(5),
        }
    }
}

/// Why a device could not be made, found, or taken away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelNbdError {
    /// The driver is not there.
    #[error("the kernel's NBD driver is not loaded (modprobe nbd)")]
    NoDriver {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The driver refused.
    #[error("the kernel's NBD driver does not {what} {device}")]
    Refused {
        /// What it was to do.
        what: &'static str,
        /// With which device.
        device: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A socket pair, a thread or a list could not be had.
    #[error("cannot serve an NBD device")]
    Serve {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Threads still wait in [`BlockRead::read_at`], past the grace; they end when it returns.
    #[error("{count} threads are still reading")]
    StillReading {
        /// How many.
        count: usize,
    },
}

/// A block device that this process serves.
///
/// Dropping it leaves the kernel's part as it is: readers wait for a successor.
#[derive(Debug)]
pub struct KernelNbd {
    number: u32,
    path: PathBuf,
    stream: Arc<UnixStream>,
    crew: Crew,
    grace: Duration,
}

impl KernelNbd {
    /// Makes a device, read-only, of whole sectors of 512 bytes. By `identifier` a later process finds it again.
    pub fn attach(
        identifier: &str,
        content: Arc<dyn BlockRead>,
        options: KernelNbdOptions,
    ) -> Result<Self, KernelNbdError> {
        let mut driver = driver()?;
        let (ours, kernels) = pair()?;
        let mut wish = Attributes::default();
        wish.u64(attribute::LEN, content.len() / SECTOR_LEN * SECTOR_LEN);
        wish.u64(attribute::BLOCK_LEN, SECTOR_LEN);
        wish.u64(attribute::FLAGS, transmission_flags(false).into());
        wish.u64(attribute::PATIENCE, options.patience.as_secs().max(1));
        wish.put(
            attribute::IDENTIFIER,
            &[identifier.as_bytes(), b"\0"].concat(),
        );
        sockets(&mut wish, &kernels)?;
        // Served before it is there: the kernel may look for partitions at once.
        let (stream, crew) = serve(ours, content, options)?;
        let number = driver
            .call(CONNECT, &wish)
            .and_then(|answer| {
                find_u32(&answer, attribute::NUMBER).ok_or(io::ErrorKind::InvalidData.into())
            })
            .map_err(|source| KernelNbdError::Refused {
                what: "make a device for",
                device: identifier.to_owned(),
                source,
            })?;
        let device = Self::of(number, stream, crew, options);
        device.look_often();
        Ok(device)
    }

    /// The device that was made with this identifier, by whatever process: its number.
    pub fn find(identifier: &str) -> Result<Option<u32>, KernelNbdError> {
        let found = find_all(|shown| shown == identifier);
        Ok(found?.into_iter().next().map(|(number, _)| number))
    }

    /// Goes on with device `number`, whose process is gone. The content must be the same.
    pub fn take_over(
        number: u32,
        identifier: &str,
        content: Arc<dyn BlockRead>,
        options: KernelNbdOptions,
    ) -> Result<Self, KernelNbdError> {
        let mut driver = driver()?;
        let (ours, kernels) = pair()?;
        let mut wish = Attributes::default();
        wish.u32(attribute::NUMBER, number);
        wish.put(
            attribute::IDENTIFIER,
            &[identifier.as_bytes(), b"\0"].concat(),
        );
        sockets(&mut wish, &kernels)?;
        let (stream, crew) = serve(ours, content, options)?;
        driver
            .call(RECONFIGURE, &wish)
            .map_err(|source| KernelNbdError::Refused {
                what: "take another connection for",
                device: format!("nbd{number}"),
                source,
            })?;
        let device = Self::of(number, stream, crew, options);
        device.look_often();
        Ok(device)
    }

    fn of(number: u32, stream: Arc<UnixStream>, crew: Crew, options: KernelNbdOptions) -> Self {
        Self {
            number,
            path: path_of(number),
            stream,
            crew,
            grace: options.stop_grace,
        }
    }

    /// The block device: `/dev/nbdN`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn look_often(&self) {
        let name = format!("nbd{}", self.number);
        let knob = Path::new(BLOCK_DEVICES).join(name).join("queue/io_timeout");
        if let Err(error) = fs::write(knob, LOOK_MS.to_string()) {
            tracing::warn!(device = %self.path.display(), %error, "reads of this device may pause for 30 s when the agent dies");
        }
    }

    /// Takes the device away; what still reads it gets errors.
    pub fn detach(self) -> Result<(), KernelNbdError> {
        let gone = disconnect(self.number);
        let left = self.leave();
        gone.and(left)
    }

    /// Ends this process's part: readers wait for a successor, which gets what was not answered.
    pub fn leave(self) -> Result<(), KernelNbdError> {
        // It is the last of this process's ends, or the kernel has closed its own already.
        let _ = self.stream.shutdown(Shutdown::Both);
        match self.crew.dismiss(self.grace) {
            0 => Ok(()),
            count => Err(KernelNbdError::StillReading { count }),
        }
    }
}

impl Drop for KernelNbd {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// All devices whose identifier `is_wanted`, by number, each with its identifier.
pub fn find_all(is_wanted: impl Fn(&str) -> bool) -> Result<Vec<(u32, String)>, KernelNbdError> {
    let mut found = Vec::new();
    let entries = fs::read_dir(BLOCK_DEVICES).map_err(|source| KernelNbdError::Serve { source })?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("nbd"));
        let Some(number) = number.and_then(|number| number.parse().ok()) else {
            continue;
        };
        let shown = fs::read_to_string(entry.path().join("backend")).unwrap_or_default();
        let identifier = shown.strip_suffix('\n').unwrap_or(&shown);
        if !identifier.is_empty() && is_wanted(identifier) {
            found.push((number, identifier.to_owned()));
        }
    }
    Ok(found)
}

/// The block device of that number.
pub fn path_of(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/nbd{number}"))
}

/// Takes a device away that this process need not serve.
pub fn disconnect(number: u32) -> Result<(), KernelNbdError> {
    let mut wish = Attributes::default();
    wish.u32(attribute::NUMBER, number);
    let outcome = driver()?.call(DISCONNECT, &wish);
    match outcome {
        Err(source) if refusal(&source) != Refusal::NoEntry => Err(KernelNbdError::Refused {
            what: "take away",
            device: format!("nbd{number}"),
            source,
        }),
        // No entry: another was faster.
        Ok(_) | Err(_) => Ok(()),
    }
}

fn driver() -> Result<Netlink, KernelNbdError> {
    Netlink::to_family("nbd").map_err(|source| match refusal(&source) {
        Refusal::NoEntry => KernelNbdError::NoDriver { source },
        _ => KernelNbdError::Serve { source },
    })
}

fn pair() -> Result<(UnixStream, UnixStream), KernelNbdError> {
    UnixStream::pair().map_err(|source| KernelNbdError::Serve { source })
}

/// Names the kernel's end of the pair.
fn sockets(wish: &mut Attributes, kernels: &UnixStream) -> Result<(), KernelNbdError> {
    let number = u32::try_from(kernels.as_raw_fd()).map_err(|error| KernelNbdError::Serve {
        source: io::Error::other(error),
    })?;
    let (mut socket, mut list) = (Attributes::default(), Attributes::default());
    socket.u32(attribute::DESCRIPTOR, number);
    list.nest(attribute::SOCKET, &socket);
    wish.nest(attribute::SOCKETS, &list);
    Ok(())
}

/// Answers what comes over `ours`.
fn serve(
    ours: UnixStream,
    content: Arc<dyn BlockRead>,
    options: KernelNbdOptions,
) -> Result<(Arc<UnixStream>, Crew), KernelNbdError> {
    let (stream, crew) = (Arc::new(ours), Crew::default());
    let in_thread = Arc::clone(&stream);
    let work = move || {
        let export = Export {
            name: String::new(),
            description: String::new(),
            content,
        };
        let agreed = Agreed {
            export: &export,
            structured: false,
            base_allocation: false,
        };
        let buffers = Buffers::new(0, PAYLOAD_LEN_MAX as usize);
        Transmission::new(agreed, &in_thread, &buffers, options.worker_count.max(1))
            .leaving_what_stops()
            .run();
    };
    crew.spawn("nbd-kernel".to_owned(), work)
        .map_err(|source| KernelNbdError::Serve { source })?;
    Ok((stream, crew))
}
