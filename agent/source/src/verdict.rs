//! What to do next after a source failed, asked of the error itself and not of its text.

use std::time::Duration;

/// The next step that an error recommends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same source may well answer after this time.
    TryAgain {
        /// How long to leave it alone.
        after: Duration,
    },
    /// This source will not answer; another may.
    TryElsewhere,
    /// This source gave wrong bytes: use it no more for this blob.
    Ban,
    /// No source can answer this.
    GiveUp,
}
