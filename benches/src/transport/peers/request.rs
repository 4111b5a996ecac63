//! libp2p's request-response with a codec that copies no more than it must.

use std::collections::BTreeMap;
use std::io;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::swarm::SwarmEvent;
use libp2p::{PeerId, StreamProtocol, Swarm};
use libp2p_request_response::{
    Behaviour, Codec, Config, Event, Message, OutboundRequestId, ProtocolSupport,
};

use crate::transport::answers::Answers;
use crate::transport::load::Link;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/tranship/measured-requests/1");
/// Bytes of a chunk at most.
const MAX_LEN: u64 = 1 << 20;

/// Requests are numbers, responses chunks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunks;

impl Codec for Chunks {
    type Protocol = StreamProtocol;
    type Request = u32;
    type Response = Bytes;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<u32>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut number = [0; 4];
        io.read_exact(&mut number).await?;
        Ok(u32::from_le_bytes(number))
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Bytes>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut chunk = Vec::new();
        io.take(MAX_LEN).read_to_end(&mut chunk).await?;
        Ok(chunk.into())
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        number: u32,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&number.to_le_bytes()).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        chunk: Bytes,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&chunk).await
    }
}

pub(super) fn behaviour() -> Behaviour<Chunks> {
    let protocols = [(PROTOCOL, ProtocolSupport::Full)];
    Behaviour::with_codec(Chunks, protocols, Config::default())
}

/// Answers until the process ends.
pub(super) async fn give(mut swarm: Swarm<Behaviour<Chunks>>, answers: Answers) {
    loop {
        if let SwarmEvent::Behaviour(Event::Message {
            message: Message::Request {
                request, channel, ..
            },
            ..
        }) = swarm.select_next_some().await
        {
            // Whoever asked may be gone.
            let _ = swarm
                .behaviour_mut()
                .send_response(channel, answers.get(request));
        }
    }
}

/// Requests to one peer.
pub(super) struct Requests {
    swarm: Swarm<Behaviour<Chunks>>,
    peer: PeerId,
    open: BTreeMap<OutboundRequestId, u32>,
}

impl Requests {
    pub(super) fn new(swarm: Swarm<Behaviour<Chunks>>, peer: PeerId) -> Self {
        Self {
            swarm,
            peer,
            open: BTreeMap::new(),
        }
    }
}

impl Link for Requests {
    async fn ask(&mut self, number: u32) -> Result<()> {
        let id = self.swarm.behaviour_mut().send_request(&self.peer, number);
        self.open.insert(id, number);
        Ok(())
    }

    async fn answer(&mut self) -> Result<(u32, usize)> {
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::Behaviour(Event::Message {
                    message:
                        Message::Response {
                            request_id,
                            response,
                        },
                    ..
                }) => {
                    let number = self.open.remove(&request_id);
                    return Ok((number.context("a request of ours")?, response.len()));
                }
                SwarmEvent::Behaviour(Event::OutboundFailure { error, .. }) => {
                    bail!("a request failed: {error}")
                }
                _ => {}
            }
        }
    }
}
