//! The leases that are out, and which of them the registry is being read under at this moment.
//!
//! A lease that rests costs the registry nothing, and one whose holder has fallen silent nothing that anybody
//! knows of: only the others count against the bound on reads at once.

use std::collections::{BTreeMap, BTreeSet};

use crate::StripeId;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Leases {
    stripes: BTreeMap<u64, StripeId>,
    reading: BTreeSet<u64>,
    last: u64,
}

impl Leases {
    /// A new lease for a stripe, under which it is being read; gives its number.
    pub(super) fn give(&mut self, id: StripeId) -> u64 {
        self.last += 1;
        self.stripes.insert(self.last, id);
        self.reading.insert(self.last);
        self.last
    }

    /// The stripe that a lease is for, while it is out.
    pub(super) fn stripe(&self, lease: u64) -> Option<StripeId> {
        self.stripes.get(&lease).copied()
    }

    /// Nothing is read under a lease for now.
    pub(super) fn rests(&mut self, lease: u64) {
        self.reading.remove(&lease);
    }

    /// It is read under a lease, if that is out.
    pub(super) fn reads(&mut self, lease: u64) {
        if self.stripes.contains_key(&lease) {
            self.reading.insert(lease);
        }
    }

    /// A lease is over.
    pub(super) fn end(&mut self, lease: u64) {
        self.stripes.remove(&lease);
        self.reading.remove(&lease);
    }

    /// Leases that are out.
    pub(super) fn count(&self) -> usize {
        self.stripes.len()
    }

    /// Those under which the registry is being read.
    pub(super) fn reading_count(&self) -> usize {
        self.reading.len()
    }

    /// The same without this one.
    pub(super) fn reading_besides(&self, lease: Option<u64>) -> usize {
        let is_among = lease.is_some_and(|lease| self.reading.contains(&lease));
        self.reading.len() - usize::from(is_among)
    }
}
