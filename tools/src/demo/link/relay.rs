//! A TCP forwarder that keeps to the links of the machines at its two ends.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::{Link, Machines, owner, pass};

/// What is charged at once: small enough that connections of one link alternate finely.
const PIECE_LEN: usize = 16 << 10;
/// Kernel buffers of the relay: without a limit they would hide megabytes from the link, and a demand read would wait
/// behind them far longer than behind a switch's queue.
const SOCKET_BUFFER: u32 = 64 << 10;

/// A listener on a free port that forwards to an address given later: whoever announces the relay must know its port
/// before the process behind it has one.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    upstream: watch::Sender<Option<SocketAddr>>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Listens in front of a machine with this link; who connects is looked up among `machines`.
    ///
    /// # Errors
    /// No port can be bound.
    pub(crate) fn start(link: Arc<Link>, machines: Machines) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(SOCKET_BUFFER)?;
        socket.set_send_buffer_size(SOCKET_BUFFER)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(1024)?;
        let address = listener.local_addr()?;
        let (upstream, target) = watch::channel(None);
        let task = tokio::spawn(accept(
            listener,
            target,
            Front {
                address,
                link,
                machines,
            },
        ));
        Ok(Self {
            address,
            upstream,
            task,
        })
    }

    /// The address to connect to instead of the machine's own.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where connections go from now on; those that wait go on.
    pub(crate) fn forward_to(&self, upstream: SocketAddr) {
        self.upstream.send_replace(Some(upstream));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The connections belong to the task's JoinSet and end with it.
        self.task.abort();
    }
}

/// The machine that a relay stands in front of.
#[derive(Clone)]
struct Front {
    address: SocketAddr,
    link: Arc<Link>,
    machines: Machines,
}

async fn accept(
    listener: TcpListener,
    upstream: watch::Receiver<Option<SocketAddr>>,
    front: Front,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => {
                    connections.spawn(serve(stream, client, upstream.clone(), front.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the relay cannot accept");
                    // Out of descriptors: others have to close first.
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn serve(
    inbound: TcpStream,
    client: SocketAddr,
    upstream: watch::Receiver<Option<SocketAddr>>,
    front: Front,
) {
    if let Err(error) = forward(inbound, client, upstream, front).await {
        tracing::debug!(%error, %client, "a relayed connection ended");
    }
}

async fn forward(
    inbound: TcpStream,
    client: SocketAddr,
    mut upstream: watch::Receiver<Option<SocketAddr>>,
    front: Front,
) -> io::Result<()> {
    let caller = caller_link(&front, client).await;
    let target = *upstream
        .wait_for(Option::is_some)
        .await
        .map_err(io::Error::other)?;
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    let outbound = socket
        .connect(target.ok_or(io::ErrorKind::NotConnected)?)
        .await?;
    inbound.set_nodelay(true)?;
    outbound.set_nodelay(true)?;
    let (caller_read, caller_write) = inbound.into_split();
    let (server_read, server_write) = outbound.into_split();
    let there = copy(
        caller_read,
        server_write,
        caller.as_deref(),
        Some(&front.link),
    );
    let back = copy(
        server_read,
        caller_write,
        Some(&front.link),
        caller.as_deref(),
    );
    tokio::try_join!(there, back).map(|_| ())
}

async fn caller_link(front: &Front, client: SocketAddr) -> Option<Arc<Link>> {
    let machines = front.machines.snapshot();
    let server = front.address;
    let found = tokio::task::spawn_blocking(move || {
        let pid = owner::find(machines.iter().map(|(pid, _)| *pid), client, server)?;
        machines
            .into_iter()
            .find(|(placed, _)| *placed == pid)
            .map(|(_, link)| link)
    });
    found.await.ok().flatten()
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    sender: Option<&Link>,
    receiver: Option<&Link>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_LEN];
    loop {
        let len = from.read(&mut piece).await?;
        let Some(bytes) = piece.get(..len).filter(|bytes| !bytes.is_empty()) else {
            return to.shutdown().await;
        };
        pass(len, sender, receiver).await;
        to.write_all(bytes).await?;
    }
}
