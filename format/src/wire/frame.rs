//! Frames: a 12-byte header and a body, the same on every stream.
//!
//! The request number stands in the header, so the body of DATA is the chunk and nothing else: it
//! reaches the verifier as a slice of the buffer it was received in.

use bytes::{Buf, Bytes, BytesMut};

use super::WireError;

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 12;
/// Longest body of a frame: 1 MiB.
pub const MAX_BODY_LEN: u32 = 1 << 20;

/// What a frame's first 12 bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the body, at most [`MAX_BODY_LEN`].
    pub body_len: u32,
    /// Which message the body is.
    pub kind: u8,
    /// Which request it makes or answers; 0 is none.
    pub request: u32,
}

impl Header {
    /// The header's bytes: length u32, kind u8, three zero bytes, request u32.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let [l0, l1, l2, l3] = self.body_len.to_le_bytes();
        let [r0, r1, r2, r3] = self.request.to_le_bytes();
        [l0, l1, l2, l3, self.kind, 0, 0, 0, r0, r1, r2, r3]
    }

    /// Reads a header whose body may have at most `max_body_len` bytes.
    pub fn decode(bytes: [u8; HEADER_LEN], max_body_len: u32) -> Result<Self, WireError> {
        let [l0, l1, l2, l3, kind, z0, z1, z2, r0, r1, r2, r3] = bytes;
        let body_len = u32::from_le_bytes([l0, l1, l2, l3]);
        let bits = u32::from_le_bytes([z0, z1, z2, 0]);
        if bits != 0 {
            return Err(WireError::ReservedBits { bits });
        }
        if body_len > max_body_len {
            return Err(WireError::FrameTooLong {
                len: body_len,
                max: max_body_len,
            });
        }
        Ok(Self {
            body_len,
            kind,
            request: u32::from_le_bytes([r0, r1, r2, r3]),
        })
    }
}

/// One frame, its body not yet understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which message the body is.
    pub kind: u8,
    /// Which request it makes or answers; 0 is none.
    pub request: u32,
    /// The body.
    pub body: Bytes,
}

impl Frame {
    /// Appends the whole frame. A body beyond [`MAX_BODY_LEN`] is the caller's bug and would be
    /// refused by any receiver.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.header().encode());
        out.extend_from_slice(&self.body);
    }

    /// The header that goes before the body.
    pub fn header(&self) -> Header {
        Header {
            body_len: u32::try_from(self.body.len()).unwrap_or(u32::MAX),
            kind: self.kind,
            request: self.request,
        }
    }

    /// Reads exactly one frame from `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut decoder = FrameDecoder::new();
        decoder.feed(bytes);
        let frame = decoder
            .next_frame()?
            .ok_or(WireError::Truncated { what: "frame" })?;
        match decoder.buffered_len() {
            0 => Ok(frame),
            count => Err(WireError::TrailingBytes {
                what: "frame",
                count,
            }),
        }
    }
}

/// Writes a frame whose body `put` appends, then goes back to fill in the length.
pub(super) fn put_frame(out: &mut Vec<u8>, kind: u8, request: u32, put: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_LEN]);
    put(out);
    let body_len = out.len().saturating_sub(start.saturating_add(HEADER_LEN));
    let body_len = u32::try_from(body_len).unwrap_or(u32::MAX);
    let header = Header {
        body_len,
        kind,
        request,
    }
    .encode();
    for (to, from) in out.iter_mut().skip(start).zip(header) {
        *to = from;
    }
}

/// Cuts received bytes into frames.
///
/// Holds at most one frame's bytes plus what was fed beyond it; a header is checked before room
/// is made for its body.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: BytesMut,
    header: Option<Header>,
    max_body_len: u32,
}

impl FrameDecoder {
    /// A decoder that takes bodies up to [`MAX_BODY_LEN`].
    pub fn new() -> Self {
        Self::with_max_body_len(MAX_BODY_LEN)
    }

    /// A decoder that takes bodies up to `max_body_len` (never above [`MAX_BODY_LEN`]): a small one
    /// bounds what a stranger can make us hold before HELLO.
    pub fn with_max_body_len(max_body_len: u32) -> Self {
        let max_body_len = max_body_len.min(MAX_BODY_LEN);
        Self {
            buffer: BytesMut::new(),
            header: None,
            max_body_len,
        }
    }

    /// Changes the longest body from the next header on.
    pub fn set_max_body_len(&mut self, max_body_len: u32) {
        self.max_body_len = max_body_len.min(MAX_BODY_LEN);
    }

    /// Takes bytes as they were received.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The buffer to receive into directly, which saves [`FrameDecoder::feed`]'s copy. Only append to it.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Bytes received and not yet given out.
    pub fn buffered_len(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes still missing before [`FrameDecoder::next_frame`] can have more to say; at least 1.
    pub fn missing_len(&self) -> usize {
        let need = self
            .header
            .map_or(HEADER_LEN, |header| header.body_len as usize);
        need.saturating_sub(self.buffer.len()).max(1)
    }

    /// The next whole frame, `None` until more bytes are fed. After an error the stream is lost:
    /// there is no way to find the next frame.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        let header = match self.header {
            Some(header) => header,
            None => match self.buffer.first_chunk::<HEADER_LEN>() {
                Some(bytes) => {
                    let header = Header::decode(*bytes, self.max_body_len)?;
                    self.buffer.advance(HEADER_LEN);
                    self.header = Some(header);
                    header
                }
                None => return Ok(None),
            },
        };
        let len = header.body_len as usize;
        if self.buffer.len() < len {
            self.buffer.reserve(len - self.buffer.len());
            return Ok(None);
        }
        self.header = None;
        let body = self.buffer.split_to(len).freeze();
        Ok(Some(Frame {
            kind: header.kind,
            request: header.request,
            body,
        }))
    }
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new()
    }
}
