//! Devices of the ublk driver, which knows them by numbers alone: which number is a device's stands in the device's directory.
//!
//! It is written down before the device is made. A crash in between leaves a number that nobody has, or that another has taken since; the
//! latter is told by its process, which lives.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tranship_device::{BlockRead, Ublk, UblkError, UblkOptions, ublk};

use super::{FrontEndError, FrontEndOptions, Presented};

/// Name of the file with the number.
const NUMBER: &str = "ublk.number";

/// The number of the device that an earlier agent made for the device's directory `dir`, if the driver has one of that number.
pub(crate) fn number_in(dir: &Path) -> Option<u32> {
    let text = fs::read_to_string(dir.join(NUMBER)).ok()?;
    let number = text.trim().parse().ok()?;
    ublk::is_there(number).then_some(number)
}

/// Forgets the number.
pub(crate) fn forget(dir: &Path) {
    // There may be none.
    let _ = fs::remove_file(dir.join(NUMBER));
}

/// Goes on with the device of an earlier agent, or makes one.
pub(super) fn begin(
    dir: &Path,
    content: &Arc<dyn BlockRead>,
    options: FrontEndOptions,
) -> Result<Presented, FrontEndError> {
    let bounds = UblkOptions {
        worker_count: options.worker_count,
        stop_grace: options.stop_grace,
    };
    if let Some(number) = number_in(dir) {
        match Ublk::take_over(number, Arc::clone(content), bounds) {
            Ok(device) => return Ok(Presented::Ublk { device }),
            Err(error) => {
                tracing::warn!(
                    number,
                    error = &error as &dyn std::error::Error,
                    "a device of an earlier run is made anew, and its readers get errors"
                );
                ublk::delete(number)?;
            }
        }
    }
    loop {
        let number = ublk::free_number();
        note(dir, number).map_err(|source| FrontEndError::Directory {
            path: dir.join(NUMBER),
            source,
        })?;
        match Ublk::attach(number, Arc::clone(content), bounds) {
            // Another was faster.
            Err(UblkError::Taken { .. }) => {}
            Err(error) => {
                forget(dir);
                return Err(error.into());
            }
            Ok(device) => return Ok(Presented::Ublk { device }),
        }
    }
}

fn note(dir: &Path, number: u32) -> io::Result<()> {
    fs::write(dir.join(NUMBER), format!("{number}\n"))
}
