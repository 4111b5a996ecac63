//! One gRPC message as it stands in a body: a flag, its length, and itself.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The flag and the length, in bytes.
const HEAD_LEN: usize = 5;

/// The message of a body that is one; `None` for a compressed one, and where the length is another.
pub(super) fn open(mut body: Bytes) -> Option<Bytes> {
    if body.len() < HEAD_LEN {
        return None;
    }
    let is_compressed = body.get_u8() != 0;
    let len = body.get_u32();
    (!is_compressed && usize::try_from(len) == Ok(body.len())).then_some(body)
}

/// A body that is this message; `None` if its length does not fit.
pub(super) fn close(message: &[u8]) -> Option<Bytes> {
    let len = u32::try_from(message.len()).ok()?;
    let mut body = BytesMut::with_capacity(HEAD_LEN + message.len());
    body.put_u8(0);
    body.put_u32(len);
    body.extend_from_slice(message);
    Some(body.freeze())
}
