//! Little-endian fields of a byte slice, read and written without a panic.
//!
//! Everything the format stores is little-endian and of a fixed width; an access outside the slice is `None`, never an
//! index out of bounds.

/// The `N` bytes at `at`, if they are all there.
pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The byte at `at`.
pub(crate) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// The 16-bit field at `at`.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

/// The 32-bit field at `at`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

/// The 64-bit field at `at`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

/// Overwrites the bytes at `at` with `value`; bytes that do not fit are left out.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    let target = bytes.iter_mut().skip(at);
    for (to, from) in target.zip(value) {
        *to = *from;
    }
}
