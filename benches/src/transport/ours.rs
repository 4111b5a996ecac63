//! Our transport and frames as agents use them, without what agents do with what comes.

use anyhow::{Context, Result, bail};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tranship_format::Digest;
use tranship_format::wire::{ChunkId, Class, MAX_BODY_LEN, PeerMessage, Want};
use tranship_source::net::TrackerAddress;
use tranship_source::net::identity::Identity;
use tranship_source::net::stream::{FrameReader, Outbox, Outgoing, frames};
use tranship_source::net::transport::{Arrival, Limits, Purpose, Transport};

use super::answers::Answers;
use super::giver::Giver;
use super::load::Link;
use super::raw::Given;

/// Gives whatever is wanted.
pub(super) async fn give(len: usize) -> Result<Given> {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let listen = ["/ip4/127.0.0.1/tcp/0".parse().context("an address")?];
    let identity = Identity::generate();
    let (transport, mut arrivals) =
        Transport::start(&identity, &listen, Limits::NODE, &tasks, stop.clone())
            .await
            .context("listening")?;
    let listening = transport.listening();
    let address = listening.first().context("an address")?;
    let address = format!("{address}/p2p/{}", transport.peer());
    let answers = Answers::new(len);
    tokio::spawn(async move {
        while let Some(arrival) = arrivals.recv().await {
            tokio::spawn(answer(arrival, answers.clone()));
        }
    });
    Ok((address, Box::new((transport, stop))))
}

async fn answer(arrival: Arrival, answers: Answers) -> Result<()> {
    let (mut reader, writer) = frames(arrival.stream, MAX_BODY_LEN);
    let (outbox, writing) = writer.queued();
    tokio::spawn(writing);
    while let Some(frame) = reader.next().await.context("a frame")? {
        let PeerMessage::Want { request, want } = PeerMessage::from_frame(frame)? else {
            bail!("only WANT is expected");
        };
        let bytes = answers.get(want.chunk.number);
        let message = PeerMessage::Data { request, bytes };
        let mut outgoing = Outgoing::default();
        if let Some(body) = message.encode_head(&mut outgoing.head) {
            outgoing.body = body.clone();
        }
        outbox.send(outgoing);
    }
    Ok(())
}

/// A node that opens streams to a giver.
pub(super) struct Taker {
    transport: Transport,
    there: TrackerAddress,
    _arrivals: tokio::sync::mpsc::Receiver<Arrival>,
}

impl Taker {
    pub(super) async fn start(giver: &Giver) -> Result<Self> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let identity = Identity::generate();
        let (transport, arrivals) =
            Transport::start(&identity, &[], Limits::NODE, &tasks, stop.clone())
                .await
                .context("starting")?;
        Ok(Self {
            transport,
            there: giver.address().parse().context("the giver's address")?,
            _arrivals: arrivals,
        })
    }

    /// A stream of its own connection.
    pub(super) async fn open(&self) -> Result<Stream> {
        let TrackerAddress { address, peer } = &self.there;
        let addresses = std::slice::from_ref(address);
        let stream = self.transport.open(*peer, addresses, Purpose::Demand);
        let (reader, writer) = frames(stream.await.context("opening a stream")?, MAX_BODY_LEN);
        let (outbox, writing) = writer.queued();
        tokio::spawn(writing);
        Ok(Stream {
            reader,
            outbox,
            blob: Digest::of(b"a blob"),
            _transport: self.transport.clone(),
        })
    }
}

/// One stream.
pub(super) struct Stream {
    reader: FrameReader,
    outbox: Outbox,
    blob: Digest,
    /// Connections end with the last handle.
    _transport: Transport,
}

impl Link for Stream {
    async fn ask(&mut self, number: u32) -> Result<()> {
        let want = Want {
            class: Class::Demand,
            chunk: ChunkId {
                blob: self.blob,
                number,
            },
            hash: None,
        };
        let mut outgoing = Outgoing::default();
        // 0 is no request's number.
        let request = number + 1;
        PeerMessage::Want { request, want }.encode(&mut outgoing.head);
        anyhow::ensure!(self.outbox.send(outgoing), "the stream has ended");
        Ok(())
    }

    async fn answer(&mut self) -> Result<(u32, usize)> {
        let frame = self.reader.next().await.context("an answer")?;
        let frame = frame.context("the stream has ended")?;
        match PeerMessage::from_frame(frame)? {
            PeerMessage::Data { request, bytes } => Ok((request - 1, bytes.len())),
            other => bail!("only DATA is expected, not {other:?}"),
        }
    }
}
