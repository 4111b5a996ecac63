//! Handshakes with well-behaved clients, and with others.

use std::io::Cursor;
use std::sync::Arc;

use super::*;
use crate::memory::Memory;

/// A stream whose client says everything at once and listens later.
struct Talk {
    said: Cursor<Vec<u8>>,
    heard: Vec<u8>,
}

impl Read for Talk {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.said.read(buf)
    }
}

impl Write for Talk {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.heard.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn exports() -> Vec<Export> {
    [("first", 4096), ("second", 8192)]
        .map(|(name, len)| Export {
            name: name.to_owned(),
            description: format!("the {name}"),
            content: Arc::new(Memory::new(vec![0; len])),
        })
        .into()
}

fn client(options: &[(u32, &[u8])]) -> Vec<u8> {
    let mut said = Message::default();
    said.u32(u32::from(FIXED_NEWSTYLE | NO_ZEROES));
    for (code, data) in options {
        said.bytes(OPTION_MAGIC);
        said.u32(*code);
        said.text(data);
    }
    said.0
}

/// What was agreed on (name, structured, base:allocation), and the kinds of replies to options.
type Outcome = (
    Result<Option<(String, bool, bool)>, HandshakeError>,
    Vec<u32>,
);

fn talk(said: Vec<u8>) -> Outcome {
    let exports = exports();
    let mut talk = Talk {
        said: Cursor::new(said),
        heard: Vec::new(),
    };
    let outcome = negotiate(&mut talk, &exports).map(|agreed| {
        agreed.map(|agreed| {
            let name = agreed.export.name.clone();
            (name, agreed.structured, agreed.base_allocation)
        })
    });
    let mut kinds = Vec::new();
    let mut heard = Fields(&talk.heard[18..]);
    while heard.u64() == Some(0x0003_e889_0455_65a9) {
        let _option = heard.u32().unwrap();
        kinds.push(heard.u32().unwrap());
        heard.text().unwrap();
    }
    (outcome, kinds)
}

fn go(name: &[u8], wanted: &[u16]) -> Vec<u8> {
    let mut data = Message::default();
    data.text(name);
    data.u16(u16::try_from(wanted.len()).unwrap());
    for wanted in wanted {
        data.u16(*wanted);
    }
    data.0
}

fn contexts(name: &[u8], queries: &[&[u8]]) -> Vec<u8> {
    let mut data = Message::default();
    data.text(name);
    data.u32(u32::try_from(queries.len()).unwrap());
    for query in queries {
        data.text(query);
    }
    data.0
}

#[test]
fn a_client_chooses_by_name_and_the_empty_name_is_the_first() {
    for (name, chosen) in [("", "first"), ("first", "first"), ("second", "second")] {
        let (agreed, kinds) = talk(client(&[(option::GO, &go(name.as_bytes(), &[]))]));
        assert_eq!(agreed.unwrap().unwrap().0, chosen);
        assert_eq!(kinds, [answer::INFO, answer::ACK]);
        let (agreed, _) = talk(client(&[(option::EXPORT_NAME, name.as_bytes())]));
        assert_eq!(agreed.unwrap().unwrap().0, chosen);
    }
}

#[test]
fn a_client_may_look_before_it_chooses() {
    let wanted = [info::NAME, info::DESCRIPTION, info::BLOCK_SIZE];
    let (agreed, kinds) = talk(client(&[
        (option::LIST, b""),
        (option::INFO, &go(b"second", &wanted)),
        (option::GO, &go(b"none", &[])),
        (5, b""),
        (option::ABORT, b""),
    ]));
    assert_eq!(agreed.unwrap(), None);
    let expected = [
        &[answer::SERVER, answer::SERVER, answer::ACK][..],
        &[answer::INFO; 4],
        &[
            answer::ACK,
            answer::UNKNOWN,
            answer::UNSUPPORTED,
            answer::ACK,
        ],
    ];
    assert_eq!(kinds, expected.concat());
}

#[test]
fn the_context_holds_for_the_export_it_was_agreed_on_for() {
    let allocation = contexts(b"first", &[b"qemu:x", BASE_ALLOCATION]);
    let base = |name: &[u8]| {
        let (agreed, kinds) = talk(client(&[
            (option::STRUCTURED_REPLY, b""),
            (option::SET_META_CONTEXT, &allocation),
            (option::GO, &go(name, &[])),
        ]));
        assert_eq!(kinds[..3], [answer::ACK, answer::META_CONTEXT, answer::ACK]);
        agreed.unwrap().unwrap().2
    };
    assert!(base(b"first"));
    assert!(base(b""), "the same one by another name");
    assert!(!base(b"second"));
}

#[test]
fn contexts_need_structured_replies_and_are_listed() {
    let (_, kinds) = talk(client(&[(option::LIST_META_CONTEXT, &contexts(b"", &[]))]));
    assert_eq!(kinds, [answer::INVALID]);
    for (queries, found) in [
        (&[][..], true),
        (&[&b"base:"[..]], true),
        (&[&b"qemu:"[..]], false),
    ] {
        let (_, kinds) = talk(client(&[
            (option::STRUCTURED_REPLY, b""),
            (option::LIST_META_CONTEXT, &contexts(b"", queries)),
        ]));
        assert_eq!(kinds.contains(&answer::META_CONTEXT), found);
        assert_eq!(kinds.last(), Some(&answer::ACK));
    }
}

#[test]
fn malformed_options_are_refused_and_the_client_may_go_on() {
    let mut absurd_count = contexts(b"", &[]);
    absurd_count.splice(4.., [0xff; 4]);
    let mut trailing = go(b"", &[]);
    trailing.push(0);
    let (agreed, kinds) = talk(client(&[
        (option::STRUCTURED_REPLY, b""),
        (option::SET_META_CONTEXT, &absurd_count),
        (option::GO, b"\xff\xff\xff\xff"),
        (option::GO, &trailing),
        (option::INFO, b""),
        (option::LIST, b"x"),
        (option::STRUCTURED_REPLY, b"x"),
        (option::LIST, &vec![0; 20_000]),
        (option::GO, &go(b"", &[])),
    ]));
    assert!(agreed.unwrap().is_some());
    let mut expected = vec![answer::ACK];
    expected.extend([answer::INVALID; 6]);
    expected.extend([answer::TOO_BIG, answer::INFO, answer::ACK]);
    assert_eq!(kinds, expected);
}

#[test]
fn who_does_not_speak_the_protocol_is_hung_up_on() {
    let malformed =
        |said: &[u8]| matches!(talk(said.to_vec()).0, Err(HandshakeError::Malformed(_)));
    assert!(malformed(b"\xff\xff\xff\xff"));
    assert!(malformed(b"\0\0\0\x01GET / HTTP/1.1\r\n\r\n"));
    assert!(malformed(b"\0\0\0\x01IHAVEOPT\0\0\0\x07\xff\xff\xff\xff"));
    assert!(malformed(b"\0\0\0\x01IHAVEOPT\0\0\0\x01\0\x01\0\0"));
    assert!(malformed(&client(&vec![(5, &b""[..]); 1001])));
    assert!(matches!(
        talk(client(&[(option::EXPORT_NAME, b"none")])).0,
        Err(HandshakeError::NoSuchExport)
    ));
}

#[test]
fn a_client_that_breaks_off_anywhere_is_an_error_and_no_panic() {
    let said = client(&[
        (option::STRUCTURED_REPLY, b""),
        (option::SET_META_CONTEXT, &contexts(b"", &[BASE_ALLOCATION])),
        (option::GO, &go(b"", &[info::BLOCK_SIZE])),
    ]);
    for len in 0..said.len() {
        assert!(matches!(
            talk(said[..len].to_vec()).0,
            Err(HandshakeError::Broken(_))
        ));
    }
}

#[test]
fn the_old_way_to_choose_is_padded_unless_the_client_declines() {
    let exports = exports();
    let mut lens = Vec::new();
    for flags in [FIXED_NEWSTYLE, FIXED_NEWSTYLE | NO_ZEROES] {
        let mut said = client(&[(option::EXPORT_NAME, b"")]);
        said[3] = u8::try_from(flags).unwrap();
        let mut talk = Talk {
            said: Cursor::new(said),
            heard: Vec::new(),
        };
        negotiate(&mut talk, &exports).unwrap().unwrap();
        lens.push(talk.heard.len());
    }
    assert_eq!(lens, [18 + 10 + 124, 18 + 10]);
}
