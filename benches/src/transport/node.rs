//! Two agents and a tracker as they are: what a reader waits for when a peer has the chunk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::StreamExt;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tranship_format::{ByteRange, ChunkTable, Digest, HashAlgorithm};
use tranship_source::counters::Source;
use tranship_source::fetch::{BlobOrigin, BlobPieces, Class, OriginError};
use tranship_source::net::JoinToken;
use tranship_source::{NetOptions, OpenImage, SwarmNet};
use tranship_store::{BlobStore, ChunkStore, StoreOptions};
use tranship_tracker::config::{Check, SeedMode};
use tranship_tracker::{Config, Service};

use super::answers::noise;
use super::giver::Giver;
use super::load::{Came, Link};
use super::raw::Given;

const TOKEN: &str = "a token for figures";
const PATIENCE: Duration = Duration::from_secs(30);
/// Answers that may wait to be counted.
const ANSWERS: usize = 256;

/// Chunks of the blob that is read; each is read once.
pub(super) fn chunk_count(len: usize) -> usize {
    (256_usize << 20).div_ceil(len).min(2048)
}

/// A store for the time of a measurement.
#[derive(Debug)]
pub(super) struct Local {
    store: ChunkStore,
    dir: TempDir,
}

impl Local {
    pub(super) fn new() -> Result<Self> {
        let dir = tempfile::tempdir().context("a scratch directory")?;
        let options = StoreOptions::with_quota(2 << 30);
        let store = ChunkStore::open(&dir.path().join("store"), options).context("a store")?;
        Ok(Self { store, dir })
    }

    pub(super) fn blob(&self, name: &str, table: ChunkTable) -> Result<BlobStore> {
        let len = table.covered_len();
        let digest = Digest::of(name.as_bytes());
        self.store.blob(digest, len, table).context("a blob")
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// All of the blob and its table.
fn blob(len: usize) -> Result<(Bytes, ChunkTable)> {
    let all = noise(chunk_count(len) * len, 2);
    let chunk_len = u32::try_from(len).context("a chunk's length")?;
    let table = ChunkTable::uniform(all.as_slice(), HashAlgorithm::Blake3, chunk_len)?;
    Ok((all.into(), table))
}

async fn join(local: &Local, tracker: &str, table: ChunkTable) -> Result<(SwarmNet, BlobStore)> {
    let mut options = NetOptions::new(local.path().join("state"));
    options.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().context("an address")?];
    options.trackers = vec![tracker.parse().context("the tracker's address")?];
    options.token = Some(JoinToken::new(TOKEN));
    let net = SwarmNet::start(options).await.context("starting a node")?;
    let blob = local.blob("read by everybody", table)?;
    Ok((net, blob))
}

async fn open(net: &SwarmNet, blob: &BlobStore) -> Result<()> {
    let image = OpenImage {
        manifest: Digest::of(b"an image"),
        registry: "registry.invalid".to_owned(),
        repository: "measured".to_owned(),
        blobs: vec![blob.clone()],
        origin: Arc::new(Nowhere),
    };
    net.open(image).await.context("opening the image")?;
    let mut watch = net.watch();
    let joined = watch.wait_for(|status| status.joined);
    timeout(PATIENCE, joined)
        .await
        .context("joining in time")??;
    Ok(())
}

/// A tracker, and an agent with all chunks.
pub(super) async fn give(len: usize) -> Result<Given> {
    let dir = tempfile::tempdir().context("a scratch directory")?;
    let mut config = Config {
        state_dir: dir.path().join("tracker"),
        listen: "127.0.0.1:0".to_owned(),
        http_listen: ([127, 0, 0, 1], 0).into(),
        ..Config::default()
    };
    config.seed.mode = SeedMode::Off;
    // There is no registry whose word could count.
    config.rights.check = Check::Members;
    let tracker = Service::start(config, Some(JoinToken::new(TOKEN))).await;
    let tracker = tracker.context("starting a tracker")?;
    let address = tracker
        .ready()
        .listen
        .first()
        .context("an address")?
        .clone();
    let local = Local::new()?;
    let (bytes, table) = blob(len)?;
    let (net, store) = join(&local, &address, table.clone()).await?;
    for index in table.all() {
        let range = table.range(index);
        let (start, end) = (usize::try_from(range.start)?, usize::try_from(range.end)?);
        let chunk = table
            .verify(index, bytes.slice(start..end))
            .context("a chunk")?;
        store.put(index, &chunk).context("keeping a chunk")?;
    }
    open(&net, &store).await?;
    Ok((address, Box::new((dir, tracker, local, net, store))))
}

/// An agent with no chunk.
pub(super) struct Taker {
    net: SwarmNet,
    blob: BlobStore,
    came: Came,
    _local: Local,
}

impl Taker {
    pub(super) async fn start(giver: &Giver, len: usize) -> Result<Self> {
        let local = Local::new()?;
        let (_, table) = blob(len)?;
        let (net, blob) = join(&local, giver.address(), table).await?;
        open(&net, &blob).await?;
        Ok(Self {
            net,
            blob,
            came: mpsc::channel(ANSWERS),
            _local: local,
        })
    }
}

impl Link for Taker {
    async fn ask(&mut self, number: u32) -> Result<()> {
        let index = self.blob.table().index(number).context("a chunk")?;
        let (fetcher, blob) = (self.net.fetcher().clone(), self.blob.clone());
        let came = self.came.0.clone();
        tokio::spawn(async move {
            let read = fetcher.chunk(&blob, index, Class::Demand);
            let read = timeout(PATIENCE, read).await.context("a chunk in time");
            let read = read.and_then(|read| Ok((number, read?.len())));
            // A taker that is gone waits for nothing.
            let _ = came.send(read).await;
        });
        Ok(())
    }

    async fn answer(&mut self) -> Result<(u32, usize)> {
        let came = self.came.1.recv().await.context("an answer")??;
        let counters = self.net.counters().snapshot();
        ensure!(
            counters.local.count == 0,
            "a chunk did not come from the peer"
        );
        Ok(came)
    }

    fn count(&self) -> usize {
        self.blob.table().count() as usize
    }
}

/// An origin that has nothing: what comes has come from a peer.
#[derive(Debug)]
struct Nowhere;

impl BlobOrigin for Nowhere {
    fn source(&self) -> Source {
        Source::Local
    }

    fn read(&self, _: Digest, _: ByteRange) -> BlobPieces {
        let error = OriginError {
            retry_after: None,
            permanent: false,
            ranges_ignored: false,
            source: "only a peer has it".into(),
        };
        futures::stream::iter([Err(error)]).boxed()
    }

    fn read_whole(&self, blob: Digest) -> BlobPieces {
        self.read(blob, ByteRange::new(0, 0))
    }
}
