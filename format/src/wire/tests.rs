//! Each message survives the wire, and no bytes make a decoder panic.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use messages::*;

mod messages;
mod rules;

/// Bytes with one changed, cut short or drawn out.
fn spoil(bytes: &mut Vec<u8>, at: prop::sample::Index, with: u8, how: u8) {
    match how % 3 {
        0 => *at.get_mut(bytes) ^= with.max(1),
        1 => bytes.truncate(at.index(bytes.len())),
        _ => bytes.push(with),
    }
}

proptest! {
    #[test]
    fn a_peer_message_survives_the_wire(message in peer_message()) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        prop_assert_eq!(PeerMessage::decode(&bytes).unwrap(), message);
    }

    #[test]
    fn a_request_survives_the_wire(message in request(), number in 1..=u32::MAX) {
        let mut bytes = Vec::new();
        message.encode(number, &mut bytes);
        prop_assert_eq!(TrackerRequest::decode(&bytes).unwrap(), (number, message));
    }

    #[test]
    fn a_reply_survives_the_wire(message in reply(), number in 1..=u32::MAX) {
        let mut bytes = Vec::new();
        message.encode(number, &mut bytes);
        prop_assert_eq!(TrackerReply::decode(&bytes).unwrap(), (number, message));
    }

    #[test]
    fn a_certificate_survives_the_disk(kept in certificate()) {
        let mut bytes = Vec::new();
        kept.encode(&mut bytes);
        prop_assert_eq!(Certificate::decode(&bytes).unwrap(), kept);
    }

    /// What is spoilt is refused, or is another message that encodes to the spoilt bytes: no two
    /// encodings mean the same, so nothing slips through unread.
    #[test]
    fn a_spoilt_peer_message_is_refused_or_another(
        message in peer_message(), at: prop::sample::Index, with: u8, how: u8,
    ) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        spoil(&mut bytes, at, with, how);
        if let Ok(other) = PeerMessage::decode(&bytes) {
            let mut again = Vec::new();
            other.encode(&mut again);
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn a_spoilt_request_is_refused_or_another(
        message in request(), at: prop::sample::Index, with: u8, how: u8,
    ) {
        let mut bytes = Vec::new();
        message.encode(7, &mut bytes);
        spoil(&mut bytes, at, with, how);
        if let Ok((number, other)) = TrackerRequest::decode(&bytes) {
            let mut again = Vec::new();
            other.encode(number, &mut again);
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn a_spoilt_reply_never_panics(
        message in reply(), at: prop::sample::Index, with: u8, how: u8,
    ) {
        let mut bytes = Vec::new();
        message.encode(7, &mut bytes);
        spoil(&mut bytes, at, with, how);
        drop(TrackerReply::decode(&bytes));
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(kind: u8, request: u32, body in vec(any::<u8>(), 0..400)) {
        let frame = Frame { kind, request, body: body.clone().into() };
        drop(PeerMessage::from_frame(frame.clone()));
        drop(TrackerRequest::from_frame(&frame));
        drop(TrackerReply::from_frame(&frame));
        drop(Certificate::decode(&body));
        drop(Frame::decode(&body));
    }

    #[test]
    fn frames_come_out_however_the_bytes_are_cut(
        messages in vec(peer_message(), 1..6), cuts in vec(1_usize..300, 1..40),
    ) {
        let mut bytes = Vec::new();
        for message in &messages {
            message.encode(&mut bytes);
        }
        let mut decoder = FrameDecoder::new();
        let mut got = Vec::new();
        let mut rest = bytes.as_slice();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            decoder.feed(now);
            rest = later;
            while let Some(frame) = decoder.next_frame().unwrap() {
                got.push(PeerMessage::from_frame(frame).unwrap());
            }
        }
        prop_assert_eq!(got, messages);
        prop_assert_eq!(decoder.buffered_len(), 0);
    }
}
