//! Links: bytes that leave one after the other.
//!
//! A link out of a host is shared by its connections in turn, a few TCP segments' worth at a time, as the kernel does;
//! within a connection one chunk follows the other. A link into a host, and one between zones, takes what comes in the
//! order in which it comes. A connection has no more than a window of bytes on its way: when the narrow link is the
//! receiver's, its sender is held back and goes on with others.

use std::collections::VecDeque;
use std::time::Duration;

use crate::rate::Rate;

/// A link that takes what comes in order.
#[derive(Clone, Debug)]
pub(crate) struct Inbound {
    rate: Rate,
    free_at: Duration,
}

impl Inbound {
    pub(crate) const fn new(rate: Rate) -> Self {
        Self {
            rate,
            free_at: Duration::ZERO,
        }
    }

    /// When `len` bytes that come now are through.
    pub(crate) fn pass(&mut self, now: Duration, len: u64) -> Duration {
        self.free_at = self.free_at.max(now) + self.rate.time_for(len);
        self.free_at
    }
}

/// What is being sent on one connection.
#[derive(Debug)]
struct Connection<K, P> {
    key: K,
    parcels: VecDeque<(P, u64)>,
    on_its_way_len: u64,
}

/// A piece that has just left.
#[derive(Debug)]
pub(crate) struct Piece<P> {
    pub(crate) parcel: P,
    pub(crate) len: u64,
    /// Whether it is the parcel's last.
    pub(crate) is_last: bool,
}

/// A link out of a host.
#[derive(Debug)]
pub(crate) struct Outbound<K, P> {
    rate: Rate,
    piece_len: u64,
    window_len: u64,
    /// The first that has room in its window has its turn next.
    connections: VecDeque<Connection<K, P>>,
    /// Whose piece is under way.
    sending: Option<Connection<K, P>>,
    /// Bytes that left, in all.
    pub(crate) sent_len: u64,
}

impl<K: PartialEq, P: Clone> Outbound<K, P> {
    pub(crate) const fn new(rate: Rate, piece_len: u64, window_len: u64) -> Self {
        Self {
            rate,
            piece_len,
            window_len,
            connections: VecDeque::new(),
            sending: None,
            sent_len: 0,
        }
    }

    /// Puts a parcel behind what its connection sends already.
    pub(crate) fn put(&mut self, key: K, parcel: P, len: u64) {
        match self.connection(&key) {
            Some(connection) => connection.parcels.push_back((parcel, len)),
            None => self.connections.push_back(Connection {
                key,
                parcels: VecDeque::from([(parcel, len)]),
                on_its_way_len: 0,
            }),
        }
    }

    fn connection(&mut self, key: &K) -> Option<&mut Connection<K, P>> {
        let waiting = self.connections.iter_mut();
        let mut all = waiting.chain(self.sending.as_mut());
        all.find(|connection| connection.key == *key)
    }

    /// Begins to send the next piece if the link is idle: gives how long it takes, after which [`Outbound::end`] is due.
    pub(crate) fn begin(&mut self) -> Option<Duration> {
        if self.sending.is_some() {
            return None;
        }
        let may = |connection: &Connection<K, P>| {
            connection.on_its_way_len < self.window_len && !connection.parcels.is_empty()
        };
        let place = self.connections.iter().position(may)?;
        let connection = self.connections.remove(place)?;
        let left = connection.parcels.front().map_or(0, |&(_, left)| left);
        self.sending = Some(connection);
        Some(self.rate.time_for(self.piece_len.min(left)))
    }

    /// The piece is sent, and the next connection has its turn.
    pub(crate) fn end(&mut self) -> Option<Piece<P>> {
        let mut connection = self.sending.take()?;
        let (parcel, left) = connection.parcels.front_mut()?;
        let len = self.piece_len.min(*left);
        *left -= len;
        let piece = Piece {
            parcel: parcel.clone(),
            len,
            is_last: *left == 0,
        };
        self.sent_len += len;
        connection.on_its_way_len += len;
        if piece.is_last {
            connection.parcels.pop_front();
        }
        self.connections.push_back(connection);
        Some(piece)
    }

    /// A piece is through at the other end: its connection has room again.
    pub(crate) fn through(&mut self, key: &K, len: u64) {
        let Some(connection) = self.connection(key) else {
            return;
        };
        connection.on_its_way_len = connection.on_its_way_len.saturating_sub(len);
        let is_idle = |connection: &Connection<K, P>| {
            connection.parcels.is_empty() && connection.on_its_way_len == 0
        };
        self.connections.retain(|connection| !is_idle(connection));
    }

    /// Drops what was to be sent, for the host is gone.
    pub(crate) fn clear(&mut self) {
        self.connections.clear();
        self.sending = None;
    }

    /// Drops connections; the piece under way is sent.
    pub(crate) fn close(&mut self, is_closed: impl Fn(&K) -> bool) {
        self.connections.retain(|c| !is_closed(&c.key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate() -> Rate {
        "8mbit".parse().unwrap()
    }

    #[test]
    fn connections_take_turns_and_chunks_of_one_follow_each_other() {
        let mut link = Outbound::new(rate(), 1_000, 10_000);
        link.put("a", 1, 2_000);
        link.put("a", 2, 1_000);
        link.put("b", 3, 1_000);
        let mut order = Vec::new();
        while link.begin() == Some(Duration::from_millis(1)) {
            let piece = link.end().unwrap();
            order.push((piece.parcel, piece.is_last));
        }
        assert_eq!(order, [(1, false), (3, true), (1, true), (2, true)]);
        assert_eq!(link.sent_len, 4_000);
    }

    #[test]
    fn a_connection_whose_window_is_full_lets_others_go_first() {
        let mut link = Outbound::new(rate(), 1_000, 1_000);
        link.put("a", 1, 2_000);
        link.put("b", 2, 1_000);
        link.begin().unwrap();
        assert_eq!(link.end().unwrap().parcel, 1);
        link.begin().unwrap();
        assert_eq!(link.end().unwrap().parcel, 2);
        assert_eq!(link.begin(), None);
        link.through(&"a", 1_000);
        link.begin().unwrap();
        assert!(link.end().unwrap().is_last);
    }

    #[test]
    fn a_link_that_is_sending_does_not_begin_again() {
        let mut link = Outbound::new(rate(), 1_000, 10_000);
        link.put("a", 1, 500);
        assert_eq!(link.begin(), Some(Duration::from_micros(500)));
        assert_eq!(link.begin(), None);
    }

    #[test]
    fn what_comes_in_waits_for_what_came_before() {
        let mut link = Inbound::new(rate());
        let second = Duration::from_secs(1);
        assert_eq!(link.pass(second, 1_000_000), second * 2);
        assert_eq!(link.pass(second, 1_000_000), second * 3);
        assert_eq!(link.pass(second * 9, 1_000_000), second * 10);
    }
}
