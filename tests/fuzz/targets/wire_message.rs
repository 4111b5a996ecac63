//! One message at a time: `TRANSHIP_FUZZ_KIND=03` makes every input the body of a WANT, so that each message has a target
//! of its own, however long the way to it is through a stream. The first byte is the request's number.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use tranship_format::wire::{Frame, PeerMessage, TrackerReply, TrackerRequest};

/// ROUTES lists each parent once, in the order in which they are named; another order means the same.
const ROUTES: u8 = 0x63;

fn kind() -> Option<u8> {
    static KIND: OnceLock<Option<u8>> = OnceLock::new();
    *KIND.get_or_init(|| {
        let text = std::env::var("TRANSHIP_FUZZ_KIND").ok()?;
        Some(u8::from_str_radix(&text, 16).expect("a message's type, two digits"))
    })
}

fuzz_target!(|data: &[u8]| {
    let (kind, data) = match (kind(), data.split_first()) {
        (Some(kind), _) => (kind, data),
        (None, Some((kind, rest))) => (*kind, rest),
        (None, None) => return,
    };
    let Some((request, body)) = data.split_first() else {
        return;
    };
    let frame = Frame {
        kind,
        request: u32::from(*request),
        body: body.to_vec().into(),
    };
    let mut whole = Vec::new();
    frame.encode(&mut whole);
    let mut again = Vec::new();
    if let Ok((number, message)) = TrackerRequest::from_frame(&frame) {
        message.encode(number, &mut again);
        assert_eq!(again, whole, "{message:?}");
    } else if let Ok((number, message)) = TrackerReply::from_frame(&frame) {
        message.encode(number, &mut again);
        if kind == ROUTES {
            assert_eq!(TrackerReply::decode(&again), Ok((number, message)));
        } else {
            assert_eq!(again, whole, "{message:?}");
        }
    } else if let Ok(message) = PeerMessage::from_frame(frame) {
        message.encode(&mut again);
        assert_eq!(again, whole, "{message:?}");
    }
});
