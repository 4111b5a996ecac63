//! A member of the swarm that may not pull the image, and asks for all of it while the others read.
//!
//! An agent without a login does not get as far as asking a peer: the registry refuses it the manifest. So this member is given
//! what a former reader would know (manifest, blobs, chunk tables), and has everything of a node but the right: token, membership,
//! and a registry that refuses it.

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::timeout;
use tranship_format::{ChunkTable, LayerAnnotations};
use tranship_source::fetch::{Class, RegistryOrigin};
use tranship_source::net::{JoinToken, parse_address};
use tranship_source::reference::ManifestSelector;
use tranship_source::{
    Credentials, NetOptions, OpenImage, PlainHttp, RegistryClient, RegistryOptions, RepoRef,
    SwarmNet,
};
use tranship_store::{BlobStore, ChunkStore, StoreOptions};

use super::lab::{self, Lab};
use super::machine::TOKEN;
use super::origin::Source;

/// Its host.
pub(super) const STRANGER: &str = "stranger";
const PORT: u16 = 9478;
/// It is a member within this.
const JOIN: Duration = Duration::from_secs(30);
/// A registry that refuses says so at once.
const DEADLINE: Duration = Duration::from_secs(1);
/// One chunk is waited for so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between one round of questions and the next.
const PAUSE: Duration = Duration::from_millis(500);
/// Chunks asked for at once.
const AT_ONCE: usize = 16;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Findings {
    /// Chunks that it asked for.
    pub(super) asked: u64,
    /// Those that it got, from wherever.
    pub(super) got: u64,
    /// Most peers that it knew at once.
    pub(super) peers: u64,
}

/// Asks from its host until the others have read everything, and at least once for each chunk.
pub(super) fn ask_for_everything(
    lab: &Lab,
    registry: &Source,
    trackers: &[String],
    folder: &Path,
    over: &AtomicBool,
) -> Result<Findings> {
    let listen = format!("{}:{PORT}", lab.address(STRANGER)?);
    lab::inside(&lab.namespace(STRANGER), || {
        // One thread, for sockets are made in the namespace of the thread that makes them.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start a runtime")?;
        runtime.block_on(async {
            let folder = folder.join(STRANGER);
            let net = member(&folder, &listen, trackers).await?;
            let blobs = open(&net, &folder, registry).await?;
            let mut findings = Findings::default();
            loop {
                let is_last = over.load(Ordering::SeqCst);
                ask(&net, &blobs, &mut findings).await;
                if is_last {
                    break;
                }
                // It is to be refused, not to be a load.
                tokio::time::sleep(PAUSE).await;
            }
            net.stop().await;
            Ok(findings)
        })
    })
}

async fn member(folder: &Path, listen: &str, trackers: &[String]) -> Result<SwarmNet> {
    let mut options = NetOptions::new(folder.join("state"));
    options.listen = vec![parse_address(listen).context("an address to listen on")?];
    for tracker in trackers {
        options
            .trackers
            .push(tracker.parse().context("a tracker's address")?);
    }
    options.token = Some(JoinToken::new(TOKEN));
    let net = SwarmNet::start(options)
        .await
        .context("start a node without rights")?;
    let mut watch = net.watch();
    let joining = watch.wait_for(|status| status.joined);
    let joined = timeout(JOIN, joining).await;
    ensure!(
        joined.is_ok_and(|joined| joined.is_ok()),
        "the node without rights does not join"
    );
    Ok(net)
}

/// Opens the image with what somebody told who could read it; gives its blobs.
async fn open(net: &SwarmNet, folder: &Path, registry: &Source) -> Result<Vec<BlobStore>> {
    let repo: RepoRef = format!("{}/bench/disk", registry.host)
        .parse()
        .context("the repository")?;
    let told = client(
        registry,
        Credentials::default().with_docker_config(&registry.login),
    )?;
    let latest = ManifestSelector::Tag("latest".to_owned());
    let manifest = told
        .manifest(&repo, &latest)
        .await
        .context("read the manifest")?;
    let image = manifest.image().context("an image")?;
    let store = ChunkStore::open(&folder.join("store"), StoreOptions::with_quota(8 << 30))
        .context("open a store")?;
    let mut blobs = Vec::new();
    for layer in image.device_layers() {
        let annotations = LayerAnnotations::from_map(&layer.annotations).context("a layer")?;
        let at = annotations
            .and_then(|annotations| annotations.chunks)
            .context("a chunk table")?;
        let table = told
            .blob_range(&repo, &layer.digest, at.range())
            .await
            .context("read a chunk table")?;
        let table = ChunkTable::decode(&table).context("decode a chunk table")?;
        blobs.push(
            store
                .blob(layer.digest, layer.size, table)
                .context("make room for a blob")?,
        );
    }
    let anonymous = client(registry, Credentials::anonymous())?;
    let opening = net.open(OpenImage {
        manifest: manifest.digest(),
        registry: repo.host().to_string(),
        repository: repo.path().to_owned(),
        blobs: blobs.clone(),
        origin: Arc::new(RegistryOrigin::new(anonymous, repo)),
    });
    opening.await.context("open the image")?;
    Ok(blobs)
}

fn client(registry: &Source, credentials: Credentials) -> Result<RegistryClient> {
    let options = RegistryOptions {
        plain_http: PlainHttp::Always(vec![registry.host.clone()]),
        credentials,
        deadline: DEADLINE,
        ..RegistryOptions::default()
    };
    RegistryClient::new(options).context("a client of the registry")
}

async fn ask(net: &SwarmNet, blobs: &[BlobStore], findings: &mut Findings) {
    let chunks = blobs
        .iter()
        .flat_map(|blob| blob.table().all().map(move |index| (blob, index)));
    let answers = futures::stream::iter(chunks)
        .map(|(blob, index)| timeout(PATIENCE, net.fetcher().chunk(blob, index, Class::Demand)))
        .buffer_unordered(AT_ONCE);
    let mut answers = std::pin::pin!(answers);
    while let Some(answer) = answers.next().await {
        findings.asked += 1;
        findings.got += u64::from(answer.is_ok_and(|chunk| chunk.is_ok()));
        findings.peers = findings.peers.max(net.status().peer_count);
    }
}
