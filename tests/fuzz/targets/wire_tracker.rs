//! What agent and tracker may send each other: requests and replies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tranship_format::wire::{FrameDecoder, TrackerReply, TrackerRequest};

fuzz_target!(|data: &[u8]| {
    let mut decoder = FrameDecoder::new();
    decoder.feed(data);
    while let Ok(Some(frame)) = decoder.next_frame() {
        let mut bytes = Vec::new();
        if let Ok((number, request)) = TrackerRequest::from_frame(&frame) {
            request.encode(number, &mut bytes);
            assert_eq!(TrackerRequest::decode(&bytes), Ok((number, request)));
        }
        bytes.clear();
        if let Ok((number, reply)) = TrackerReply::from_frame(&frame) {
            reply.encode(number, &mut bytes);
            assert_eq!(TrackerReply::decode(&bytes), Ok((number, reply)));
        }
    }
});
