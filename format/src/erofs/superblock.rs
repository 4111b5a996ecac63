//! The superblock: 128 bytes at 1,024, whose checksum covers the rest of its block.
//!
//! Fields that would make two conversions differ (times, a random UUID) are constants of the writer.

use super::fields::Fields;
use super::read::ErofsError;
use super::{BLOCK_LEN, Nid};

/// Where the superblock stands on the device; the bytes before it are left to boot loaders.
pub(crate) const SUPERBLOCK_OFFSET: u64 = 1024;
/// Length in bytes of the superblock without extension slots.
const SUPERBLOCK_LEN: usize = 128;
/// Where the checksum stands, counted from the superblock's start.
pub(crate) const CHECKSUM_OFFSET: usize = 4;

const MAGIC: u32 = 0xe0f5_e1e2;
/// Compatible feature: the checksum is valid.
const COMPAT_CHECKSUM: u32 = 0x1;
/// Compatible feature: inode times are modification times.
const COMPAT_MTIME: u32 = 0x2;
/// Incompatible features that change nothing for inodes which are stored uncompressed: LZ4 padding, compression
/// configurations, chunked files, device tables, tail packing, fragments, long xattr prefixes.
const INCOMPAT_KNOWN: u32 = 0x7f;
/// Blocks smaller than a sector or larger than 64 KiB exist in no writer.
const BLOCK_BITS: std::ops::RangeInclusive<u8> = 9..=16;

/// The UUID of every filesystem that we write: "tranship" as a version 8 UUID. One for all, because a random one
/// would make conversion unrepeatable and a derived one would change block 0 of otherwise equal layers.
const UUID: [u8; 16] = [
    0x74, 0x72, 0x61, 0x6e, 0x73, 0x68, 0x89, 0x70, 0x80, 0, 0, 0, 0, 0, 0, 1,
];

/// What a superblock says of its filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Logarithm of the block length in bytes.
    pub block_bits: u8,
    /// The root directory's inode.
    pub root: Nid,
    /// How many inodes the filesystem has.
    pub inode_count: u64,
    /// How many blocks the filesystem spans.
    pub block_count: u32,
    /// Seconds since 1970 that compact inodes take as their time.
    pub build_time: i64,
    /// Nanoseconds to go with `build_time`.
    pub build_time_nsec: u32,
    /// The block from which inodes are counted.
    pub(super) meta_block: u32,
    /// The block from which shared xattrs are counted.
    pub(super) xattr_block: u32,
    /// The filesystem's UUID.
    pub uuid: [u8; 16],
}

impl Superblock {
    /// The superblock of a filesystem that we write.
    pub(crate) fn of_ours(root: Nid, inode_count: u64, block_count: u32) -> Self {
        Self {
            block_bits: 12,
            root,
            inode_count,
            block_count,
            build_time: 0,
            build_time_nsec: 0,
            meta_block: 0,
            xattr_block: 0,
            uuid: UUID,
        }
    }

    /// Length of a block in bytes.
    pub fn block_len(&self) -> u64 {
        1 << self.block_bits
    }

    /// The bytes of one of our superblocks, its checksum still zero: see [`checksum`].
    pub(crate) fn encode(&self) -> Vec<u8> {
        // The root of our filesystems is a constant that fits in the field's 16 bits.
        let root = u16::try_from(self.root.0).unwrap_or(u16::MAX);
        let mut out = Vec::with_capacity(SUPERBLOCK_LEN);
        out.extend(MAGIC.to_le_bytes());
        out.extend(0u32.to_le_bytes()); // checksum
        out.extend((COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        out.push(self.block_bits);
        out.push(0); // extension slots
        out.extend(root.to_le_bytes());
        out.extend(self.inode_count.to_le_bytes());
        out.extend(self.build_time.to_le_bytes());
        out.extend(self.build_time_nsec.to_le_bytes());
        out.extend(self.block_count.to_le_bytes());
        out.extend(self.meta_block.to_le_bytes());
        out.extend(self.xattr_block.to_le_bytes());
        out.extend(self.uuid);
        // Volume name, incompatible features and all that belongs to them: none.
        out.resize(SUPERBLOCK_LEN, 0);
        out
    }

    /// Reads a superblock from `bytes`, which start at [`SUPERBLOCK_OFFSET`] and go on for at least the rest of the
    /// block. The checksum is checked where the filesystem has one.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, ErofsError> {
        if !bytes.starts_with(&MAGIC.to_le_bytes()) {
            return Err(corrupt("it has not the magic of EROFS"));
        }
        let decoded = fields(bytes).ok_or_else(|| corrupt("it is cut short"))?;
        let (superblock, expected, features, dir_block_bits) = decoded;
        if !BLOCK_BITS.contains(&superblock.block_bits) {
            return Err(ErofsError::Unsupported {
                what: "a block length outside 512 bytes to 64 KiB",
            });
        }
        if features & !INCOMPAT_KNOWN != 0 {
            return Err(ErofsError::Unsupported {
                what: "an incompatible feature of a later EROFS",
            });
        }
        if dir_block_bits != 0 {
            return Err(ErofsError::Unsupported {
                what: "directory blocks of another length than data blocks",
            });
        }
        if let Some(expected) = expected {
            let block_len = usize::try_from(superblock.block_len()).unwrap_or(usize::MAX);
            let skipped = usize::try_from(SUPERBLOCK_OFFSET).unwrap_or(usize::MAX);
            let covered = if block_len > skipped {
                block_len - skipped
            } else {
                block_len
            };
            let covered = bytes
                .get(..covered)
                .ok_or_else(|| corrupt("its block is cut short"))?;
            if checksum(covered) != expected {
                return Err(corrupt("its checksum does not match"));
            }
        }
        Ok(superblock)
    }
}

fn corrupt(why: &'static str) -> ErofsError {
    ErofsError::Corrupt {
        what: "superblock",
        why,
    }
}

/// The fields, the checksum if the filesystem has one, incompatible features and directory block bits.
type Decoded = (Superblock, Option<u32>, u32, u8);

fn fields(bytes: &[u8]) -> Option<Decoded> {
    let mut record = Fields(bytes);
    let _magic = record.u32()?;
    let expected = record.u32()?;
    let compat = record.u32()?;
    let block_bits = record.u8()?;
    let _extension_slots = record.u8()?;
    let root = Nid(u64::from(record.u16()?));
    let inode_count = record.u64()?;
    let build_time = record.u64()?.cast_signed();
    let build_time_nsec = record.u32()?;
    let block_count = record.u32()?;
    let meta_block = record.u32()?;
    let xattr_block = record.u32()?;
    let uuid = record.array()?;
    let _volume_name = record.bytes(16)?;
    let features = record.u32()?;
    let _compression = record.bytes(6)?;
    let dir_block_bits = record.u8()?;
    let superblock = Superblock {
        block_bits,
        root,
        inode_count,
        block_count,
        build_time,
        build_time_nsec,
        meta_block,
        xattr_block,
        uuid,
    };
    let expected = (compat & COMPAT_CHECKSUM != 0).then_some(expected);
    Some((superblock, expected, features, dir_block_bits))
}

/// The checksum of a superblock and the rest of its block, the checksum field itself taken as zero. It is the
/// kernel's `crc32c(~0, …)`, which leaves out the final inversion of the usual CRC-32C.
pub(crate) fn checksum(covered: &[u8]) -> u32 {
    let (before, rest) = covered.split_at(CHECKSUM_OFFSET.min(covered.len()));
    let after = rest.get(4..).unwrap_or_default();
    let crc = crc32c::crc32c(before);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    !crc32c::crc32c_append(crc, after)
}

const _: () =
    assert!(super::ROOT_NID.0 * super::SLOT_LEN == SUPERBLOCK_OFFSET + SUPERBLOCK_LEN as u64);
const _: () = assert!(BLOCK_LEN == 1 << 12);
