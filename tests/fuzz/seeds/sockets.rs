//! What is said on the sockets of devices.

/// What NBD clients say: in the new way and in the old, with questions and requests behind.
pub(super) fn clients(put: &impl Fn(&str, &str, &[u8])) {
    let option = |code: u32, data: &[u8]| {
        let len = u32::try_from(data.len()).expect("a short option");
        [
            &b"IHAVEOPT"[..],
            &code.to_be_bytes()[..],
            &len.to_be_bytes(),
            data,
        ]
        .concat()
    };
    let request = |command: u16, offset: u64, len: u32| {
        let mut request = 0x2560_9513_u32.to_be_bytes().to_vec();
        request.extend([0, 0]);
        request.extend(command.to_be_bytes());
        request.extend(7_u64.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(len.to_be_bytes());
        request
    };
    let flags = 3_u32.to_be_bytes();
    let named = |more: &[u8]| [&6_u32.to_be_bytes()[..], b"device", more].concat();
    let context = [
        &1_u32.to_be_bytes()[..],
        &15_u32.to_be_bytes(),
        b"base:allocation",
    ]
    .concat();
    let requests = [
        request(0, 0, 4096),
        request(7, 0, 8192),
        request(3, 0, 0),
        request(2, 0, 0),
    ];
    let new = [
        flags.to_vec(),
        option(3, b""),
        option(8, b""),
        option(9, &named(&0_u32.to_be_bytes())),
        option(10, &named(&context)),
        option(6, &named(&[0, 2, 0, 1, 0, 3])),
        option(7, &named(&[0, 0])),
        requests.concat(),
    ];
    put("nbd", "new", &new.concat());
    let write = [request(1, 0, 3), b"abc".to_vec()].concat();
    let old = [
        flags.to_vec(),
        option(1, b"device"),
        request(0, 9000, 1),
        write,
    ];
    put("nbd", "old", &old.concat());
}

/// What front ends of vhost-user say, and a guest's memory with a ring of requests.
pub(super) fn guests(put: &impl Fn(&str, &str, &[u8])) {
    let message = |kind: u32, payload: &[u8]| {
        let len = u32::try_from(payload.len()).expect("a short message");
        [
            &kind.to_le_bytes()[..],
            &1_u32.to_le_bytes(),
            &len.to_le_bytes(),
            payload,
        ]
        .concat()
    };
    let numbers = |fields: &[u64]| {
        fields
            .iter()
            .flat_map(|field| field.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let messages = [
        vec![0],
        message(1, b""),
        message(2, &numbers(&[1 << 30])),
        message(5, &numbers(&[1, 0, 4096, 8192, 0])),
        message(8, &numbers(&[16 << 32])),
        message(9, &numbers(&[0, 1, 2, 3, 0])),
        message(12, &numbers(&[0x100])),
        message(24, &numbers(&[60 << 32, 0])),
        message(31, &numbers(&[0, 0, 16 << 16 | 1])),
    ];
    put("vhost_user", "messages", &messages.concat());
    let mut memory = vec![0; 0x400];
    let mut write = |at: usize, bytes: &[u8]| memory[at..at + bytes.len()].copy_from_slice(bytes);
    // One chain in the ring's table, and one in a table of its own.
    let parts = [
        (0x200_u64, 16_u32, 1_u16, 1_u16),
        (0x300, 64, 3, 2),
        (0x220, 1, 2, 0),
        (0x240, 48, 4, 0),
    ];
    for (place, (address, len, flags, next)) in parts.into_iter().enumerate() {
        write(place * 16, &address.to_le_bytes());
        write(place * 16 + 8, &len.to_le_bytes());
        write(place * 16 + 12, &flags.to_le_bytes());
        write(place * 16 + 14, &next.to_le_bytes());
        if place < 3 {
            write(0x240 + place * 16, &address.to_le_bytes());
            write(0x240 + place * 16 + 8, &len.to_le_bytes());
            write(0x240 + place * 16 + 12, &flags.to_le_bytes());
            write(0x240 + place * 16 + 14, &next.to_le_bytes());
        }
    }
    write(0x102, &[2, 0, 0, 0, 3, 0]);
    put("vhost_user", "ring", &[&[1][..], &memory[..]].concat());
}

/// What a kernel says to a FUSE server: every kind of request once.
pub(super) fn kernels(put: &impl Fn(&str, &str, &[u8])) {
    let request = |opcode: u32, node: u64, body: &[u8]| {
        let len = u32::try_from(40 + body.len()).expect("a short request");
        [
            &len.to_le_bytes()[..],
            &opcode.to_le_bytes(),
            &2_u64.to_le_bytes(),
            &node.to_le_bytes(),
            &[0; 16],
            body,
        ]
        .concat()
    };
    let init = [
        &7_u32.to_le_bytes()[..],
        &41_u32.to_le_bytes(),
        &[0, 0, 2, 0],
        &(1_u32 << 30 | 1).to_le_bytes(),
        &128_u32.to_le_bytes(),
        &[0; 44],
    ]
    .concat();
    let read = |offset: u64, len: u32| {
        let mut body = vec![0; 40];
        body[8..16].copy_from_slice(&offset.to_le_bytes());
        body[16..20].copy_from_slice(&len.to_le_bytes());
        body
    };
    let begin = [
        request(26, 0, &init),
        request(1, 1, b"device\0"),
        request(3, 2, &[0; 16]),
        request(14, 2, &[0; 8]),
        request(15, 2, &read(4096, 8192)),
    ];
    put("fuse", "begin", &begin.concat());
    let others = [
        request(27, 1, &[0; 8]),
        request(28, 1, &read(0, 4096)),
        request(17, 1, b""),
        request(18, 2, &[0; 24]),
        request(34, 1, &[0; 8]),
        request(2, 2, &[0; 8]),
        request(36, 0, &[0; 8]),
        request(38, 0, b""),
    ];
    put("fuse", "others", &others.concat());
}
