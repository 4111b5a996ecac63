//! A blob of which each chunk is fetched when somebody first reads it.
//!
//! This is where the synchronous world of devices meets the asynchronous one of sources: a thread of a front end calls
//! [`ReadAt`], and waits here on the runtime for what the store does not have. It never runs on a thread of the runtime,
//! which would wait for itself.

mod opening;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tranship_format::{ByteRange, ChunkIndex, ChunkTable, Digest, ReadAt};
use tranship_source::fetch::{Class, FetchError, Fetcher};
use tranship_store::{BlobStore, StoreError};

use crate::image::opening_chunks;
use crate::recent::Recent;
use crate::waits::{Wait, Waits};
use crate::whole_check::WholeCheck;
use tranship_swarm::read_ahead::ReadAhead;

pub(crate) use opening::Opening;

/// How long to wait before the sources are asked again for a chunk that none of them gave.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// And at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why a read of a lazy blob failed; travels inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LazyReadError {
    /// No source gave the chunk before the deadline.
    #[error("chunk {chunk} did not arrive within {deadline:?}")]
    TimedOut {
        /// The chunk's number in its blob.
        chunk: u32,
        /// How long was waited.
        deadline: Duration,
        /// What the sources said last, if they said anything.
        #[source]
        last: Option<FetchError>,
    },
    /// Asking again is pointless.
    #[error("chunk {chunk} cannot be had")]
    Refused {
        /// The chunk's number in its blob.
        chunk: u32,
        /// What the source said.
        #[source]
        source: FetchError,
    },
    /// The proof that the blob is read by lied.
    #[error(
        "blob {blob} was found to have another digest than the image says; attach the image again to read it whole"
    )]
    WrongProof {
        /// The blob.
        blob: Digest,
    },
    /// The device is being taken down.
    #[error("the device is stopping")]
    Stopping,
}

/// What lazy blobs of one image share.
#[derive(Clone, Debug)]
pub(crate) struct LazyContext {
    /// Gets chunks.
    pub(crate) fetcher: Fetcher,
    /// The runtime on which it does.
    pub(crate) runtime: Handle,
    /// How long reads wait, and which do.
    pub(crate) waits: Arc<Waits>,
    /// Chunks that a sequential reader is kept ahead of.
    pub(crate) read_ahead: u32,
    /// Bounds the chunks that are read ahead at one time.
    pub(crate) ahead: Arc<Semaphore>,
    /// Owns what is read ahead.
    pub(crate) tasks: TaskTracker,
    /// Ends everything when the image is closed.
    pub(crate) stop: CancellationToken,
}

/// See the module's words.
#[derive(Debug)]
pub(crate) struct LazyBlob {
    blob: BlobStore,
    /// Where it is read by a proof.
    check: Option<WholeCheck>,
    context: LazyContext,
    recent: Recent,
    ahead: Mutex<ReadAhead>,
}

impl LazyBlob {
    pub(crate) fn new(blob: BlobStore, check: Option<WholeCheck>, context: LazyContext) -> Self {
        let ahead = Mutex::new(ReadAhead::new(context.read_ahead));
        Self {
            blob,
            check,
            context,
            recent: Recent::new(),
            ahead,
        }
    }

    /// The blob in the store.
    pub(crate) fn blob(&self) -> &BlobStore {
        &self.blob
    }

    /// Whether every chunk is here.
    pub(crate) fn is_complete(&self) -> bool {
        self.blob.present_count() == self.blob.table().count()
    }

    /// Whether every chunk is here, and nobody's word alone stands behind them.
    pub(crate) fn is_proven(&self) -> bool {
        self.is_complete() && self.check.as_ref().is_none_or(WholeCheck::is_right)
    }

    /// Has the blob checked as a whole if it is read by a proof and all of it is here. An error if it was found wrong.
    pub(crate) fn check_whole(&self) -> Result<(), LazyReadError> {
        let Some(check) = &self.check else {
            return Ok(());
        };
        if check.is_wrong() {
            let blob = self.blob.digest();
            return Err(LazyReadError::WrongProof { blob });
        }
        let LazyContext {
            tasks,
            runtime,
            stop,
            ..
        } = &self.context;
        check.begin_if_whole(tasks, runtime, stop);
        Ok(())
    }

    /// Chunks of `range` that a read would have to fetch.
    pub(crate) fn missing(&self, range: ByteRange) -> impl Iterator<Item = ChunkIndex> + '_ {
        self.blob
            .table()
            .over(range)
            .filter(|index| !self.blob.has(*index) && self.recent.get(index.get()).is_none())
    }

    /// Fetches a chunk because somebody waits for it. Asks again until the deadline while that may help.
    pub(crate) async fn demand(&self, index: ChunkIndex) -> Result<Bytes, LazyReadError> {
        let wait = self.context.waits.begin(self.blob.digest(), index.get());
        let fetched = tokio::select! {
            biased;
            () = self.context.stop.cancelled() => return Err(LazyReadError::Stopping),
            fetched = tokio::time::timeout(wait.deadline, self.insist(index, &wait)) => fetched,
            never = wait.tell() => match never {},
        };
        let bytes = match fetched {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(FetchError::Stopped)) => return Err(LazyReadError::Stopping),
            Ok(Err(source)) => {
                return Err(LazyReadError::Refused {
                    chunk: index.get(),
                    source,
                });
            }
            Err(_) => {
                return Err(LazyReadError::TimedOut {
                    chunk: index.get(),
                    deadline: wait.deadline,
                    last: wait.last(),
                });
            }
        };
        if !self.blob.has(index) {
            self.recent.insert(index.get(), bytes.clone());
        }
        Ok(bytes)
    }

    /// Fetches what opening the layer will most likely read, all at once: reading it in the layer's own order would wait
    /// for one chunk after the other.
    pub(crate) async fn gather_ends(&self) -> Result<(), LazyReadError> {
        let missing = opening_chunks(self.blob.table()).filter(|index| !self.blob.has(*index));
        let fetches = missing.map(|index| self.demand(index));
        try_join_all(fetches).await.map(drop)
    }

    /// Asks until there is an answer that another try would not change, or that the image's readers are to have at once.
    async fn insist(&self, index: ChunkIndex, wait: &Wait) -> Result<Bytes, FetchError> {
        let mut pause = FIRST_PAUSE;
        loop {
            match copy_or_fetch(&self.context.fetcher, &self.blob, index, Class::Demand).await {
                Err(error @ FetchError::Unavailable { .. }) if wait.fails_at_once => {
                    return Err(error);
                }
                Err(error @ (FetchError::Unavailable { .. } | FetchError::Overloaded)) => {
                    if wait.note(error.clone()) {
                        tracing::warn!(blob = %self.blob.digest(), chunk = index.get(), %error, "a read waits because no source gives its chunk");
                    }
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                }
                answer => return answer,
            }
        }
    }

    /// Fills `buf` with the bytes at `offset`, all of which lie in chunk `index`.
    fn read_part(&self, index: ChunkIndex, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_on(index);
        match self.blob.read_at(offset, buf) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => self.tell_unreadable(index, &error),
        }
        let within = offset.saturating_sub(self.blob.table().range(index).start);
        self.elsewhere(index)?.read_exact_at(within, buf)
    }

    /// A chunk that the store does not give.
    fn elsewhere(&self, index: ChunkIndex) -> io::Result<Bytes> {
        if let Some(bytes) = self.recent.get(index.get()) {
            return Ok(bytes);
        }
        let fetched = self.context.runtime.block_on(self.demand(index));
        fetched.map_err(io::Error::other)
    }

    fn tell_unreadable(&self, index: ChunkIndex, error: &StoreError) {
        tracing::warn!(blob = %self.blob.digest(), chunk = index.get(), %error, "the store cannot be read");
    }

    /// Reads ahead if this read goes on in order.
    fn read_on(&self, index: ChunkIndex) {
        let table = self.blob.table();
        let wanted = {
            let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
            ahead.touched(index.get(), table.count())
        };
        for index in wanted.filter_map(|number| table.index(number)) {
            self.fetch_ahead(index);
        }
    }

    /// Fetches a chunk that somebody will read soon, unless as much as is useful is on its way already.
    pub(crate) fn fetch_ahead(&self, index: ChunkIndex) {
        if self.blob.has(index) {
            return;
        }
        let Ok(permit) = Arc::clone(&self.context.ahead).try_acquire_owned() else {
            return;
        };
        let (fetcher, blob, stop) = (
            self.context.fetcher.clone(),
            self.blob.clone(),
            self.context.stop.clone(),
        );
        let fetch = async move {
            let _permit = permit;
            // Nobody waits for it: whoever comes to need it asks again and hears of the error.
            let _ = stop
                .run_until_cancelled(copy_or_fetch(&fetcher, &blob, index, Class::Prefetch))
                .await;
        };
        self.context.tasks.spawn_on(fetch, &self.context.runtime);
    }
}

/// Gets a chunk: from another blob here that has the same, else from whoever has it.
pub(crate) async fn copy_or_fetch(
    fetcher: &Fetcher,
    blob: &BlobStore,
    index: ChunkIndex,
    class: Class,
) -> Result<Bytes, FetchError> {
    if !blob.has(index) && blob.has_equal(index) {
        let copying = blob.clone();
        let copied = tokio::task::spawn_blocking(move || copying.copy_equal(index)).await;
        match copied {
            Ok(Ok(Some(chunk))) => return Ok(chunk.into_bytes()),
            Ok(Err(error)) => {
                tracing::warn!(blob = %blob.digest(), chunk = index.get(), %error, "an equal chunk cannot be copied");
            }
            // It has gone meanwhile, or the runtime is stopping.
            Ok(Ok(None)) | Err(_) => {}
        }
    }
    fetcher.chunk(blob, index, class).await
}

impl ReadAt for LazyBlob {
    fn len(&self) -> u64 {
        self.blob.len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        read_in_chunks(self.blob.table(), offset, buf, |index, offset, part| {
            self.read_part(index, offset, part)
        })
    }
}

/// Fills `buf` with the bytes at `offset` of a blob by reading the part of it that lies in each chunk.
pub(crate) fn read_in_chunks(
    table: &ChunkTable,
    offset: u64,
    buf: &mut [u8],
    read_part: impl Fn(ChunkIndex, u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    let end = u64::try_from(buf.len())
        .ok()
        .and_then(|len| offset.checked_add(len))
        .filter(|end| *end <= table.covered_len())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{} bytes at {offset} are not all in chunks", buf.len()),
            )
        })?;
    let mut rest = buf;
    let mut at = offset;
    for index in table.over(ByteRange::new(offset, end)) {
        let part = table.range(index).end.min(end).saturating_sub(at);
        let (head, tail) = usize::try_from(part)
            .ok()
            .and_then(|part| rest.split_at_mut_checked(part))
            .ok_or_else(|| io::Error::other("the chunk table has a gap"))?;
        read_part(index, at, head)?;
        at = at.saturating_add(part);
        rest = tail;
    }
    Ok(())
}
