//! One stream a connection.
//!
//! libp2p puts a multiplexer on every connection. This one lets the side that dialled open one stream, which is the
//! encrypted connection itself: no frames around ours, no window beside TCP's, no task that copies between the two. A
//! chunk costs half the processor time that it does through yamux, and what is sent on one stream never stands before
//! another.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::channel::oneshot;
use futures::future::{Ready, ready as done};
use futures::{AsyncRead, AsyncWrite, FutureExt};
use libp2p::core::UpgradeInfo;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};

/// What the two ends call this when they negotiate.
const PROTOCOL: &str = "/tranship/single/1";

/// The upgrade.
#[derive(Clone, Copy, Debug)]
pub(super) struct Single;

impl UpgradeInfo for Single {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(PROTOCOL)
    }
}

impl<C> InboundConnectionUpgrade<C> for Single
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Connection<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Connection<C>>>;

    fn upgrade_inbound(self, socket: C, _: &'static str) -> Self::Future {
        done(Ok(Connection::new(socket, false)))
    }
}

impl<C> OutboundConnectionUpgrade<C> for Single
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Connection<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Connection<C>>>;

    fn upgrade_outbound(self, socket: C, _: &'static str) -> Self::Future {
        done(Ok(Connection::new(socket, true)))
    }
}

/// A connection as libp2p sees it: it hands out its stream, and ends with it.
#[derive(Debug)]
pub(super) struct Connection<C> {
    stream: Option<Stream<C>>,
    is_dialler: bool,
    /// Ready when the stream was dropped.
    stream_gone: oneshot::Receiver<()>,
    _alive: oneshot::Sender<()>,
}

impl<C> Connection<C> {
    fn new(socket: C, is_dialler: bool) -> Self {
        let (alive, connection_gone) = oneshot::channel();
        let (stream_alive, stream_gone) = oneshot::channel();
        Self {
            stream: Some(Stream {
                socket,
                connection_gone,
                _alive: stream_alive,
            }),
            is_dialler,
            stream_gone,
            _alive: alive,
        }
    }

    fn take(&mut self, as_dialler: bool) -> Poll<io::Result<Stream<C>>> {
        let taken = (self.is_dialler == as_dialler)
            .then(|| self.stream.take())
            .flatten();
        // The end that is not asked, and whoever asks again, waits for what never comes.
        taken.map_or(Poll::Pending, |stream| Poll::Ready(Ok(stream)))
    }
}

impl<C> StreamMuxer for Connection<C>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    type Substream = Stream<C>;
    type Error = io::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        self.take(false)
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        self.take(true)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match &mut self.stream {
            Some(stream) => Pin::new(&mut stream.socket).poll_close(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        // Only dropping its end makes the other end ready.
        let _ = ready!(self.stream_gone.poll_unpin(cx));
        let ended = io::Error::new(io::ErrorKind::UnexpectedEof, "the stream has ended");
        Poll::Ready(Err(ended))
    }
}

/// The stream of a connection; fails to be read when libp2p gives the connection up.
#[derive(Debug)]
pub(super) struct Stream<C> {
    socket: C,
    /// Ready when the connection was dropped.
    connection_gone: oneshot::Receiver<()>,
    _alive: oneshot::Sender<()>,
}

impl<C: AsyncRead + Unpin> AsyncRead for Stream<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        if read.is_pending() && self.connection_gone.poll_unpin(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        read
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Stream<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx)
    }
}
