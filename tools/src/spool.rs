//! Files that have no name: what is spooled there goes with its handle, however the verb ends.

use std::fs::File;
use std::io;
use std::path::Path;

use tokio::io::AsyncWriteExt;
use tranship_source::{Descriptor, ImageStore};

/// A new file without a name in `dir`.
///
/// # Errors
/// The directory does not take it.
pub(crate) fn file(dir: &Path) -> io::Result<File> {
    tempfile::tempfile_in(dir)
}

/// A whole blob, verified, in a file without a name.
///
/// # Errors
/// The blob cannot be read, has another digest, or does not fit on the disk.
pub(crate) async fn whole_blob(store: &ImageStore, descriptor: &Descriptor) -> io::Result<File> {
    let mut into = tokio::fs::File::from_std(file(&std::env::temp_dir())?);
    let mut blob = store
        .blob(&descriptor.digest)
        .await
        .map_err(io::Error::other)?;
    let len = tokio::io::copy(&mut blob, &mut into).await?;
    into.flush().await?;
    if len != descriptor.size {
        let why = format!("the blob has {len} bytes and not {}", descriptor.size);
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(into.into_std().await)
}
