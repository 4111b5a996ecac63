//! A blob that came without a chunk table: read whole, checked by its own digest, and cut.
//!
//! Its bytes wait in a file, because nothing may enter the store but under a table, and the table is known with the last
//! byte. A node does this for itself; a tracker does it once for many nodes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use bytes::BytesMut;
use tempfile::{NamedTempFile, TempPath};
use tokio::io::AsyncWriteExt;
use tranship_format::chunk::ProofBuilder;
use tranship_format::{ChunkTable, Digest};
use tranship_store::{BlobStore, StoreError};

use crate::reference::RepoRef;
use crate::registry::RegistryClient;

/// A blob in a file, its digest found right, and its proof. The file is gone when this is.
#[derive(Debug)]
pub struct WholeBlob {
    path: TempPath,
    table: ChunkTable,
}

impl WholeBlob {
    /// Reads a blob of `len` bytes into a new file in `dir`. `came` is told how many bytes came so far.
    ///
    /// # Errors
    /// The registry's, the disk's, or that the blob has another digest or length; nothing is left behind.
    pub async fn read(
        client: &RegistryClient,
        repo: &RepoRef,
        blob: &Digest,
        len: u64,
        dir: &Path,
        mut came: impl FnMut(u64) + Send,
    ) -> io::Result<Self> {
        let mut stream = client.blob(repo, blob).await.map_err(io::Error::other)?;
        let (file, path) = NamedTempFile::new_in(dir)?.into_parts();
        let mut file = tokio::fs::File::from_std(file);
        let mut proof = ProofBuilder::new();
        let mut came_len = 0_u64;
        while let Some(piece) = stream.next().await.map_err(io::Error::other)? {
            came_len = came_len.saturating_add(piece.len() as u64);
            if came_len > len {
                break;
            }
            proof.update(&piece);
            file.write_all(&piece).await?;
            came(came_len);
        }
        if came_len != len {
            let why = format!("the blob has not the {len} bytes that its manifest says");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        file.flush().await?;
        Ok(Self {
            path,
            table: proof.finish(),
        })
    }

    /// Its proof.
    pub fn table(&self) -> &ChunkTable {
        &self.table
    }

    /// Puts every chunk into the store, as far as there is room. Blocks on the disk.
    ///
    /// # Errors
    /// The disk's, or that `kept` is open under another table.
    pub fn keep(&self, kept: &BlobStore) -> io::Result<()> {
        let mut file = File::open(&self.path)?;
        let table = kept.table();
        for index in table.all() {
            let range = table.range(index);
            let mut bytes =
                BytesMut::zeroed(usize::try_from(range.len()).map_err(io::Error::other)?);
            file.seek(SeekFrom::Start(range.start))?;
            file.read_exact(&mut bytes)?;
            let chunk = table
                .verify(index, bytes.freeze())
                .map_err(io::Error::other)?;
            match kept.put(index, &chunk) {
                Ok(()) => {}
                Err(StoreError::Full { .. }) => return Ok(()),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(())
    }
}
