//! The snapshotter against a slow model, real crashes, and what containerd was heard to say.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where it is wrong"
)]

mod crash;
mod fake;
mod lazy;
mod model;
mod ordinary;
mod recover;
mod wire;
