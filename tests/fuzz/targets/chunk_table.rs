//! The chunk table: what is read is written as the same bytes, and its look-ups agree.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tranship_format::{ByteRange, ChunkTable};

fuzz_target!(|data: &[u8]| {
    let Ok(table) = ChunkTable::decode(data) else {
        return;
    };
    assert_eq!(table.encode(), data);
    let mut end = 0;
    for index in table.all() {
        let range = table.range(index);
        assert_eq!(range.start, end);
        end = range.end;
        assert_eq!(table.at(range.start), Some(index));
        assert_eq!(table.at(range.end - 1), Some(index));
    }
    assert_eq!(end, table.covered_len());
    assert_eq!(
        table.over(ByteRange::new(0, u64::MAX)).count(),
        table.all().count()
    );
});
