//! A block device of the kernel's ublk driver: requests come over an `io_uring`, data go by write(2).
//!
//! The device outlives the process that serves it: reads wait, and the driver gives a successor what the dead process had of them. So nothing
//! has to be held by anyone else; what has to be remembered is the device's number.

mod abi;
mod control;
mod queue;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::block_read::BlockRead;
use crate::crew::Crew;
use crate::errno::{Refusal, refusal};

use abi::{SECTOR_LEN, command};
use control::Control;
use queue::{Held, Shared, Taker};

/// Places of a device's queue: most requests in progress at one time.
const DEPTH: u16 = 64;
/// How long the driver may take to see that a device's process is gone, and to make its nodes.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look whether it has.
const LOOK: Duration = Duration::from_millis(5);

/// Bounds of a device.
#[derive(Debug, Clone, Copy)]
pub struct UblkOptions {
    /// Most reads in progress at one time; each holds up to 1 MiB.
    pub worker_count: usize,
    /// How long stopping waits for reads in progress.
    pub stop_grace: Duration,
}

impl Default for UblkOptions {
    fn default() -> Self {
        Self {
            worker_count: 8,
            stop_grace: Duration::from_secs(5),
        }
    }
}

/// Why a device could not be made, gone on with, or taken away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UblkError {
    /// The driver is not there.
    #[error(
        "the kernel's ublk driver is not there (Linux 6.5 or later with CONFIG_BLK_DEV_UBLK; modprobe ublk_drv)"
    )]
    NoDriver {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The driver lacks something.
    #[error("the kernel's ublk driver cannot have data copied by write(2) (Linux 6.5 can)")]
    TooOld,
    /// The driver crashes, and whoever calls it with it.
    #[error("the ublk driver of Linux {release} crashes when a device is made")]
    Crashes {
        /// The kernel's release.
        release: String,
    },
    /// The number is another device's.
    #[error("there is a ublk device {number} already")]
    Taken {
        /// The number.
        number: u32,
    },
    /// The driver refused.
    #[error("the kernel's ublk driver does not {what} device {number}")]
    Refused {
        /// What it was to do.
        what: &'static str,
        /// With which device.
        number: u32,
        /// The kernel's answer.
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
pub struct Ublk {
    number: u32,
    path: PathBuf,
    shared: Arc<Shared>,
    /// Until it is told to leave.
    taker: Option<Taker>,
    /// Those who read.
    crew: Crew,
    grace: Duration,
}

impl Ublk {
    /// Makes device `number`, read-only, of whole sectors of 512 bytes.
    pub fn attach(
        number: u32,
        content: Arc<dyn BlockRead>,
        options: UblkOptions,
    ) -> Result<Self, UblkError> {
        let mut control = control()?;
        let info = control
            .add(number, DEPTH)
            .map_err(|source| match refusal(&source) {
                Refusal::Exists => UblkError::Taken { number },
                Refusal::Invalid => UblkError::TooOld,
                _ => refused("make", number)(source),
            })?;
        if info.features() & abi::USER_COPY == 0 {
            let _ = control.tell(command::DELETE, number, 0);
            return Err(UblkError::TooOld);
        }
        let sector_count = content.len() / SECTOR_LEN;
        let started = control
            .set_parameters(number, sector_count)
            .map_err(refused("describe", number))
            .and_then(|()| Self::serve(number, info.depth(), content, options))
            .and_then(|device| {
                // It is answered when all places of the queue are taken.
                control
                    .tell(command::START, number, process())
                    .map_err(refused("start", number))?;
                Ok(device)
            });
        match started {
            Ok(device) => {
                wait_for_node(&device.path);
                Ok(device)
            }
            Err(error) => {
                let _ = control.tell(command::DELETE, number, 0);
                Err(error)
            }
        }
    }

    /// Goes on with device `number`, whose process is gone. The content must be the same.
    pub fn take_over(
        number: u32,
        content: Arc<dyn BlockRead>,
        options: UblkOptions,
    ) -> Result<Self, UblkError> {
        let mut control = control()?;
        let depth = wait_until_quiet(&mut control, number).map_err(refused("hand over", number))?;
        begin_recovery(&mut control, number).map_err(refused("begin to hand over", number))?;
        let device = Self::serve(number, depth, content, options)?;
        control
            .tell(command::END_RECOVERY, number, process())
            .map_err(refused("hand over", number))?;
        Ok(device)
    }

    fn serve(
        number: u32,
        depth: u16,
        content: Arc<dyn BlockRead>,
        options: UblkOptions,
    ) -> Result<Self, UblkError> {
        let node = PathBuf::from(format!("/dev/ublkc{number}"));
        wait_for_node(&node);
        let crew = Crew::default();
        let begun = open(&node)
            .and_then(|device| queue::begin(device, depth, content, options.worker_count, &crew));
        let (shared, taker) = begun.map_err(refused("open", number))?;
        Ok(Self {
            number,
            path: path_of(number),
            shared,
            taker: Some(taker),
            crew,
            grace: options.stop_grace,
        })
    }

    /// The block device: `/dev/ublkbN`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the device away; what still reads it gets errors.
    pub fn detach(self) -> Result<(), UblkError> {
        let number = self.number;
        let left = self.leave();
        delete(number)?;
        left
    }

    /// Ends this process's part: readers wait for a successor, which gets what was not answered.
    pub fn leave(mut self) -> Result<(), UblkError> {
        let held = self.end_queue();
        let reading = self.crew.dismiss(self.grace);
        drop(held);
        self.shared.close();
        match reading {
            0 => Ok(()),
            count => Err(UblkError::StillReading { count }),
        }
    }
}

impl Ublk {
    /// Has no more requests taken; what keeps the queue open towards the driver, if that was not done before.
    fn end_queue(&mut self) -> Option<Held> {
        let taker = self.taker.take()?;
        self.shared.leave();
        taker.join()
    }
}

impl Drop for Ublk {
    fn drop(&mut self) {
        drop(self.end_queue());
        self.shared.close();
    }
}

impl std::fmt::Debug for Ublk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ublk")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// The block device of that number.
pub fn path_of(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkb{number}"))
}

/// A number that no device has at this moment.
pub fn free_number() -> u32 {
    (0..u32::MAX)
        .find(|number| !is_there(*number))
        .unwrap_or_default()
}

/// Whether there is a device of that number.
pub fn is_there(number: u32) -> bool {
    Path::new(&format!("/dev/ublkc{number}")).exists()
}

/// Whether another process, which lives, serves the device of that number.
pub fn is_anothers(number: u32) -> bool {
    let info = control()
        .ok()
        .and_then(|mut control| control.info(number).ok());
    info.is_some_and(|info| {
        info.state() == abi::LIVE
            && info.process() != std::process::id()
            && Path::new(&format!("/proc/{}", info.process())).exists()
    })
}

/// Takes a device away that this process need not serve.
pub fn delete(number: u32) -> Result<(), UblkError> {
    let mut control = control()?;
    for (command, what) in [(command::STOP, "stop"), (command::DELETE, "take away")] {
        match control.tell(command, number, 0) {
            Err(source) if refusal(&source) != Refusal::Unknown => {
                return Err(refused(what, number)(source));
            }
            // Unknown: another was faster.
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn control() -> Result<Control, UblkError> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    if release.starts_with("6.17.") {
        return Err(UblkError::Crashes { release });
    }
    Control::open().map_err(|source| UblkError::NoDriver { source })
}

fn refused(what: &'static str, number: u32) -> impl Fn(io::Error) -> UblkError {
    move |source| UblkError::Refused {
        what,
        number,
        source,
    }
}

fn process() -> u64 {
    std::process::id().into()
}

fn open(node: &Path) -> io::Result<File> {
    let begun = Instant::now();
    loop {
        match File::options().read(true).write(true).open(node) {
            // The dead process's last descriptor is about to be closed.
            Err(error) if refusal(&error) == Refusal::Busy && begun.elapsed() < PATIENCE => {
                thread::sleep(LOOK);
            }
            outcome => return outcome,
        }
    }
}

/// Waits for a node that devtmpfs makes, or udev.
fn wait_for_node(node: &Path) {
    let begun = Instant::now();
    while !node.exists() && begun.elapsed() < PATIENCE {
        thread::sleep(LOOK);
    }
}

/// Tells the driver that a successor is there, once the dead process's last descriptor is closed.
fn begin_recovery(control: &mut Control, number: u32) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        match control.tell(command::START_RECOVERY, number, 0) {
            Err(error) if refusal(&error) == Refusal::Busy && begun.elapsed() < PATIENCE => {
                thread::sleep(LOOK);
            }
            outcome => return outcome,
        }
    }
}

/// Waits until the driver has seen that the device's process is gone; the depth of its queue.
fn wait_until_quiet(control: &mut Control, number: u32) -> io::Result<u16> {
    let begun = Instant::now();
    loop {
        let info = control.info(number)?;
        if info.state() == abi::QUIESCED || begun.elapsed() >= PATIENCE {
            return Ok(info.depth());
        }
        thread::sleep(LOOK);
    }
}
