//! What ours was chosen over: other ways to move a chunk by libp2p.

mod request;
mod yamux;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::core::Transport as _;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{Config, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, tcp};
use libp2p_stream::Control;
use tokio::sync::mpsc;
use tokio_util::compat::{FuturesAsyncReadCompatExt, FuturesAsyncWriteCompatExt};
use tranship_source::net::TrackerAddress;
use tranship_source::net::tls::Tls;

use super::Carrier;
use super::answers::Answers;
use super::giver::Giver;
use super::load::{Came, Link, Load, Sample, behind_bulk as measure_behind};
use super::raw::{Given, Raw, answer};
use yamux::Mux;

const STREAM: StreamProtocol = StreamProtocol::new("/tranship/measured/1");
/// A stream that was dropped is opened again so often.
const TRIES: usize = 50;

fn transport(carrier: Carrier, key: &Keypair) -> Result<Boxed<(PeerId, StreamMuxerBox)>> {
    let tcp = || tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    Ok(match carrier {
        Carrier::Yamux | Carrier::YamuxStreamEach => tcp()
            .upgrade(Version::V1Lazy)
            .authenticate(Tls::new(key).context("TLS")?)
            .multiplex(Mux::new())
            .boxed(),
        Carrier::RequestResponse => tcp()
            .upgrade(Version::V1Lazy)
            .authenticate(libp2p_tls::Config::new(key).context("TLS")?)
            .multiplex(libp2p::yamux::Config::default())
            .boxed(),
        Carrier::Quic | Carrier::QuicRequestResponse => {
            libp2p_quic::tokio::Transport::new(libp2p_quic::Config::new(key))
                .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)))
                .boxed()
        }
        other => bail!("{} is not libp2p's", other.name()),
    })
}

fn swarm<B: NetworkBehaviour>(carrier: Carrier, behaviour: B) -> Result<Swarm<B>> {
    let key = Keypair::generate_ed25519();
    let config = Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_mins(1));
    let peer = key.public().to_peer_id();
    Ok(Swarm::new(
        transport(carrier, &key)?,
        behaviour,
        peer,
        config,
    ))
}

/// Listens; the address, which ends in who is there.
async fn listen<B: NetworkBehaviour>(carrier: Carrier, swarm: &mut Swarm<B>) -> Result<String> {
    let address: Multiaddr = match carrier {
        Carrier::Quic | Carrier::QuicRequestResponse => "/ip4/127.0.0.1/udp/0/quic-v1",
        _ => "/ip4/127.0.0.1/tcp/0",
    }
    .parse()
    .context("an address")?;
    swarm.listen_on(address).context("listening")?;
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return Ok(format!("{address}/p2p/{}", swarm.local_peer_id()));
        }
    }
}

/// Connects; who is there.
async fn connect<B: NetworkBehaviour>(swarm: &mut Swarm<B>, giver: &Giver) -> Result<PeerId> {
    let there: TrackerAddress = giver.address().parse().context("the giver's address")?;
    let dial = DialOpts::peer_id(there.peer).addresses(vec![there.address]);
    swarm.dial(dial.build()).context("dialling")?;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { .. } => return Ok(there.peer),
            SwarmEvent::OutgoingConnectionError { error, .. } => bail!("connecting: {error}"),
            _ => {}
        }
    }
}

async fn drive<B: NetworkBehaviour>(mut swarm: Swarm<B>) {
    loop {
        swarm.select_next_some().await;
    }
}

/// Gives by one of libp2p's ways.
pub(super) async fn give(carrier: Carrier, len: usize) -> Result<Given> {
    let answers = Answers::new(len);
    if matches!(
        carrier,
        Carrier::RequestResponse | Carrier::QuicRequestResponse
    ) {
        let mut swarm = swarm(carrier, request::behaviour())?;
        let address = listen(carrier, &mut swarm).await?;
        tokio::spawn(request::give(swarm, answers));
        return Ok((address, Box::new(())));
    }
    let behaviour = libp2p_stream::Behaviour::new();
    let mut incoming = behaviour
        .new_control()
        .accept(STREAM)
        .map_err(|_| anyhow::anyhow!("accepting streams"))?;
    let mut swarm = swarm(carrier, behaviour)?;
    let address = listen(carrier, &mut swarm).await?;
    tokio::spawn(drive(swarm));
    tokio::spawn(async move {
        while let Some((_, stream)) = incoming.next().await {
            let (read, write) = stream.split();
            tokio::spawn(answer(read.compat(), write.compat_write(), answers.clone()));
        }
    });
    Ok((address, Box::new(())))
}

/// A connection on which streams can be opened.
async fn streams(carrier: Carrier, giver: &Giver) -> Result<(Control, PeerId)> {
    let behaviour = libp2p_stream::Behaviour::new();
    let control = behaviour.new_control();
    let mut swarm = swarm(carrier, behaviour)?;
    let peer = connect(&mut swarm, giver).await?;
    tokio::spawn(drive(swarm));
    Ok((control, peer))
}

async fn stream((mut control, peer): (Control, PeerId)) -> Result<impl Link + use<>> {
    let stream = control.open_stream(peer, STREAM).await;
    let stream = stream.map_err(|error| anyhow::anyhow!("opening a stream: {error}"))?;
    let (read, write) = stream.split();
    Ok(Raw::new(read.compat(), write.compat_write()))
}

/// Puts a load on one of libp2p's ways.
pub(super) async fn load(carrier: Carrier, load: Load, giver: &mut Giver) -> Result<Sample> {
    match carrier {
        Carrier::RequestResponse | Carrier::QuicRequestResponse => {
            let mut swarm = swarm(carrier, request::behaviour())?;
            let peer = connect(&mut swarm, giver).await?;
            load.put_on(request::Requests::new(swarm, peer), giver)
                .await
        }
        Carrier::YamuxStreamEach => {
            let each = StreamEach {
                streams: streams(carrier, giver).await?,
                came: mpsc::channel(256),
            };
            load.put_on(each, giver).await
        }
        _ => {
            let stream = stream(streams(carrier, giver).await?).await?;
            load.put_on(stream, giver).await
        }
    }
}

/// Demand beside bulk: on one stream, on two of one connection, and on two connections.
pub(super) async fn behind_bulk(
    carrier: Carrier,
    giver: &Giver,
) -> Result<Vec<(&'static str, f64)>> {
    let shared = streams(carrier, giver).await?;
    let pair = (stream(shared.clone()).await?, stream(shared.clone()).await?);
    let mut found = measure_behind(stream(shared).await?, Some(pair)).await?;
    if let Some((name, _)) = found.last_mut() {
        *name = "own stream";
    }
    let pair = (
        stream(streams(carrier, giver).await?).await?,
        stream(streams(carrier, giver).await?).await?,
    );
    let other = stream(streams(carrier, giver).await?).await?;
    found.extend(measure_behind(other, Some(pair)).await?.pop());
    Ok(found)
}

/// A stream for each chunk.
struct StreamEach {
    streams: (Control, PeerId),
    came: Came,
}

async fn by_stream((mut control, peer): (Control, PeerId), number: u32) -> Result<(u32, usize)> {
    let mut stream = control
        .open_stream(peer, STREAM)
        .await
        .map_err(|error| anyhow::anyhow!("opening a stream: {error}"))?;
    stream
        .write_all(&number.to_le_bytes())
        .await
        .context("asking")?;
    stream.flush().await.context("asking")?;
    let mut head = [0; 8];
    stream.read_exact(&mut head).await.context("an answer")?;
    let (came, len) = head.split_at(4);
    let word = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes);
    ensure!(word(came)? == number, "another chunk");
    let mut chunk = vec![0; word(len)? as usize];
    stream.read_exact(&mut chunk).await.context("a chunk")?;
    Ok((number, chunk.len()))
}

impl Link for StreamEach {
    async fn ask(&mut self, number: u32) -> Result<()> {
        let (streams, came) = (self.streams.clone(), self.came.0.clone());
        tokio::spawn(async move {
            let mut got = by_stream(streams.clone(), number).await;
            for _ in 0..TRIES {
                if got.is_ok() {
                    break;
                }
                got = by_stream(streams.clone(), number).await;
            }
            // A taker that is gone waits for nothing.
            let _ = came.send(got).await;
        });
        Ok(())
    }

    async fn answer(&mut self) -> Result<(u32, usize)> {
        self.came.1.recv().await.context("an answer")?
    }
}
