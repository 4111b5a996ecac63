//! What a peer may send: a stream of frames that arrives in pieces, and certificates.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tranship_format::wire::{Certificate, FrameDecoder, PeerMessage};

fuzz_target!(|data: &[u8]| {
    let Some((cut, stream)) = data.split_first() else {
        return;
    };
    if let Ok(certificate) = Certificate::decode(stream) {
        let mut bytes = Vec::new();
        certificate.encode(&mut bytes);
        assert_eq!(bytes, stream);
    }
    let mut decoder = FrameDecoder::with_max_body_len(70_000);
    let (one, other) = stream.split_at(stream.len().min(usize::from(*cut)));
    for piece in [one, other] {
        decoder.feed(piece);
        loop {
            let frame = match decoder.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => return,
            };
            let Ok(message) = PeerMessage::from_frame(frame) else {
                continue;
            };
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            assert_eq!(PeerMessage::decode(&bytes).as_ref(), Ok(&message));
        }
    }
});
