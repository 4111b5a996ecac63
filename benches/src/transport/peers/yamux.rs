//! yamux with frames as large as a chunk: the best that yamux was found to do.
//!
//! libp2p's own wrapper cuts what is written into frames of 16 KiB and has no
//! knob for it; with frames of 256 KiB a chunk costs a quarter less processor
//! time. On the wire nothing differs: any yamux accepts frames up to its window.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use futures::future::{Ready, ready as done};
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::UpgradeInfo;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use yamux::{Connection, ConnectionError, Mode};

/// What libp2p calls this upgrade when the two ends negotiate.
const PROTOCOL: &str = "/yamux/1.0.0";
/// Longest frame that is written: one chunk of the usual size with its header.
const FRAME_LEN: usize = 260 << 10;
/// Streams of one connection: a pair of peers keeps five open, so this leaves
/// room for retries and bounds what a hostile peer can make us hold.
const MAX_STREAMS: usize = 32;
/// Bytes that one connection may hold unread: 256 KiB for each of its streams,
/// which is the least that yamux accepts, and room for windows to grow.
const RECEIVE_WINDOW_LEN: usize = 64 << 20;

/// The upgrade.
#[derive(Clone, Debug)]
pub(crate) struct Mux {
    config: yamux::Config,
}

impl Mux {
    pub(crate) fn new() -> Self {
        let mut config = yamux::Config::default();
        config
            .set_max_num_streams(MAX_STREAMS)
            .set_max_connection_receive_window(Some(RECEIVE_WINDOW_LEN))
            .set_split_send_size(FRAME_LEN);
        Self { config }
    }
}

impl UpgradeInfo for Mux {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(PROTOCOL)
    }
}

impl<C> InboundConnectionUpgrade<C> for Mux
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_inbound(self, socket: C, _: &'static str) -> Self::Future {
        done(Ok(Muxer::new(socket, self.config, Mode::Server)))
    }
}

impl<C> OutboundConnectionUpgrade<C> for Mux
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Muxer<C>>>;

    fn upgrade_outbound(self, socket: C, _: &'static str) -> Self::Future {
        done(Ok(Muxer::new(socket, self.config, Mode::Client)))
    }
}

/// One multiplexed connection.
///
/// yamux moves data only while it is asked for inbound streams, and libp2p asks
/// for those only when it has room. So streams that arrive meanwhile wait here;
/// there are never more than `MAX_STREAMS` of them.
#[derive(Debug)]
pub(crate) struct Muxer<C> {
    connection: Connection<C>,
    arrived: VecDeque<yamux::Stream>,
    waiting: Option<Waker>,
}

impl<C> Muxer<C>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    fn new(socket: C, config: yamux::Config, mode: Mode) -> Self {
        Self {
            connection: Connection::new(socket, config, mode),
            arrived: VecDeque::new(),
            waiting: None,
        }
    }

    fn poll_arrival(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<yamux::Stream, ConnectionError>> {
        match ready!(self.connection.poll_next_inbound(cx)) {
            Some(arrival) => Poll::Ready(arrival),
            None => Poll::Ready(Err(ConnectionError::Closed)),
        }
    }
}

impl<C> StreamMuxer for Muxer<C>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    type Substream = yamux::Stream;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        if let Some(stream) = self.arrived.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let arrival = self.poll_arrival(cx);
        if arrival.is_pending() {
            self.waiting = Some(cx.waker().clone());
        }
        arrival
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        self.connection.poll_new_outbound(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.connection.poll_close(cx)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        let stream = ready!(self.poll_arrival(cx))?;
        self.arrived.push_back(stream);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
        // The connection may hold more; it is asked again after others had their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
