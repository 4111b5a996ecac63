//! What a regular file's entry says of its content: how long it is, and where in the file its stored bytes belong.
//!
//! The sparse forms differ in where their map stands (in the header, behind it, in PAX records, in front of the data), so
//! finding it moves the reader; what comes out is the same list of runs for all of them.

use std::io::Read;

use super::error::{ReadTarError, shown};
use super::header::{BLOCK_LEN, Header};
use super::pax::Extended;
use super::sparse::{self, Run};
use super::{EntryKind, LayerTar, padding_of};

impl<R: Read> LayerTar<R> {
    /// A socket has no content; an entry that says it is one and has some contradicts itself.
    pub(super) fn socket(
        &mut self,
        header: &Header,
        extended: &Extended,
        path: &[u8],
    ) -> Result<EntryKind, ReadTarError> {
        match self.file(header, extended, path)? {
            EntryKind::File { size: 0 } => Ok(EntryKind::Socket),
            _ => Err(ReadTarError::SocketContent { entry: shown(path) }),
        }
    }

    /// Finds out how long a file is and where its stored bytes belong.
    pub(super) fn file(
        &mut self,
        header: &Header,
        extended: &Extended,
        path: &[u8],
    ) -> Result<EntryKind, ReadTarError> {
        let stored = extended.size.map_or_else(|| header.size(), Ok)?;
        self.padding = padding_of(stored);
        self.stored_left = stored;
        let (size, mut runs) = if header.kind() == b'S' {
            let (mut runs, size) = header.old_sparse(path)?;
            let mut more = header.old_sparse_goes_on();
            while more {
                let block = self.block("sparse map")?;
                let block = block.ok_or(ReadTarError::Truncated { what: "sparse map" })?;
                more = sparse::old_extension(&block, &mut runs, path)?;
            }
            (size, runs)
        } else if let Some(sparse) = extended.sparse() {
            let runs = match sparse.runs {
                Some(runs) => runs,
                None => self.leading_map(path)?,
            };
            (sparse.size.unwrap_or(stored), runs)
        } else {
            (
                stored,
                vec![Run {
                    offset: 0,
                    len: stored,
                }],
            )
        };
        sparse::check(&runs, size, self.stored_left, path)?;
        runs.reverse();
        self.runs = runs;
        Ok(EntryKind::File { size })
    }

    /// The map in front of the data of a sparse file in PAX format 1.0.
    fn leading_map(&mut self, path: &[u8]) -> Result<Vec<Run>, ReadTarError> {
        let mut map = sparse::LeadingMap::default();
        loop {
            let block = if self.stored_left >= BLOCK_LEN as u64 {
                self.block("sparse map")?
            } else {
                None
            };
            let block = block.ok_or(ReadTarError::Truncated { what: "sparse map" })?;
            self.stored_left -= BLOCK_LEN as u64;
            if let Some(runs) = map.add(&block, path)? {
                return Ok(runs);
            }
        }
    }
}
