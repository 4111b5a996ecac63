//! What the C library's allocator does with memory that was freed: it keeps it, in case that more is needed.

#![expect(
    unsafe_code,
    reason = "the allocator is spoken to by functions of C, which no safe interface offers"
)]

/// Buffers of this many bytes and more are a mapping of their own after [`give_large_buffers_back`].
#[cfg(target_env = "gnu")]
const LARGE_LEN: libc::c_int = 32 << 10;

/// Gives what was freed back to the system.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time from any thread, and changes no memory that anybody has.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// From now on each large buffer goes back to the system when it is freed. By itself the allocator learns from the first one that is freed to
/// take the next from its heap, which after a burst of answers to a thousand callers keeps what all of them took, in pieces.
pub fn give_large_buffers_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time, and changes where later memory comes from and nothing that anybody has. What it returns
    // is not looked at: where it refuses, more memory is kept, and nothing else is different.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_LEN);
    }
}
