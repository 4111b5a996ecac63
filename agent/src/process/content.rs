//! What a device process reads from: the merged layers, whose chunks come from the store's files, or from the agent where those lack them.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tranship_device::{BlockRead, BlockReadError, give_memory_back};
use tranship_format::{ByteRange, ChunkIndex, Digest, Disk, Layer, ReadAt};
use tranship_store::BlobReader;

use super::AskError;
use super::link::Link;
use super::message::ReadNote;
use super::serve::ServeError;
use crate::disk::{SPOILT_TRIES, is_spoilt};
use crate::recent::Recent;
use tranship_swarm::read_ahead::ReadAhead;

/// Without a read for so long, what is kept is let go of. Less than a thread waits until it asks.
const QUIET_MILLIS: u64 = 20_000;

/// A blob whose chunks are in the store or with the agent.
struct StoredBlob {
    /// Its place in the image.
    layer: u16,
    blob: BlobReader,
    link: Arc<Link>,
    /// Chunks that the store does not keep.
    recent: Recent,
    ahead: Mutex<ReadAhead>,
}

/// An image as a device process reads it.
pub(super) struct Content {
    disk: Disk,
    layers: Vec<Arc<StoredBlob>>,
    link: Arc<Link>,
    /// When the last read began, in milliseconds from the beginning.
    last_read_at: AtomicU64,
    begun: Instant,
}

impl Content {
    /// Opens the layers of `store` and merges them.
    pub(super) fn open(
        store: &Path,
        layers: &[Digest],
        link: &Arc<Link>,
        read_ahead: u32,
        block_cache_len: u64,
    ) -> Result<Self, ServeError> {
        let mut blobs = Vec::with_capacity(layers.len());
        for (digest, layer) in layers.iter().zip(0..) {
            let blob = BlobReader::open(store, digest)?;
            blobs.push(Arc::new(StoredBlob {
                layer,
                blob: blob.ok_or(ServeError::NoBlob { digest: *digest })?,
                link: Arc::clone(link),
                recent: Recent::new(),
                ahead: Mutex::new(ReadAhead::new(read_ahead)),
            }));
        }
        let opened = blobs
            .iter()
            .map(|blob| Layer::open(Arc::clone(blob) as Arc<dyn ReadAt>))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            disk: Disk::of_layers(opened, block_cache_len)?,
            layers: blobs,
            link: Arc::clone(link),
            last_read_at: AtomicU64::new(0),
            begun: Instant::now(),
        })
    }

    /// Milliseconds since the beginning.
    fn age(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockReadError> {
        let len = buf.len() as u64;
        BlockReadError::check_range(offset, len, self.disk.len())?;
        let range = ByteRange::new(offset, offset.saturating_add(len));
        self.gather(range)
            .map_err(|error| explain(offset, len, error))?;
        let mut read = self.disk.read_at(offset, buf);
        for _ in 0..SPOILT_TRIES {
            if !read.as_ref().is_err_and(is_spoilt) {
                break;
            }
            // Chunks were right when they were hashed. What the disk has lost since then is found now, and comes from elsewhere.
            for (layer, index) in self.chunks(range) {
                layer.blob.distrust(index);
            }
            read = self.disk.read_at(offset, buf);
        }
        read.map_err(|error| explain(offset, len, error))
    }

    /// The chunks that hold a range of the device.
    fn chunks(&self, range: ByteRange) -> impl Iterator<Item = (&Arc<StoredBlob>, ChunkIndex)> {
        let stored = self.disk.stored_ranges(range).into_iter();
        stored.flat_map(|(layer, stored)| {
            let layer = self.layers.get(layer);
            layer.into_iter().flat_map(move |layer| {
                let chunks = layer.blob.table().over(stored);
                chunks.map(move |index| (layer, index))
            })
        })
    }

    /// Gets what the read will miss, all at once: the layers would ask for one chunk after the other.
    fn gather(&self, range: ByteRange) -> io::Result<()> {
        let chunks: Vec<(&Arc<StoredBlob>, ChunkIndex)> = self.chunks(range).collect();
        if chunks.len() < 2 {
            // Whether it is here is not even looked at: its block may be kept.
            return Ok(());
        }
        let mut wanted = Vec::new();
        for (layer, index) in chunks {
            let key = (layer.layer, index.get());
            if !layer.is_here(index) && !wanted.contains(&key) {
                wanted.push(key);
            }
        }
        if wanted.len() < 2 {
            return Ok(());
        }
        let answers = self.link.ask(&wanted).map_err(io::Error::other)?;
        for ((layer, chunk), bytes) in wanted.into_iter().zip(answers) {
            let layer = self.layers.get(usize::from(layer));
            let index = layer.and_then(|layer| layer.blob.table().index(chunk));
            if let (Some(layer), Some(index), Some(bytes)) = (layer, index, bytes) {
                layer.accept(index, bytes)?;
            }
        }
        Ok(())
    }
}

impl BlockRead for Content {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockReadError> {
        let begun = Instant::now();
        self.last_read_at.store(self.age(), Ordering::Relaxed);
        let outcome = self.read(offset, buf);
        self.link.note_read(ReadNote {
            len: u32::try_from(buf.len()).unwrap_or(u32::MAX),
            micros: u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX),
            done: outcome.is_ok(),
        });
        outcome
    }

    fn rest(&self) {
        // One thread is idle; others may be busy.
        let read_at = self.last_read_at.load(Ordering::Relaxed);
        if self.age().saturating_sub(read_at) >= QUIET_MILLIS {
            self.disk.rest();
            give_memory_back();
        }
    }
}

impl StoredBlob {
    fn is_here(&self, index: ChunkIndex) -> bool {
        self.recent.get(index.get()).is_some() || self.blob.has(index).unwrap_or_default()
    }

    /// Fills `buf` with the bytes at `offset`, all of which lie in chunk `index`.
    fn read_part(&self, index: ChunkIndex, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_on(index);
        // Twice, since what came may be evicted before it is read; the third time the agent's answer would be the same, unless it keeps
        // chunks in other files by now.
        for tries in 1_u32.. {
            match self.blob.read_in(index, offset, buf) {
                Ok(true) => {
                    self.link.note_touched(self.layer, index.get());
                    return Ok(());
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(
                    chunk = index.get(),
                    error = &error as &dyn Error,
                    "the store cannot be read"
                ),
            }
            if let Some(bytes) = self.recent.get(index.get()).or(self.fetch(index)?) {
                let within = offset.saturating_sub(self.blob.table().range(index).start);
                return bytes.read_exact_at(within, buf);
            }
            if tries >= 2 && !self.blob.refresh().map_err(io::Error::other)? {
                break;
            }
        }
        Err(io::Error::other(AskError::Refused {
            reason: "it is kept, and gone again before it is read".to_owned(),
        }))
    }

    /// Gets a chunk from the agent: its bytes, checked, or nothing when the store has it now.
    fn fetch(&self, index: ChunkIndex) -> io::Result<Option<Bytes>> {
        let answers = self.link.ask(&[(self.layer, index.get())]);
        let Some(bytes) = answers
            .map_err(io::Error::other)?
            .into_iter()
            .flatten()
            .next()
        else {
            return Ok(None);
        };
        self.accept(index, bytes).map(Some)
    }

    /// Takes what the agent sent for a chunk, if it is that chunk.
    fn accept(&self, index: ChunkIndex, bytes: Vec<u8>) -> io::Result<Bytes> {
        let chunk = self.blob.table().verify(index, bytes.into());
        let bytes = chunk.map_err(io::Error::other)?.into_bytes();
        self.recent.insert(index.get(), bytes.clone());
        Ok(bytes)
    }

    /// Wishes for what comes next if this read goes on in order.
    fn read_on(&self, index: ChunkIndex) {
        let table = self.blob.table();
        let wanted = {
            let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
            ahead.touched(index.get(), table.count())
        };
        for index in wanted.filter_map(|number| table.index(number)) {
            if !self.is_here(index) {
                self.link.wish(self.layer, index.get());
            }
        }
    }
}

impl ReadAt for StoredBlob {
    fn len(&self) -> u64 {
        self.blob.len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        crate::lazy::read_in_chunks(self.blob.table(), offset, buf, |index, offset, part| {
            self.read_part(index, offset, part)
        })
    }
}

/// Says in the words of devices what a layer, the store or the agent said in its own.
fn explain(offset: u64, len: u64, error: io::Error) -> BlockReadError {
    match crate::disk::find::<AskError>(&error) {
        Some(AskError::TimedOut) => BlockReadError::TimedOut { offset, len },
        Some(AskError::Stopping) => BlockReadError::Stopping,
        None if is_spoilt(&error) => BlockReadError::Corrupt {
            offset,
            len,
            source: error.into(),
        },
        Some(AskError::Refused { .. }) | None => BlockReadError::Unavailable {
            offset,
            len,
            source: error.into(),
        },
    }
}
