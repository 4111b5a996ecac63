//! What an earlier agent left of a device: with the keeper, or on a plain file that the kernel reads by itself.

use std::error::Error;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tranship_device::FuseConnection;

use crate::front_end::{FUSE_PART, FUSE_PARTS, LOOP_PART, Left, Presented, REQUESTS_PART};
use crate::keeping::Keeping;
use crate::plain;
use crate::process;

/// How long a device's process may take to give a new keeper what it holds, and how often to look.
const GIVE_PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

/// A device that an earlier agent left on its plain file: the kernel has all of it.
pub(super) fn find_graduated(keeping: &Keeping, id: &str, dir: &Path) -> Option<Presented> {
    match Presented::find_graduated(dir, &plain::path_in(dir)) {
        Ok(found) => {
            if found.is_some() {
                keeping.let_go(id, &FUSE_PARTS);
            }
            found
        }
        Err(error) => {
            tracing::warn!(
                device = id,
                error = &error as &dyn Error,
                "a graduated device cannot be looked for"
            );
            None
        }
    }
}

/// What the keeper holds of a device that an earlier agent had. A keeper that is new is given that by the device's process, a moment
/// after it has begun.
pub(super) fn take_back(keeping: &Keeping, id: &str, dir: &Path) -> Option<Left> {
    let begun = Instant::now();
    loop {
        let left = take_now(keeping, id);
        if left.is_some() || !process::is_alive(dir) || begun.elapsed() > GIVE_PATIENCE {
            return left;
        }
        thread::sleep(LOOK);
    }
}

fn take_now(keeping: &Keeping, id: &str) -> Option<Left> {
    Some(Left {
        fuse: FuseConnection {
            fd: keeping.take(id, FUSE_PART)?,
            requests: keeping.take(id, REQUESTS_PART),
        },
        device: keeping.take(id, LOOP_PART),
    })
}
