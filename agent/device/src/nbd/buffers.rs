//! Memory for replies, with a bound for the whole server: a client that asks for more than there is waits.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::crew::locked;

/// Longest part of a read that is answered at once where the protocol lets a reply come in parts, in bytes. It is also the
/// unit in which memory is counted. 1 MiB is what the kernel and qemu read at most.
pub(super) const PART_LEN: usize = 1 << 20;
/// Room before the data for the longest header, in bytes: 28, and the data aligned for whoever fills it.
pub(super) const HEAD_LEN: usize = 32;

/// Buffers for all connections of a server.
#[derive(Debug)]
pub(super) struct Buffers {
    total_count: usize,
    state: Mutex<State>,
    returned: Condvar,
}

/// In units of [`PART_LEN`].
#[derive(Debug, Default)]
struct State {
    lent_count: usize,
    /// Buffers of one unit that nobody uses; the last one is the warmest.
    spare: Vec<Vec<u8>>,
}

/// A buffer that goes back when dropped: [`HEAD_LEN`] bytes, then the data.
#[derive(Debug)]
pub(super) struct Lent<'a> {
    buffers: &'a Buffers,
    bytes: Vec<u8>,
    unit_count: usize,
}

impl Buffers {
    /// At most `len` bytes in use at one time, and room for a read of `longest` bytes at least.
    pub(super) fn new(len: u64, longest: usize) -> Self {
        let wanted = usize::try_from(len / PART_LEN as u64).unwrap_or(usize::MAX);
        Self {
            total_count: wanted.max(longest.div_ceil(PART_LEN)),
            state: Mutex::default(),
            returned: Condvar::new(),
        }
    }

    /// A buffer for `len` bytes of data, which must not be above the `longest` of [`Buffers::new`]; waits for others to
    /// give theirs back. Its content is arbitrary.
    pub(super) fn take(&self, len: usize) -> Lent<'_> {
        let unit_count = len.div_ceil(PART_LEN).clamp(1, self.total_count);
        let state = locked(&self.state);
        let mut state = self
            .returned
            .wait_while(state, |state| {
                state.lent_count.saturating_add(unit_count) > self.total_count
            })
            .unwrap_or_else(PoisonError::into_inner);
        state.lent_count += unit_count;
        let spare = if unit_count == 1 {
            state.spare.pop()
        } else {
            None
        };
        let room = self.total_count.saturating_sub(state.lent_count);
        state.spare.truncate(room);
        drop(state);
        let bytes = spare.unwrap_or_else(|| {
            // Whole units, so that each buffer fits whoever takes it next.
            vec![0; HEAD_LEN + unit_count.saturating_mul(PART_LEN)]
        });
        Lent {
            buffers: self,
            bytes,
            unit_count,
        }
    }
}

impl Lent<'_> {
    /// The data: at most as many bytes as were asked for.
    pub(super) fn data(&mut self, len: usize) -> &mut [u8] {
        self.bytes
            .get_mut(HEAD_LEN..HEAD_LEN.saturating_add(len))
            .unwrap_or_default()
    }

    /// Puts `header`, at most [`HEAD_LEN`] bytes, before the data, and gives both.
    pub(super) fn with_header(&mut self, header: &[u8], len: usize) -> &[u8] {
        let start = HEAD_LEN.saturating_sub(header.len());
        if let Some(head) = self.bytes.get_mut(start..HEAD_LEN) {
            head.copy_from_slice(header);
        }
        self.bytes
            .get(start..HEAD_LEN.saturating_add(len))
            .unwrap_or_default()
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut state = locked(&self.buffers.state);
        state.lent_count = state.lent_count.saturating_sub(self.unit_count);
        if self.unit_count == 1 && state.lent_count + state.spare.len() < self.buffers.total_count {
            state.spare.push(std::mem::take(&mut self.bytes));
        }
        self.buffers.returned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_holds_header_and_data() {
        let buffers = Buffers::new(0, 2 * PART_LEN);
        let mut buffer = buffers.take(3);
        buffer.data(3).copy_from_slice(b"abc");
        assert_eq!(buffer.with_header(b"head", 3), b"headabc");
        let place = buffer.bytes.as_ptr();
        drop(buffer);
        assert_eq!(buffers.take(PART_LEN).bytes.as_ptr(), place);
    }

    #[test]
    fn a_large_buffer_takes_the_place_of_spare_ones() {
        let buffers = Buffers::new(0, 3 * PART_LEN);
        drop((buffers.take(1), buffers.take(1), buffers.take(1)));
        assert_eq!(locked(&buffers.state).spare.len(), 3);
        let mut large = buffers.take(2 * PART_LEN + 1);
        assert_eq!(large.data(2 * PART_LEN + 1).len(), 2 * PART_LEN + 1);
        assert_eq!(locked(&buffers.state).spare.len(), 0);
        drop(large);
        assert_eq!(locked(&buffers.state).lent_count, 0);
    }

    #[test]
    fn no_more_than_the_bound_is_lent_at_one_time() {
        let buffers = Buffers::new(4 * PART_LEN as u64, PART_LEN);
        let (lent, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let buffer = buffers.take(PART_LEN);
                        most.fetch_max(lent.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        lent.fetch_sub(1, Ordering::SeqCst);
                        drop(buffer);
                    }
                });
            }
        });
        assert!((1..=4).contains(&most.load(Ordering::SeqCst)));
    }
}
