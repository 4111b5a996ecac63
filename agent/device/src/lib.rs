//! Block devices out of anything that can be read at an offset: the edge towards the kernel and towards virtual machines.
//!
//! This crate knows bytes and errno and nothing of images, so that a front end is tested with a [`Memory`] and a
//! wrong byte has one place less to come from. Everything here is synchronous: the kernel's requests arrive on threads
//! that this crate owns, and [`BlockRead::read_at`] may block on them for as long as a chunk takes to arrive.
//!
//! ```no_run
//! use std::{path::Path, sync::Arc};
//! use tranship_device::{FuseFile, FuseOptions, Memory, mount};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let content = Arc::new(Memory::new(std::fs::read("image.erofs")?));
//! let file = FuseFile::mount(Path::new("/run/tranship/7"), "device", content, FuseOptions::default())?;
//! mount::erofs_file(file.path(), Path::new("/mnt"))?;
//! mount::unmount(Path::new("/mnt"))?;
//! file.stop()?;
//! # Ok(()) }
//! ```

mod allocator;
pub mod apart;
mod block_read;
mod crew;
mod errno;
pub mod front_end;
mod fuse;
#[doc(hidden)]
pub mod fuzz;
pub mod keeper;
mod loop_device;
mod mapping;
mod memory;
pub mod mount;
mod nbd;
mod shared_bytes;
mod socket;
mod speaks;
pub mod ublk;
mod vhost_user;

pub use allocator::{give_large_buffers_back, give_memory_back};
pub use block_read::{Allocation, BlockRead, BlockReadError};
pub use front_end::{FrontEnd, UnknownFrontEnd};
pub use fuse::{FuseConnection, FuseError, FuseFile, FuseMount, FuseOptions, Session};
pub use kernel_nbd::{KernelNbd, KernelNbdError, KernelNbdOptions};
pub use loop_device::{LoopDevice, LoopError, LoopOptions};
pub use memory::Memory;
pub use mount::{BackingIo, MountError};
pub use nbd::kernel as kernel_nbd;
pub use nbd::{Export, NbdError, NbdOptions, NbdServer};
pub use shared_bytes::{SharedBytes, share_bytes};
pub use socket::DeviceSocket;
pub use speaks::Speaks;
pub use ublk::{Ublk, UblkError, UblkOptions};
pub use vhost_user::{VhostUserError, VhostUserOptions, VhostUserServer};
