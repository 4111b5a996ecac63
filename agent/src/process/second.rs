//! A device process as the second holder of what its device consists of: a keeper that dies while no agent is there has a successor, which
//! is given everything again.
//!
//! It waits on a connection to the keeper, and for nothing else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use tranship_device::keeper::{self, KeeperClient, KeeperError};

use crate::keeping::{give_to_the_next, name};

/// The thread does little.
const STACK_LEN: usize = 128 << 10;

/// What is held, and how a keeper is come by.
pub(super) struct SecondHolder {
    pub(super) device: String,
    pub(super) socket: PathBuf,
    pub(super) program: PathBuf,
    pub(super) patience: Duration,
    /// By the names of the parts.
    pub(super) held: Vec<(&'static str, OwnedFd)>,
}

impl SecondHolder {
    /// Begins to hold, until this process ends.
    pub(super) fn begin(self) -> io::Result<()> {
        thread::Builder::new()
            .name("keeper".to_owned())
            .stack_size(STACK_LEN)
            .spawn(move || self.hold())
            .map(drop)
    }

    fn hold(&self) {
        loop {
            give_to_the_next(&self.socket, || self.give());
        }
    }

    fn give(&self) -> Result<(), KeeperError> {
        let keeper: KeeperClient =
            keeper::connect_or_launch(&self.program, self.patience, &self.socket)?;
        for (part, fd) in &self.held {
            keeper.keep(&name(&self.device, part), fd.as_fd())?;
        }
        Ok(())
    }
}
