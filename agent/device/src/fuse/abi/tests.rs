//! FUSE's messages against the sizes of the kernel's structures, and against messages that no kernel sends.

use super::*;

/// A request as the kernel writes it.
fn request(opcode: u32, unique: u64, node: u64, body: &[u8]) -> Vec<u8> {
    let mut message = Encoder::default();
    message.u32(u32::try_from(REQUEST_HEADER_LEN + body.len()).unwrap());
    message.u32(opcode);
    message.u64(unique);
    message.u64(node);
    message.bytes(&[0; 16]);
    message.bytes(body);
    message.0
}

fn read_body(offset: u64, len: u32) -> Vec<u8> {
    let mut body = Encoder::default();
    body.u64(0);
    body.u64(offset);
    body.u32(len);
    body.bytes(&[0; 20]);
    body.0
}

fn init_body(major: u32, minor: u32, features: u64) -> Vec<u8> {
    let mut body = Encoder::default();
    body.u32(major);
    body.u32(minor);
    body.u32(128 << 10);
    body.u32(low_half(features));
    body.u32(low_half(features >> 32));
    body.bytes(&[0; 44]);
    body.0
}

fn decoded(message: &[u8]) -> Option<(Header, Call<'_>)> {
    let (header, body) = header(message)?;
    Some((header, call(header, body)?))
}

#[test]
fn a_read_is_taken_apart() {
    let message = request(15, 77, FILE_NODE, &read_body(1 << 40, 4096));
    let (header, call) = decoded(&message).unwrap();
    assert_eq!((header.unique, header.node), (77, FILE_NODE));
    assert_eq!(
        call,
        Call::Read {
            offset: 1 << 40,
            len: 4096
        }
    );
}

#[test]
fn a_looked_up_name_ends_at_its_zero() {
    let message = request(1, 1, ROOT_NODE, b"device\0");
    let (_, call) = decoded(&message).unwrap();
    assert_eq!(call, Call::Lookup { name: b"device" });
}

#[test]
fn no_message_that_is_cut_short_decodes() {
    let messages = [
        request(15, 1, FILE_NODE, &read_body(0, 1)[..20]),
        request(28, 1, ROOT_NODE, &read_body(0, 1)[..20]),
        request(26, 1, 0, &init_body(7, 45, INIT_EXT)[..20]),
    ];
    for message in messages {
        assert!(decoded(&message).is_some());
        for len in 0..message.len() {
            assert_eq!(decoded(&message[..len]), None, "said length is wrong");
            if len >= REQUEST_HEADER_LEN {
                let mut cut = message[..len].to_vec();
                cut[..4].copy_from_slice(&u32::try_from(len).unwrap().to_ne_bytes());
                assert_eq!(decoded(&cut), None, "body of {len} bytes");
            }
        }
    }
}

#[test]
fn no_bytes_make_decoding_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..20_000_usize {
        let message: Vec<u8> = (0..round % 96)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_ne_bytes()[0]
            })
            .collect();
        let _ = decoded(&message);
        let opcode = u32::try_from(round % 64).unwrap();
        let _ = decoded(&request(opcode, 1, 1, &message));
    }
}

#[test]
fn features_are_taken_only_where_they_are_offered() {
    let features = |offered: u64| {
        let body = init_body(MAJOR, 41, offered);
        let reply = offer(&body).unwrap().reply(1 << 20, 4096);
        assert_eq!(reply.len(), 64);
        let (low, high) = (u32_at(&reply, 12).unwrap(), u32_at(&reply, 32).unwrap());
        u64::from(high) << 32 | u64::from(low)
    };
    assert_eq!(features(0), 0);
    assert_eq!(features(u64::MAX), WANTED);
    assert_eq!(features(MAX_PAGES | 1 << 1), MAX_PAGES);
    assert_eq!(features(HAS_RESEND), 0, "the upper half needs INIT_EXT");
    assert_eq!(features(HAS_RESEND | INIT_EXT), HAS_RESEND | INIT_EXT);
}

#[test]
fn reads_of_one_mebibyte_are_negotiated_whatever_the_page() {
    let offer = offer(&init_body(MAJOR, 45, u64::MAX)).unwrap();
    for (page_len, page_count) in [(4096, 256_u16), (16384, 64), (65536, 16)] {
        let reply = offer.reply(0, page_len);
        assert_eq!(reply[28..30], page_count.to_ne_bytes());
    }
}

#[test]
fn other_major_versions_are_answered_with_ours() {
    let newer = offer(&init_body(8, 0, 0)).unwrap();
    assert!(newer.is_served());
    assert_eq!(u32_at(&newer.reply(0, 4096), 0), Some(MAJOR));
    assert!(!offer(&init_body(7, 27, 0)).unwrap().is_served());
    assert!(!offer(&init_body(6, 99, 0)).unwrap().is_served());
}

#[test]
fn replies_have_the_sizes_of_the_kernels_structures() {
    let attributes = Attributes {
        node: FILE_NODE,
        len: 1000,
        mode: 0o100_400,
    };
    assert_eq!(entry_reply(attributes).len(), 128);
    assert_eq!(attributes_reply(attributes).len(), 104);
    assert_eq!(open_reply().len(), 16);
    assert_eq!(statistics_reply(1).len(), 80);
    let reply = attributes_reply(attributes);
    assert_eq!(u64_at(&reply, 24), Some(1000));
    assert_eq!(u64_at(&reply, 32), Some(2), "sectors");
    assert_eq!(u32_at(&reply, 76), Some(0o100_400));
}

#[test]
fn reply_headers_carry_length_and_negative_errno() {
    assert_eq!(
        (
            u32_at(&reply_header(9, Ok(100)), 0),
            u32_at(&reply_header(9, Ok(100)), 4),
            u64_at(&reply_header(9, Ok(100)), 8)
        ),
        (Some(116), Some(0), Some(9))
    );
    let failed = reply_header(9, Err(Errno::Io));
    assert_eq!(u32_at(&failed, 0), Some(16));
    assert_eq!(failed[4..8], (-5_i32).to_ne_bytes());
}

#[test]
fn a_folder_is_read_in_parts_that_fit() {
    let entries: [(u64, u32, &[u8]); 3] = [
        (1, 0o040_000, b"."),
        (1, 0o040_000, b".."),
        (2, 0o100_000, b"device"),
    ];
    let whole = folder_reply(&entries, 0, 4096);
    assert_eq!(whole.len(), 3 * 32);
    assert_eq!(u32_at(&whole, 64 + 16), Some(6));
    assert_eq!(u32_at(&whole, 64 + 20), Some(8), "a regular file");
    assert_eq!(folder_reply(&entries, 0, 95).len(), 64);
    assert_eq!(folder_reply(&entries, 2, 4096), whole[64..]);
    assert!(folder_reply(&entries, 3, 4096).is_empty());
    assert!(folder_reply(&entries, u64::MAX, 4096).is_empty());
}
