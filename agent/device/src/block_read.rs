//! What every front end reads from: a run of bytes of fixed length, and why a read of it can fail.
//!
//! The trait belongs to its consumer, this crate; the agent implements it over an image's layers. It is synchronous
//! because its callers are: a kernel request occupies a thread until it is answered.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::errno::Errno;

/// The content of a device: immutable bytes of a fixed length.
///
/// Reads come from many threads at once and may overlap. A front end turns an error into the errno of its protocol;
/// it never retries, so whatever waiting and asking elsewhere makes sense belongs into the implementation, with a bound.
pub trait BlockRead: Send + Sync {
    /// Length of the device in bytes. It never changes. Front ends that present sectors cut off what lies behind the
    /// last whole sector of 512 bytes.
    fn len(&self) -> u64;

    /// Whether the device has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills all of `buf` with the bytes at `offset`, in bytes from the device's start; any alignment, any length.
    ///
    /// On an error the content of `buf` is unspecified and is not shown to anyone.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockReadError>;

    /// Tells which parts of the `len` bytes at `offset` are known to be zero, so that a copy can leave them out.
    ///
    /// Runs follow each other from `offset` on. The answer may cover less than `len` (the asker comes again for the
    /// rest), never more, and is never empty for a `len` above zero. Unless overridden, everything is data.
    fn allocation(&self, offset: u64, len: u64) -> Vec<Allocation> {
        let _ = offset;
        vec![Allocation { len, zero: false }]
    }

    /// Is called now and then while nobody reads: what is kept for speed alone may go. Others may begin to read meanwhile.
    fn rest(&self) {}
}

/// A run of bytes of a device that are either all known to be zero or possibly something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// Length of the run in bytes.
    pub len: u64,
    /// Whether every byte of the run is zero and none of them is stored.
    pub zero: bool,
}

/// Why bytes of a device could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockReadError {
    /// The read does not lie inside the device.
    #[error("{len} bytes at {offset} do not lie inside a device of {device_len} bytes")]
    OutOfRange {
        /// Where the read began, in bytes.
        offset: u64,
        /// How many bytes were wanted.
        len: u64,
        /// Length of the device in bytes.
        device_len: u64,
    },
    /// No source has the bytes at present.
    #[error("no source has the {len} bytes at {offset}")]
    Unavailable {
        /// Where the read began, in bytes.
        offset: u64,
        /// How many bytes were wanted.
        len: u64,
        /// What the last source said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The bytes did not arrive before the reader's deadline.
    #[error("the {len} bytes at {offset} did not arrive in time")]
    TimedOut {
        /// Where the read began, in bytes.
        offset: u64,
        /// How many bytes were wanted.
        len: u64,
    },
    /// The bytes are there and are not what the image says they are.
    #[error("the {len} bytes at {offset} are corrupt")]
    Corrupt {
        /// Where the read began, in bytes.
        offset: u64,
        /// How many bytes were wanted.
        len: u64,
        /// What was found wrong.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// This node may not read the image, or may not any longer.
    #[error("reading the {len} bytes at {offset} is not permitted")]
    Denied {
        /// Where the read began, in bytes.
        offset: u64,
        /// How many bytes were wanted.
        len: u64,
    },
    /// The device is being taken down, so reads are no longer answered.
    #[error("the device is stopping")]
    Stopping,
}

impl BlockReadError {
    /// Checks that the `len` bytes at `offset` lie inside a device of `device_len` bytes.
    pub fn check_range(offset: u64, len: u64, device_len: u64) -> Result<(), Self> {
        match offset.checked_add(len) {
            Some(end) if end <= device_len => Ok(()),
            _ => Err(Self::OutOfRange {
                offset,
                len,
                device_len,
            }),
        }
    }
}

/// Reads for a front end: errors are logged here, once, and become an errno; so does a panic of the implementation, because
/// a request that is never answered hangs its reader for ever.
pub(crate) fn read_or_errno(
    content: &dyn BlockRead,
    offset: u64,
    buf: &mut [u8],
) -> Result<(), Errno> {
    let len = buf.len();
    let outcome = catch_unwind(AssertUnwindSafe(|| content.read_at(offset, buf)));
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error @ BlockReadError::Stopping)) => Err(Errno::from(&error)),
        Ok(Err(error)) => {
            tracing::warn!(error = &error as &dyn Error, offset, len, "a read fails");
            Err(Errno::from(&error))
        }
        Err(_) => {
            tracing::error!(offset, len, "a read panicked");
            Err(Errno::Io)
        }
    }
}

/// Which parts of the `len` bytes at `offset` are zero, whatever the implementation answers: no empty run, no two runs of a
/// kind side by side, not more than `len` bytes, and at least one run if `len` is above zero.
pub(crate) fn runs_of(content: &dyn BlockRead, offset: u64, len: u64) -> Vec<Allocation> {
    let answer = catch_unwind(AssertUnwindSafe(|| content.allocation(offset, len)));
    let mut runs: Vec<Allocation> = Vec::new();
    let mut left = len;
    for mut run in answer.unwrap_or_default() {
        run.len = run.len.min(left);
        left -= run.len;
        match runs.last_mut() {
            _ if run.len == 0 => {}
            Some(last) if last.zero == run.zero => last.len += run.len,
            _ => runs.push(run),
        }
    }
    if runs.is_empty() && len > 0 {
        runs.push(Allocation { len, zero: false });
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_may_end_at_the_end_and_not_behind_it() {
        assert!(BlockReadError::check_range(0, 10, 10).is_ok());
        assert!(BlockReadError::check_range(10, 0, 10).is_ok());
        assert!(BlockReadError::check_range(1, 10, 10).is_err());
        assert!(BlockReadError::check_range(11, 0, 10).is_err());
    }

    struct Answers(Vec<Allocation>);

    impl BlockRead for Answers {
        fn len(&self) -> u64 {
            1 << 40
        }

        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<(), BlockReadError> {
            Err(BlockReadError::Stopping)
        }

        fn allocation(&self, _: u64, _: u64) -> Vec<Allocation> {
            assert!(self.0.len() < 9, "too many to bear");
            self.0.clone()
        }
    }

    #[test]
    fn any_answer_about_zeros_is_brought_into_form() {
        let run = |len, zero| Allocation { len, zero };
        let runs = |answer: &[Allocation]| runs_of(&Answers(answer.to_vec()), 0, 100);
        assert_eq!(runs(&[]), [run(100, false)]);
        assert_eq!(runs(&[run(0, true)]), [run(100, false)]);
        assert_eq!(
            runs(&[
                run(10, true),
                run(0, false),
                run(10, true),
                run(u64::MAX, false)
            ]),
            [run(20, true), run(80, false)]
        );
        assert_eq!(runs(&[run(30, true)]), [run(30, true)], "a part will do");
        assert_eq!(runs(&[run(1, true); 9]), [run(100, false)], "a panic");
        assert_eq!(runs_of(&Answers(Vec::new()), 0, 0), []);
    }

    #[test]
    fn a_read_whose_end_overflows_is_out_of_range() {
        assert!(BlockReadError::check_range(u64::MAX, 2, u64::MAX).is_err());
    }
}
