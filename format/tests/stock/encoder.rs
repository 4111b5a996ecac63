//! An encoder of overlaybd's formats that shares no line with ours, for the forms that our writer never writes.
//!
//! Written from the description of the format, with every freedom that tools took over the years as an option.

/// CRC-32C without inversions, by a table.
pub(crate) fn crc(seed: u32, bytes: &[u8]) -> u32 {
    let table: [u32; 256] = core::array::from_fn(|byte| {
        (0..8).fold(u32::try_from(byte).unwrap(), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    });
    bytes.iter().fold(seed, |crc, byte| {
        table[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ crc >> 8
    })
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// One index record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) sector: u64,
    pub(crate) count: u64,
    /// Sector of the layer file.
    pub(crate) stored: u64,
    pub(crate) zeroed: bool,
    pub(crate) tag: u8,
}

impl Record {
    /// A record that means nothing.
    pub(crate) const PADDING: Self = Self {
        sector: (1 << 50) - 1,
        count: 0,
        stored: 0,
        zeroed: false,
        tag: 0,
    };

    fn encode(self) -> [u8; 16] {
        let low = self.sector | self.count << 50;
        let high = self.stored | u64::from(self.zeroed) << 55 | u64::from(self.tag) << 56;
        let mut bytes = [0; 16];
        put(&mut bytes, 0, &low.to_le_bytes());
        put(&mut bytes, 8, &high.to_le_bytes());
        bytes
    }
}

/// A layer file.
#[derive(Clone, Debug)]
pub(crate) struct Lsmt {
    pub(crate) records: Vec<Record>,
    /// What stands behind the header, whole sectors.
    pub(crate) data: Vec<u8>,
    pub(crate) virtual_size: u64,
    /// 7 committed, 3 sealed, 0x13 sealed sparse.
    pub(crate) header_flags: u32,
    /// What the header says of index and size, which nobody may believe.
    pub(crate) header_lies: bool,
}

impl Lsmt {
    /// As overlaybd's commit writes it.
    pub(crate) fn committed(records: Vec<Record>, data: Vec<u8>, virtual_size: u64) -> Self {
        Self {
            records,
            data,
            virtual_size,
            header_flags: 7,
            header_lies: false,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let index_offset = 4096 + self.data.len() as u64;
        let count = self.records.len() as u64;
        let header = if self.header_lies {
            Self::page(self.header_flags, 4096, 77, 12345)
        } else {
            Self::page(self.header_flags, 0, 0, 0)
        };
        let mut file = header;
        file.extend(&self.data);
        for record in &self.records {
            file.extend(record.encode());
        }
        file.resize(file.len().next_multiple_of(512), 0);
        file.extend(Self::page(6, index_offset, count, self.virtual_size));
        file
    }

    fn page(flags: u32, index_offset: u64, index_size: u64, virtual_size: u64) -> Vec<u8> {
        let mut page = vec![0; 4096];
        put(&mut page, 0, b"LSMT\0\x01\x02\0");
        put(
            &mut page,
            8,
            &[
                0x65, 0x7e, 0x63, 0xd2, 0x94, 0x44, 0x08, 0x4c, 0xa2, 0xd2, 0xc8, 0xec, 0x4f, 0xcf,
                0xae, 0x8a,
            ],
        );
        put(&mut page, 24, &390_u32.to_le_bytes());
        put(&mut page, 28, &flags.to_le_bytes());
        put(&mut page, 32, &index_offset.to_le_bytes());
        put(&mut page, 40, &index_size.to_le_bytes());
        put(&mut page, 48, &virtual_size.to_le_bytes());
        put(&mut page, 132, &[1, 1]);
        put(&mut page, 134, b"a message from whoever committed it");
        page
    }
}

/// How a layer file is compressed.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a freedom of the format, and all combinations are tried"
)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zfile {
    pub(crate) zstd: bool,
    pub(crate) block_len: usize,
    /// A CRC behind each block.
    pub(crate) block_crc: bool,
    /// The header was completed at the end; otherwise the trailer alone says where the table is.
    pub(crate) completed: bool,
    /// Digest of header and trailer, CRC of the table, and the flag that says so.
    pub(crate) digests: bool,
    /// Garbage in all that means nothing.
    pub(crate) garbage: bool,
    /// Bytes between the header and the first block.
    pub(crate) dictionary_len: usize,
}

impl Zfile {
    /// As overlaybd's merge writes it: the header is never completed.
    pub(crate) const MERGED: Self = Self {
        zstd: false,
        block_len: 4096,
        block_crc: true,
        completed: false,
        digests: true,
        garbage: false,
        dictionary_len: 0,
    };

    pub(crate) fn encode(&self, plain: &[u8]) -> Vec<u8> {
        let mut blocks = vec![0xdd; self.dictionary_len];
        let mut table = Vec::new();
        let mut count = 0_u64;
        for block in plain.chunks(self.block_len) {
            let mut stored = if self.zstd {
                zstd::bulk::compress(block, 3).unwrap()
            } else {
                lz4_flex::block::compress(block)
            };
            if self.block_crc {
                stored.extend(crc(100_007, &stored).to_le_bytes());
            }
            table.extend(u32::try_from(stored.len()).unwrap().to_le_bytes());
            blocks.extend(stored);
            count += 1;
        }
        let index_offset = 512 + blocks.len() as u64;
        let known = (index_offset, count, plain.len() as u64, crc(0, &table));
        let (in_header, header_flags) = if self.completed {
            (known, 0b0_1011)
        } else {
            ((0, 0, 0, 0), 0b0_0011)
        };
        let header = self.header(header_flags, in_header);
        let trailer = self.header(0b0_0110, known);
        [header, blocks, table, trailer].concat()
    }

    fn header(&self, flags: u64, known: (u64, u64, u64, u32)) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        if self.garbage {
            bytes.fill(0x5a);
        }
        put(&mut bytes, 0, b"ZFile\0\x01\0tuji.yyf@Alibaba");
        put(&mut bytes, 24, &96_u32.to_le_bytes());
        let digests = if self.digests { 1 << 4 } else { 0 };
        let beside = if self.garbage { 0x7ffe_a464_0b40 } else { 0 };
        put(&mut bytes, 32, &(flags | digests | beside).to_le_bytes());
        put(&mut bytes, 40, &known.0.to_le_bytes());
        put(&mut bytes, 48, &known.1.to_le_bytes());
        put(&mut bytes, 56, &known.2.to_le_bytes());
        if self.digests {
            put(&mut bytes, 64, &known.3.to_le_bytes());
        }
        let block_len = u32::try_from(self.block_len).unwrap();
        put(&mut bytes, 72, &block_len.to_le_bytes());
        put(&mut bytes, 76, &[if self.zstd { 2 } else { 1 }]);
        let dictionary_len = u32::try_from(self.dictionary_len).unwrap();
        put(&mut bytes, 84, &dictionary_len.to_le_bytes());
        put(&mut bytes, 88, &[u8::from(self.block_crc)]);
        if self.digests {
            put(&mut bytes, 28, &[0; 4]);
            let digest = crc(0, &bytes);
            put(&mut bytes, 28, &digest.to_le_bytes());
        }
        bytes
    }
}

/// What stands around a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Envelope {
    /// Nothing: the payload is the blob.
    None,
    /// One ustar header with the size in octal, and the end of an archive behind.
    Ustar,
    /// The same with GNU's binary size.
    BinarySize,
    /// overlaybd's own: the size in a PAX record, and 0 in the header.
    Pax,
    /// PAX records of other kinds around the size, and nothing behind the payload.
    CutPax,
}

impl Envelope {
    pub(crate) const ALL: [Self; 5] = [
        Self::None,
        Self::Ustar,
        Self::BinarySize,
        Self::Pax,
        Self::CutPax,
    ];

    pub(crate) fn wrap(self, payload: &[u8]) -> Vec<u8> {
        let mut blob = Vec::new();
        let octal = |len: usize| format!("{len:011o}\0").into_bytes();
        match self {
            Self::None => {}
            Self::Ustar => blob.extend(tar_header("overlaybd.commit", b'0', &octal(payload.len()))),
            Self::BinarySize => {
                let mut size = vec![0x80, 0, 0, 0];
                let len = payload.len() as u64;
                size.extend(len.to_le_bytes().into_iter().rev());
                blob.extend(tar_header("overlaybd.commit", b'0', &size));
            }
            Self::Pax | Self::CutPax => {
                let size = pax("size", &payload.len().to_string());
                let records = if self == Self::Pax {
                    size
                } else {
                    [
                        pax("mtime", "1.5"),
                        pax("size", "1"),
                        pax("comment", "\u{e4}"),
                        size,
                    ]
                    .concat()
                };
                let len = format!("{:11o} ", records.len());
                blob.extend(tar_header("overlaybd.pax", b'x', len.as_bytes()));
                blob.extend(records.as_bytes());
                blob.resize(blob.len().next_multiple_of(512), 0);
                blob.extend(tar_header("overlaybd.commit", b'0', b"          0 "));
            }
        }
        blob.extend(payload);
        if !matches!(self, Self::None | Self::CutPax) {
            blob.resize(blob.len().next_multiple_of(512) + 1024, 0);
        }
        blob
    }
}

fn pax(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let len = (1..4)
        .map(|digits| rest + digits)
        .find(|len| rest + len.to_string().len() == *len)
        .unwrap();
    format!("{len} {key}={value}\n")
}

fn tar_header(name: &str, kind: u8, size: &[u8]) -> [u8; 512] {
    let mut header = [0; 512];
    put(&mut header, 0, name.as_bytes());
    put(&mut header, 124, size);
    put(&mut header, 148, b"        ");
    put(&mut header, 156, &[kind]);
    put(&mut header, 257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes());
    header
}
