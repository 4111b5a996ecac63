//! Devices of the ublk driver, which knows them by numbers alone: which number is a device's stands in the device's directory.
//!
//! It is written down before the device is made, with the boot in which that was: numbers begin anew with each. A crash in between leaves a
//! number that nobody has, or that another has taken since; the latter is told by its process, which lives, and is left alone.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tranship_device::{BlockRead, Ublk, UblkError, UblkOptions, ublk};

use super::{FrontEndError, FrontEndOptions, Presented};

/// Name of the file with the number and the boot.
const NUMBER: &str = "ublk.number";
/// Where the kernel tells which boot this is.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// The number of the device that an earlier agent made for the device's directory `dir`, if the driver has one of that number.
pub(crate) fn number_in(dir: &Path) -> Option<u32> {
    noted(dir).filter(|number| ublk::is_there(*number))
}

/// The number that was written down in this boot.
fn noted(dir: &Path) -> Option<u32> {
    let text = fs::read_to_string(dir.join(NUMBER)).ok()?;
    let mut words = text.split_whitespace();
    let number = words.next()?.parse().ok()?;
    // An older agent did not note the boot.
    let is_of_this_boot = words.next().is_none_or(|noted| noted == boot());
    is_of_this_boot.then_some(number)
}

fn boot() -> String {
    // Where the kernel does not tell, all boots are one.
    let boot = fs::read_to_string(BOOT).unwrap_or_default();
    boot.trim().to_owned()
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
                let error = &error as &dyn std::error::Error;
                if ublk::is_anothers(number) {
                    // It has no readers of ours: the device of an earlier run went before another could have its number.
                    tracing::warn!(
                        number,
                        error,
                        "the number of a device of an earlier run is another's by now; a free one is taken"
                    );
                } else {
                    tracing::warn!(
                        number,
                        error,
                        "a device of an earlier run is made anew, and its readers get errors"
                    );
                    ublk::delete(number)?;
                }
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
    fs::write(dir.join(NUMBER), format!("{number} {}\n", boot()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_another_boot_is_anybodys() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(noted(dir.path()), None);
        note(dir.path(), 7).unwrap();
        assert_eq!(noted(dir.path()), Some(7));
        let place = dir.path().join(NUMBER);
        fs::write(&place, "7\n").unwrap();
        assert_eq!(noted(dir.path()), Some(7), "an older agent's");
        fs::write(&place, "7 another\n").unwrap();
        assert_eq!(noted(dir.path()), None);
        fs::write(&place, "no number\n").unwrap();
        assert_eq!(noted(dir.path()), None);
    }
}
