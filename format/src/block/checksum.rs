//! overlaybd's "raw" CRC-32C: the Castagnoli polynomial with neither the first nor the last inversion.

/// The raw CRC of `bytes` from `seed` on.
pub(super) fn raw_crc32c(seed: u32, bytes: &[u8]) -> u32 {
    // The library inverts before and after; inverting once more on both sides undoes that.
    !crc32c::crc32c_append(!seed, bytes)
}

/// The seed for headers and the table.
pub(super) const HEADER_SEED: u32 = 0;

/// The seed for blocks, so that a stored block is not taken for a header.
pub(super) const BLOCK_SEED: u32 = 100_007;

#[cfg(test)]
mod tests {
    use super::*;

    /// One bit at a time, as the polynomial is defined.
    fn slowly(seed: u32, bytes: &[u8]) -> u32 {
        bytes.iter().fold(seed, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
            })
        })
    }

    #[test]
    fn it_is_the_polynomial_without_inversions() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        for seed in [HEADER_SEED, BLOCK_SEED, u32::MAX] {
            assert_eq!(raw_crc32c(seed, &bytes), slowly(seed, &bytes));
        }
        assert_eq!(raw_crc32c(HEADER_SEED, &[0; 512]), 0);
    }
}
