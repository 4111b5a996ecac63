//! Decompressed blocks that were read in part, kept because their rest is likely to be read next.

use bytes::Bytes;
use lru::LruCache;

/// Which block: the layer's number in the stack, the block's in the layer.
pub(super) type BlockKey = (u8, u64);

/// The blocks used last, up to a number of bytes.
#[derive(Debug)]
pub(super) struct BlockCache {
    blocks: LruCache<BlockKey, Bytes>,
    len: u64,
    max_len: u64,
}

impl BlockCache {
    pub(super) fn new(max_len: u64) -> Self {
        Self {
            blocks: LruCache::unbounded(),
            len: 0,
            max_len,
        }
    }

    /// Drops all of them.
    pub(super) fn clear(&mut self) {
        self.blocks = LruCache::unbounded();
        self.len = 0;
    }

    /// The block, if it is here; it is then the one used last.
    pub(super) fn get(&mut self, key: BlockKey) -> Option<Bytes> {
        self.blocks.get(&key).cloned()
    }

    /// Keeps a block, and drops those unused for longest until all fit.
    pub(super) fn put(&mut self, key: BlockKey, block: Bytes) {
        self.len = self.len.saturating_add(block.len() as u64);
        if let Some(before) = self.blocks.put(key, block) {
            self.len = self.len.saturating_sub(before.len() as u64);
        }
        while self.len > self.max_len
            && let Some((_, oldest)) = self.blocks.pop_lru()
        {
            self.len = self.len.saturating_sub(oldest.len() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(len: usize) -> Bytes {
        vec![0; len].into()
    }

    #[test]
    fn blocks_unused_for_longest_go_first() {
        let mut cache = BlockCache::new(300);
        for number in 0..3 {
            cache.put((0, number), block(100));
        }
        cache.get((0, 0)).unwrap();
        cache.put((1, 0), block(100));
        let here: Vec<bool> = [(0, 0), (0, 1), (0, 2), (1, 0)]
            .into_iter()
            .map(|key| cache.get(key).is_some())
            .collect();
        assert_eq!(here, [true, false, true, true]);
        assert_eq!(cache.len, 300);
    }

    #[test]
    fn a_block_put_twice_counts_once_and_one_too_large_is_not_kept() {
        let mut cache = BlockCache::new(300);
        cache.put((0, 0), block(200));
        cache.put((0, 0), block(200));
        assert_eq!(cache.len, 200);
        cache.put((0, 1), block(301));
        assert_eq!((cache.len, cache.get((0, 1))), (0, None));
        let mut none = BlockCache::new(0);
        none.put((0, 0), block(1));
        assert!(none.get((0, 0)).is_none());
    }
}
