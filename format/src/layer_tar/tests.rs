//! Tars made by hand, one for each thing that some writer does.

use super::*;

/// A header block with a right checksum. `fields` are put over a plain ustar header of a regular file.
fn block(kind: u8, name: &[u8], size: u64, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name);
    put(100, b"0000644\0");
    put(108, b"0001750\0");
    put(116, b"0000144\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000144\0");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    for (at, bytes) in fields {
        put(*at, bytes);
    }
    put(148, b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn with_data(mut header: Vec<u8>, data: &[u8]) -> Vec<u8> {
    header.extend(data);
    header.resize(header.len().next_multiple_of(512), 0);
    header
}

fn file(name: &[u8], data: &[u8]) -> Vec<u8> {
    with_data(block(b'0', name, data.len() as u64, &[]), data)
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut len = body + 1;
    while body + len.to_string().len() != len {
        len = body + len.to_string().len();
    }
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let data: Vec<u8> = records
        .iter()
        .flat_map(|(key, value)| record(key, value))
        .collect();
    with_data(block(b'x', b"PaxHeaders/x", data.len() as u64, &[]), &data)
}

type Read = (TarEntry, Vec<u8>);

/// All entries, holes filled with zeros.
fn read(tar: &[u8]) -> Result<Vec<Read>, ReadTarError> {
    let mut tar = LayerTar::new(tar);
    let mut out = Vec::new();
    while let Some(entry) = tar.next_entry()? {
        let mut data = Vec::new();
        let mut buf = [0; 7];
        while let Some(offset) = tar.data_offset() {
            data.resize(usize::try_from(offset).unwrap(), 0);
            let len = tar.read_data(&mut buf)?;
            data.extend(&buf[..len]);
        }
        if let EntryKind::File { size } = entry.kind {
            data.resize(usize::try_from(size).unwrap(), 0);
        }
        out.push((entry, data));
    }
    Ok(out)
}

fn one(tar: &[u8]) -> Read {
    let mut all = read(tar).unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[test]
fn a_plain_header_says_everything() {
    let (entry, data) = one(&file(b"dir/file", b"content"));
    assert_eq!(entry.path, b"dir/file");
    assert_eq!(entry.kind, EntryKind::File { size: 7 });
    assert_eq!(
        (entry.permissions, entry.uid, entry.gid),
        (0o644, 1000, 100)
    );
    assert_eq!(entry.mtime.seconds, 100);
    assert_eq!(data, b"content");
}

#[test]
fn pax_records_replace_fields_and_carry_any_bytes() {
    let path = [b"long/".repeat(1000), b"\xff\xfe new\nline".to_vec()].concat();
    let tar = [
        pax(&[
            ("path", &path),
            ("size", b"3"),
            ("uid", b"4294967294"),
            ("gid", b"3000000"),
            ("mtime", b"-1.25"),
            ("SCHILY.xattr.user.binary", b"a\0b\n=c"),
            ("SCHILY.xattr.user.empty", b""),
            ("comment", b"nothing"),
        ]),
        with_data(block(b'0', b"short", 0, &[]), b"abc"),
        file(b"next", b"plain"),
    ];
    let read = read(&tar.concat()).unwrap();
    let (entry, data) = &read[0];
    assert_eq!((&entry.path, &data[..]), (&path, &b"abc"[..]));
    assert_eq!((entry.uid, entry.gid), (4_294_967_294, 3_000_000));
    assert_eq!(
        (entry.mtime.seconds, entry.mtime.nanoseconds),
        (-2, 750_000_000)
    );
    assert_eq!(entry.xattrs[&b"user.binary"[..]], b"a\0b\n=c");
    assert_eq!(entry.xattrs[&b"user.empty"[..]], b"");
    assert_eq!(read[1].0.path, b"next");
    assert!(read[1].0.xattrs.is_empty());
}

#[test]
fn gnu_long_names_and_base_256_numbers_are_read() {
    let name = b"n".repeat(300);
    let target = b"t".repeat(200);
    let long = |kind, text: &[u8]| {
        let text = [text, b"\0"].concat();
        with_data(block(kind, b"././@LongLink", text.len() as u64, &[]), &text)
    };
    let wide_uid = [&b"\x80\0\0\0"[..], &[0x12, 0x34, 0x56, 0x78]].concat();
    let tar = [
        long(b'L', &name),
        long(b'K', &target),
        block(b'2', b"cut", 0, &[(108, &wide_uid), (257, b"ustar  \0")]),
    ];
    let (entry, _) = one(&tar.concat());
    assert_eq!(entry.path, name);
    assert_eq!(entry.kind, EntryKind::Symlink { target });
    assert_eq!(entry.uid, 0x1234_5678);
}

#[test]
fn every_kind_of_entry_is_told_apart() {
    let device: &[(usize, &[u8])] = &[(329, b"0000010\0"), (337, b"0000003\0")];
    let tar = [
        block(b'5', b"dir/", 99, &[]),
        block(0, b"old/", 0, &[]),
        block(b'1', b"hard", 1 << 20, &[(157, b"dir/target")]),
        block(b'3', b"char", 0, device),
        block(b'4', b"block", 0, device),
        block(b'6', b"fifo", 0, &[]),
        with_data(block(b'7', b"contiguous", 1, &[]), b"x"),
        with_data(block(b'g', b"global", 12, &[]), b"12 uid=1234\n"),
        block(b'0', b"name", 0, &[(345, b"prefix")]),
        block(
            b'0',
            b"name",
            0,
            &[(345, b"star"), (476, b"0000"), (508, b"tar\0")],
        ),
    ];
    let read = read(&tar.concat()).unwrap();
    let kinds: Vec<_> = read.iter().map(|(entry, _)| entry.kind.clone()).collect();
    let (major, minor) = (8, 3);
    let target = b"dir/target".to_vec();
    assert_eq!(
        kinds,
        [
            EntryKind::Directory,
            EntryKind::Directory,
            EntryKind::HardLink { target },
            EntryKind::CharDevice { major, minor },
            EntryKind::BlockDevice { major, minor },
            EntryKind::Fifo,
            EntryKind::File { size: 1 },
            EntryKind::File { size: 0 },
            EntryKind::File { size: 0 },
        ]
    );
    assert_eq!(read[7].0.path, b"prefix/name");
    assert_eq!(read[7].0.uid, 1000);
    assert_eq!(read[8].0.path, b"star/name");
}

#[test]
fn the_four_sparse_forms_are_one_file() {
    let stored = b"abcdefgh";
    let mut expected = vec![0; 3000];
    expected[1000..1005].copy_from_slice(b"abcde");
    expected[2000..2003].copy_from_slice(b"fgh");
    let octal = |number: u64| format!("{number:011o}\0").into_bytes();
    let old_record = |offset, len| [octal(offset), octal(len)].concat();
    let old = [
        block(
            b'S',
            b"file",
            8,
            &[
                (257, b"ustar  \0"),
                (386, &old_record(1000, 5)),
                (482, b"\x01"),
                (483, &octal(3000)),
            ],
        ),
        with_data(old_record(2000, 3), b""),
        with_data(Vec::new(), stored),
    ];
    let pax_0_0 = [
        pax(&[
            ("GNU.sparse.size", b"3000"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", b"1000"),
            ("GNU.sparse.numbytes", b"5"),
            ("GNU.sparse.offset", b"2000"),
            ("GNU.sparse.numbytes", b"3"),
        ]),
        file(b"file", stored),
    ];
    let pax_0_1 = [
        pax(&[
            ("GNU.sparse.size", b"3000"),
            ("GNU.sparse.map", b"1000,5,2000,3"),
            ("GNU.sparse.name", b"file"),
        ]),
        file(b"GNUSparseFile.0/file", stored),
    ];
    let map = with_data(b"2\n1000\n5\n2000\n3\n".to_vec(), b"");
    let pax_1_0 = [
        pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"file"),
            ("GNU.sparse.realsize", b"3000"),
        ]),
        file(b"GNUSparseFile.0/file", &[&map, &stored[..]].concat()),
    ];
    for form in [&old[..], &pax_0_0, &pax_0_1, &pax_1_0] {
        let tar = [form.concat(), file(b"after", b"!")].concat();
        let read = read(&tar).unwrap();
        assert_eq!(read[0].0.path, b"file");
        assert_eq!(read[0].0.kind, EntryKind::File { size: 3000 });
        assert!(read[0].1 == expected);
        assert_eq!(read[1].1, b"!");
    }
}

#[test]
fn an_archive_ends_at_two_zero_blocks_or_with_the_stream() {
    let entry = file(b"a", b"b");
    for end in [0, 512, 1024, 10_240] {
        assert_eq!(
            read(&[entry.clone(), vec![0; end]].concat()).unwrap().len(),
            1
        );
    }
    let lone = [entry.clone(), vec![0; 512], entry].concat();
    assert!(matches!(
        read(&lone),
        Err(ReadTarError::Header { offset: 1024, .. })
    ));
    assert!(read(b"").unwrap().is_empty());
}

#[test]
fn a_tar_that_is_cut_anywhere_is_refused_or_shorter() {
    let whole = [
        pax(&[("mtime", b"1.5")]),
        file(b"a", &[7; 700]),
        file(b"b", b"x"),
    ]
    .concat();
    let between_entries = [0, 2560];
    for len in 0..whole.len() {
        let read = read(&whole[..len]);
        assert_eq!(read.is_ok(), between_entries.contains(&len), "cut at {len}");
    }
}

#[test]
fn bad_tars_are_refused_by_name() {
    let message = |tar: &[u8]| read(tar).unwrap_err().to_string();
    let mut flipped = file(b"a", b"b");
    flipped[3] ^= 1;
    assert_eq!(
        message(&flipped),
        "no tar header at byte 0: its checksum is wrong"
    );
    assert_eq!(
        message(&block(b'V', b"label", 0, &[])),
        "entry `label`: entries of type `V` are not supported in layers"
    );
    assert_eq!(
        message(&block(b'0', b"a", 0, &[(108, b"junk")])),
        "entry `a`: its owner is not a number in range"
    );
    assert_eq!(
        message(&[pax(&[("path", b"a\0b")]), file(b"a", b"")].concat()),
        "entry `a\\0b`: bad name: it contains a NUL byte"
    );
    assert_eq!(
        message(&block(b'x', b"x", 2 << 20, &[])),
        "a PAX header of 2097152 bytes: at most 1048576 are read"
    );
    for (records, why) in [
        (&b"5 a=b\n"[..], "a record's length does not fit it"),
        (b"9999999 a=b\n", "a record's length does not fit it"),
        (b"25 GNU.sparse.numbytes=1\n", "a sparse run has no offset"),
    ] {
        let tar = with_data(block(b'x', b"x", records.len() as u64, &[]), records);
        assert_eq!(message(&tar), format!("bad PAX header: {why}"));
    }
    for (map, why) in [
        ("10,5,2,1", "its runs overlap or go backwards"),
        ("18446744073709551615,5", "a run ends beyond any file"),
        ("96,8", "a run ends behind the file's end"),
        ("0,9", "its runs are longer than the stored data"),
    ] {
        let records: &[(&str, &[u8])] = &[
            ("GNU.sparse.size", b"100"),
            ("GNU.sparse.map", map.as_bytes()),
        ];
        let tar = [pax(records), file(b"s", b"abcdefgh")].concat();
        assert_eq!(message(&tar), format!("entry `s`: bad sparse map: {why}"));
    }
}
