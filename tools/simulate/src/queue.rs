//! What will happen, earliest first; of two things at one moment the one planned first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// The queue. The heap holds small keys only, and events stay where they were put: a heap moves what it holds.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    heap: BinaryHeap<Reverse<(Duration, u64, u32)>>,
    events: Vec<Option<T>>,
    free: Vec<u32>,
    planned_count: u64,
}

impl<T> Queue<T> {
    pub(crate) const fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            planned_count: 0,
        }
    }

    pub(crate) fn plan(&mut self, at: Duration, event: T) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            u32::try_from(self.events.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(slot) = self.events.get_mut(place as usize) {
            *slot = Some(event);
        }
        self.planned_count += 1;
        self.heap.push(Reverse((at, self.planned_count, place)));
    }

    pub(crate) fn next(&mut self) -> Option<(Duration, T)> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        let event = self.events.get_mut(place as usize)?.take()?;
        self.free.push(place);
        Some((at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_planned_for_one_moment_happens_in_the_order_it_was_planned() {
        let mut queue = Queue::new();
        let second = Duration::from_secs(1);
        queue.plan(second * 2, "last");
        queue.plan(second, "first");
        queue.plan(second, "second");
        assert_eq!(queue.next(), Some((second, "first")));
        queue.plan(second, "third");
        assert_eq!(queue.next(), Some((second, "second")));
        assert_eq!(queue.next(), Some((second, "third")));
        assert_eq!(queue.next(), Some((second * 2, "last")));
        assert_eq!(queue.next(), None);
    }
}
