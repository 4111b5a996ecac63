//! Round trips, corruption and look-ups of chunk tables.

use super::*;
use crate::error::{DecodeError, Fault};

fn table() -> (ChunkTable, Vec<Bytes>) {
    let chunks = vec![
        Bytes::from(vec![1; 700]),
        Bytes::from(vec![2; 1]),
        Bytes::from(vec![3; 5000]),
    ];
    let mut builder = ChunkTableBuilder::new(HashAlgorithm::Blake3);
    for chunk in &chunks {
        builder.update(chunk);
        builder.cut();
        builder.cut();
    }
    (builder.finish(), chunks)
}

#[test]
fn a_table_comes_back_as_it_was() {
    let (table, _) = table();
    let bytes = table.encode();
    let again = ChunkTable::decode(&bytes).unwrap();
    assert_eq!(again, table);
    assert_eq!(again.encode(), bytes);
    let empty = ChunkTableBuilder::new(HashAlgorithm::Sha256).finish();
    assert_eq!(ChunkTable::decode(&empty.encode()).unwrap(), empty);
}

#[test]
fn a_flipped_bit_is_refused_or_says_something_else() {
    let (table, _) = table();
    let bytes = table.encode();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match ChunkTable::decode(&flipped) {
            Ok(other) => assert_ne!(other, table, "bit {bit}"),
            Err(DecodeError { what, .. }) => assert_eq!(what, "chunk table"),
        }
    }
}

#[test]
fn a_table_of_another_length_is_refused() {
    let bytes = table().0.encode();
    for len in 0..bytes.len() {
        assert!(ChunkTable::decode(&bytes[..len]).is_err(), "{len}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(
        ChunkTable::decode(&longer).unwrap_err().why,
        Fault::Trailing { excess: 1 }
    );
}

#[test]
fn a_count_that_the_bytes_do_not_justify_allocates_nothing() {
    let mut bytes = ChunkTableBuilder::new(HashAlgorithm::Blake3)
        .finish()
        .encode();
    bytes[12..16].fill(0xff);
    assert!(matches!(
        ChunkTable::decode(&bytes).unwrap_err().why,
        Fault::Truncated { .. }
    ));
}

#[test]
fn chunks_cover_without_a_gap() {
    let (table, _) = table();
    assert_eq!((table.count(), table.covered_len()), (3, 5701));
    let ranges: Vec<_> = table.all().map(|index| table.range(index)).collect();
    assert_eq!(
        ranges,
        [
            ByteRange::new(0, 700),
            ByteRange::new(700, 701),
            ByteRange::new(701, 5701)
        ]
    );
    for (offset, number) in [(0, 0), (699, 0), (700, 1), (701, 2), (5700, 2)] {
        assert_eq!(
            table.at(offset).map(ChunkIndex::get),
            Some(number),
            "{offset}"
        );
    }
    assert_eq!(table.at(5701), None);
    assert_eq!(table.index(3), None);
}

#[test]
fn chunks_over_a_range_are_those_that_hold_a_byte_of_it() {
    let (table, _) = table();
    let over = |start, end| {
        table
            .over(ByteRange::new(start, end))
            .map(ChunkIndex::get)
            .collect::<Vec<_>>()
    };
    assert_eq!(over(0, 1), [0]);
    assert_eq!(over(699, 701), [0, 1]);
    assert_eq!(over(0, u64::MAX), [0, 1, 2]);
    assert_eq!(over(700, 700), [0; 0]);
    assert_eq!(over(5701, 9000), [0; 0]);
}

#[test]
fn only_the_right_bytes_become_verified() {
    let (table, chunks) = table();
    for (index, chunk) in table.all().zip(&chunks) {
        let verified = table.verify(index, chunk.clone()).unwrap();
        assert_eq!(
            (verified.bytes(), verified.hash()),
            (chunk, table.hash(index))
        );
        let mut wrong = chunk.to_vec();
        wrong[0] ^= 1;
        assert!(
            table
                .verify(index, wrong.into())
                .unwrap_err()
                .hash
                .is_some()
        );
        assert!(table.verify(index, Bytes::new()).is_err());
    }
}

#[test]
fn an_index_of_a_larger_table_is_refused() {
    let small = ChunkTable::uniform([0; 10].as_slice(), HashAlgorithm::Blake3, 10).unwrap();
    let foreign = table().0.index(2).unwrap();
    assert!(small.range(foreign).is_empty());
    assert!(small.verify(foreign, Bytes::new()).is_err());
}

#[test]
fn an_uncut_blob_gets_chunks_of_one_length() {
    let blob = vec![9; 2500];
    let table = ChunkTable::uniform(blob.as_slice(), HashAlgorithm::Sha256, 1000).unwrap();
    assert_eq!(
        table
            .all()
            .map(|index| table.range(index).len())
            .collect::<Vec<_>>(),
        [1000, 1000, 500]
    );
    assert_eq!(
        ChunkTable::uniform([].as_slice(), HashAlgorithm::Sha256, 1000)
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_chunk_never_outgrows_the_limit() {
    let blob = vec![0; MAX_CHUNK_LEN as usize + 10];
    let mut builder = ChunkTableBuilder::new(HashAlgorithm::Blake3);
    builder.update(&blob);
    assert_eq!((builder.open_len(), builder.count()), (10, 2));
    let table = builder.finish();
    assert_eq!(ChunkTable::decode(&table.encode()).unwrap(), table);
}
