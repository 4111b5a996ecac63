//! What nobody can go below: a request of 4 bytes, an answer of 8 and the chunk, on a socket and nothing else.

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::AsyncReadExt as _;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::identity::Keypair;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::compat::{
    FuturesAsyncReadCompatExt, FuturesAsyncWriteCompatExt, TokioAsyncReadCompatExt,
};
use tranship_format::ChunkTable;
use tranship_source::net::tls::Tls;
use tranship_store::BlobStore;

use super::answers::Answers;
use super::giver::Giver;
use super::load::Link;
use super::node::{Local, chunk_count};

/// What a giver says of itself, and what must live while it gives.
pub(super) type Given = (String, Box<dyn std::any::Any>);

/// One connection of any kind.
#[derive(Debug)]
pub(super) struct Raw<R, W> {
    read: R,
    write: W,
    chunk: Vec<u8>,
}

impl<R, W> Raw<R, W> {
    pub(super) fn new(read: R, write: W) -> Self {
        Self {
            read,
            write,
            chunk: Vec::new(),
        }
    }
}

impl<R, W> Link for Raw<R, W>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
{
    async fn ask(&mut self, number: u32) -> Result<()> {
        self.write.write_all(&number.to_le_bytes()).await?;
        self.write.flush().await.context("asking")
    }

    async fn answer(&mut self) -> Result<(u32, usize)> {
        let number = self.read.read_u32_le().await.context("an answer")?;
        let len = self.read.read_u32_le().await.context("its length")? as usize;
        self.chunk.resize(len, 0);
        self.read.read_exact(&mut self.chunk).await.context("it")?;
        Ok((number, len))
    }
}

/// Answers one connection until it ends.
pub(super) async fn answer<R, W>(mut read: R, mut write: W, answers: Answers)
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
{
    while let Ok(number) = read.read_u32_le().await {
        let chunk = answers.get(number);
        let mut head = [0; 8];
        let (first, second) = head.split_at_mut(4);
        first.copy_from_slice(&number.to_le_bytes());
        second.copy_from_slice(&u32::try_from(chunk.len()).unwrap_or(0).to_le_bytes());
        let sent = async {
            write.write_all(&head).await?;
            write.write_all(&chunk).await?;
            write.flush().await
        };
        if sent.await.is_err() {
            return;
        }
    }
}

async fn listen() -> Result<(TcpListener, String)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .await
        .context("listening")?;
    let address = listener.local_addr().context("a listener's address")?;
    Ok((listener, address.to_string()))
}

async fn connect(giver: &Giver) -> Result<TcpStream> {
    let socket = TcpStream::connect(giver.address())
        .await
        .context("connecting")?;
    socket.set_nodelay(true).context("not delaying")?;
    Ok(socket)
}

/// Gives over TCP.
pub(super) async fn give_tcp(len: usize) -> Result<Given> {
    let (listener, address) = listen().await?;
    let answers = Answers::new(len);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // A socket that has ended ends what is done with it.
            let _ = socket.set_nodelay(true);
            let (read, write) = socket.into_split();
            tokio::spawn(answer(read, write, answers.clone()));
        }
    });
    Ok((address, Box::new(())))
}

/// Takes over TCP.
pub(super) async fn tcp(giver: &Giver) -> Result<impl Link + use<>> {
    let (read, write) = connect(giver).await?.into_split();
    Ok(Raw::new(read, write))
}

/// Gives over TLS.
pub(super) async fn give_tls(len: usize) -> Result<Given> {
    let (listener, address) = listen().await?;
    let answers = Answers::new(len);
    let tls = Tls::new(&Keypair::generate_ed25519()).context("TLS")?;
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let _ = socket.set_nodelay(true);
            let (tls, answers) = (tls.clone(), answers.clone());
            tokio::spawn(async move {
                if let Ok((_, stream)) = tls.upgrade_inbound(socket.compat(), "").await {
                    let (read, write) = stream.split();
                    answer(read.compat(), write.compat_write(), answers).await;
                }
            });
        }
    });
    Ok((address, Box::new(())))
}

/// Takes over TLS.
pub(super) async fn tls(giver: &Giver) -> Result<impl Link + use<>> {
    let tls = Tls::new(&Keypair::generate_ed25519()).context("TLS")?;
    let socket = connect(giver).await?;
    let (_, stream) = tls
        .upgrade_outbound(socket.compat(), "")
        .await
        .context("TLS")?;
    let (read, write) = stream.split();
    Ok(Raw::new(read.compat(), write.compat_write()))
}

/// Takes over TCP, verifies, and keeps in a store, one chunk after the other.
pub(super) async fn kept(giver: &Giver, len: usize) -> Result<impl Link + use<>> {
    let count = chunk_count(len);
    // The giver's numbers go around; the table is that of what comes.
    let answers = Answers::new(len);
    let mut table = tranship_format::ChunkTableBuilder::new(tranship_format::HashAlgorithm::Blake3);
    for number in 0..u32::try_from(count).context("few chunks")? {
        table.update(&answers.get(number));
        table.cut();
    }
    let local = Local::new()?;
    let blob = local.blob("raw", table.finish())?;
    let (read, write) = connect(giver).await?.into_split();
    Ok(Kept {
        raw: Raw::new(read, write),
        blob,
        _local: local,
    })
}

struct Kept<L> {
    raw: L,
    blob: BlobStore,
    _local: Local,
}

impl<R, W> Link for Kept<Raw<R, W>>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
{
    async fn ask(&mut self, number: u32) -> Result<()> {
        self.raw.ask(number).await
    }

    async fn answer(&mut self) -> Result<(u32, usize)> {
        let (number, len) = self.raw.answer().await?;
        let table: &ChunkTable = self.blob.table();
        let index = table.index(number).context("a chunk of the table")?;
        let bytes = Bytes::from(std::mem::take(&mut self.raw.chunk));
        let chunk = table.verify(index, bytes).context("the right bytes")?;
        self.blob.put(index, &chunk).context("keeping a chunk")?;
        Ok((number, len))
    }

    fn count(&self) -> usize {
        self.blob.table().count() as usize
    }
}
