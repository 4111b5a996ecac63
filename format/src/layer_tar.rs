//! The tar of an OCI layer, read entry by entry from a stream.
//!
//! Layers come from every tar writer there is, so this reads what GNU tar, libarchive, star and Go write: PAX records,
//! GNU long names, base-256 numbers, and the four ways to say that a file is sparse. Where they differ, Go's reading
//! counts, because it is what container runtimes unpack with: global PAX headers say nothing, and only regular
//! files have data. What a layer *means* (whiteouts, links, duplicate names) is for [`crate::convert`].

mod acl;
mod attributes;
mod content;
mod entry;
mod error;
mod header;
mod number;
mod pax;
mod sparse;

pub use entry::{EntryKind, TarEntry, Timestamp};
pub use error::ReadTarError;

use std::io::{self, Read};

pub(crate) use error::shown;
use header::{BLOCK_LEN, Header};
use pax::Extended;
use sparse::Run;

/// Longest PAX header or GNU long name in bytes. Go refuses longer ones, so no image that runs has them.
const MAX_EXTENSION_LEN: u64 = 1 << 20;

/// Bytes behind the archive's end that are read at once.
const DRAIN_LEN: usize = 16 << 10;

/// Reads the entries of a layer's tar from a stream.
#[derive(Debug)]
pub struct LayerTar<R> {
    input: R,
    /// Bytes read so far, for messages.
    position: u64,
    /// Bytes of the current entry's stored data that were not read yet, and its padding.
    stored_left: u64,
    padding: u64,
    /// Where the stored data belongs in the file: the runs to come, the current one last.
    runs: Vec<Run>,
    ended: bool,
}

impl<R: Read> LayerTar<R> {
    /// Reads from `input`, which is not compressed. Small reads are made: give a buffered one.
    pub fn new(input: R) -> Self {
        Self {
            input,
            position: 0,
            stored_left: 0,
            padding: 0,
            runs: Vec::new(),
            ended: false,
        }
    }

    /// The next entry; data of the one before that was not read is skipped. `None` at the archive's end.
    pub fn next_entry(&mut self) -> Result<Option<TarEntry>, ReadTarError> {
        self.skip(self.stored_left.saturating_add(self.padding))?;
        (self.stored_left, self.padding) = (0, 0);
        self.runs.clear();
        let mut extended = Extended::default();
        let mut long_name = None;
        let mut long_link = None;
        let mut described = false;
        while let Some(header) = self.next_header()? {
            described = header.kind() != b'g';
            match header.kind() {
                b'x' => extended = Extended::parse(&self.extension(&header, "PAX header")?)?,
                b'g' => {
                    let len = header.size()?;
                    self.skip(len.saturating_add(padding_of(len)))?;
                }
                b'L' => long_name = Some(until_nul(self.extension(&header, "long name")?)),
                b'K' => long_link = Some(until_nul(self.extension(&header, "long link")?)),
                _ => {
                    return self
                        .entry(&header, extended, long_name, long_link)
                        .map(Some);
                }
            }
        }
        if described {
            return Err(ReadTarError::Truncated {
                what: "header's entry",
            });
        }
        Ok(None)
    }

    /// Where in the current file the next byte of [`Self::read_data`] belongs; `None` if no more is stored. Offsets only
    /// grow, and what lies between two runs is a hole.
    pub fn data_offset(&mut self) -> Option<u64> {
        while self.runs.last().is_some_and(|run| run.len == 0) {
            self.runs.pop();
        }
        self.runs.last().map(|run| run.offset)
    }

    /// Reads on in the current file's data, up to the end of `buf` or of the run of stored bytes; returns how many bytes
    /// of `buf` were filled, 0 only at the end of the data.
    pub fn read_data(&mut self, buf: &mut [u8]) -> Result<usize, ReadTarError> {
        self.data_offset();
        let Some(run) = self.runs.last_mut() else {
            return Ok(0);
        };
        let left = usize::try_from(run.len).unwrap_or(usize::MAX);
        let len = left.min(buf.len());
        run.offset += len as u64;
        run.len -= len as u64;
        self.stored_left = self.stored_left.saturating_sub(len as u64);
        if let Some(buf) = buf.get_mut(..len) {
            self.fill(buf, "file's data")?;
        }
        Ok(len)
    }

    /// Reads whatever follows the archive's end and gives the input back. Writers pad with zeros; anything else is a second
    /// archive or a hiding place, which some readers see and others do not, so it is refused.
    pub fn drain(mut self) -> Result<R, ReadTarError> {
        let end = self.position;
        let mut buf = vec![0; DRAIN_LEN];
        loop {
            let len = match self.input.read(&mut buf) {
                Ok(0) => return Ok(self.input),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ReadTarError::Read(error)),
            };
            let read = buf.get(..len).unwrap_or_default();
            if let Some(at) = read.iter().position(|byte| *byte != 0) {
                let offset = self.position.saturating_add(at as u64);
                return Err(ReadTarError::BehindTheEnd { end, offset });
            }
            self.position = self.position.saturating_add(len as u64);
        }
    }

    fn next_header(&mut self) -> Result<Option<Header>, ReadTarError> {
        if self.ended {
            return Ok(None);
        }
        let offset = self.position;
        let Some(block) = self.block("header")? else {
            self.ended = true;
            return Ok(None);
        };
        if block.iter().any(|byte| *byte != 0) {
            return Header::new(&block, offset).map(Some);
        }
        // Two zero blocks end an archive; so does one at the end of the stream.
        self.ended = true;
        match self.block("end of archive")? {
            Some(second) if second.iter().any(|byte| *byte != 0) => Err(ReadTarError::Header {
                offset,
                why: "a single zero block is followed by more",
            }),
            _ => Ok(None),
        }
    }

    fn entry(
        &mut self,
        header: &Header,
        extended: Extended,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<TarEntry, ReadTarError> {
        let path = extended
            .path()
            .or(long_name)
            .unwrap_or_else(|| header.path());
        let target = extended.link_path.clone().or(long_link);
        let target = target.unwrap_or_else(|| header.link_name());
        if path.contains(&0) || target.contains(&0) {
            return Err(ReadTarError::Name {
                entry: shown(&path),
                why: "it contains a NUL byte",
            });
        }
        let kind = match header.kind() {
            0 if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' if extended.is_socket() => self.socket(header, &extended, &path)?,
            0 | b'0' | b'7' | b'S' => self.file(header, &extended, &path)?,
            b'1' => EntryKind::HardLink { target },
            b'2' => EntryKind::Symlink { target },
            b'3' => {
                let (major, minor) = header.device(&extended, &path)?;
                EntryKind::CharDevice { major, minor }
            }
            b'4' => {
                let (major, minor) = header.device(&extended, &path)?;
                EntryKind::BlockDevice { major, minor }
            }
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            code => {
                return Err(ReadTarError::Unsupported {
                    entry: shown(&path),
                    code: char::from(code),
                });
            }
        };
        let xattrs = extended.attributes.finish();
        let xattrs = xattrs.map_err(|why| ReadTarError::Acl {
            entry: shown(&path),
            why,
        })?;
        Ok(TarEntry {
            kind,
            permissions: header.permissions(&path)?,
            uid: extended.uid.map_or_else(|| header.uid(&path), Ok)?,
            gid: extended.gid.map_or_else(|| header.gid(&path), Ok)?,
            mtime: extended.mtime.map_or_else(|| header.mtime(&path), Ok)?,
            xattrs,
            path,
        })
    }

    /// The data of a header that describes the next one.
    fn extension(&mut self, header: &Header, what: &'static str) -> Result<Vec<u8>, ReadTarError> {
        let len = header.size()?;
        if len > MAX_EXTENSION_LEN {
            return Err(ReadTarError::TooLong {
                what,
                len,
                limit: MAX_EXTENSION_LEN,
            });
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        self.fill(&mut bytes, what)?;
        self.skip(padding_of(len))?;
        Ok(bytes)
    }

    /// The next block; `None` if the stream ends before its first byte.
    fn block(&mut self, what: &'static str) -> Result<Option<[u8; BLOCK_LEN]>, ReadTarError> {
        let mut block = [0; BLOCK_LEN];
        let (first, rest) = block.split_at_mut(1);
        loop {
            match self.input.read(first) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadTarError::Read(error)),
            }
        }
        self.position += 1;
        self.fill(rest, what)?;
        Ok(Some(block))
    }

    fn fill(&mut self, buf: &mut [u8], what: &'static str) -> Result<(), ReadTarError> {
        self.position = self.position.saturating_add(buf.len() as u64);
        self.input
            .read_exact(buf)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => ReadTarError::Truncated { what },
                _ => ReadTarError::Read(error),
            })
    }

    fn skip(&mut self, len: u64) -> Result<(), ReadTarError> {
        let mut left = self.input.by_ref().take(len);
        let skipped = io::copy(&mut left, &mut io::sink()).map_err(ReadTarError::Read)?;
        self.position = self.position.saturating_add(skipped);
        if skipped < len {
            return Err(ReadTarError::Truncated {
                what: "entry's data",
            });
        }
        Ok(())
    }
}

/// Bytes that fill the last block of `len` bytes.
fn padding_of(len: u64) -> u64 {
    let over = len % BLOCK_LEN as u64;
    if over == 0 {
        0
    } else {
        BLOCK_LEN as u64 - over
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
    bytes
}

#[cfg(test)]
mod tests;
