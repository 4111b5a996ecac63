//! Numbers that decisions hang on, as a scenario may set them: each is what `NodeOptions` and `TrackerOptions` of
//! `tranship_swarm` say of the field of that name. What is not set is as it is in a real swarm.

use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use tranship_swarm::node::NodeOptions;
use tranship_swarm::tracker::TrackerOptions;

/// See the module.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PolicyTerms {
    pub(crate) peer_credit: Option<ByteSize>,
    pub(crate) peer_bulk_credit: Option<ByteSize>,
    pub(crate) credit: Option<ByteSize>,
    pub(crate) registry_reads: Option<usize>,
    pub(crate) registry_demand_reads: Option<usize>,
    pub(crate) bulk_stripes: Option<usize>,
    #[serde(with = "humantime_serde")]
    pub(crate) demand_patience: Option<Duration>,
    #[serde(with = "humantime_serde")]
    pub(crate) waiting_patience: Option<Duration>,
    #[serde(with = "humantime_serde")]
    pub(crate) bulk_patience: Option<Duration>,
    #[serde(with = "humantime_serde")]
    pub(crate) lookup_patience: Option<Duration>,
    #[serde(with = "humantime_serde")]
    pub(crate) hedge_min: Option<Duration>,
    #[serde(with = "humantime_serde")]
    pub(crate) hedge_max: Option<Duration>,
    pub(crate) hedge_burst: Option<u32>,
    #[serde(with = "humantime_serde")]
    pub(crate) wait_repeat: Option<Duration>,
    pub(crate) upload_slots: Option<usize>,
    pub(crate) upload_queue: Option<usize>,
    pub(crate) waiters_per_chunk: Option<usize>,
    #[serde(with = "humantime_serde")]
    pub(crate) announce_every: Option<Duration>,
    #[serde(with = "humantime_serde")]
    pub(crate) lease: Option<Duration>,
    pub(crate) fan_out: Option<usize>,
    pub(crate) rack_fan_out: Option<usize>,
    pub(crate) seed_fan_out: Option<usize>,
    pub(crate) opened_members: Option<usize>,
}

fn set<T: Copy>(option: &mut T, term: Option<T>) {
    if let Some(term) = term {
        *option = term;
    }
}

impl PolicyTerms {
    pub(crate) fn of_node(&self, options: &mut NodeOptions) {
        let len = |size: ByteSize| size.as_u64();
        set(&mut options.peer_credit_len, self.peer_credit.map(len));
        set(
            &mut options.peer_bulk_credit_len,
            self.peer_bulk_credit.map(len),
        );
        set(&mut options.credit_len, self.credit.map(len));
        set(&mut options.registry_reads, self.registry_reads);
        set(
            &mut options.registry_demand_reads,
            self.registry_demand_reads,
        );
        set(&mut options.bulk_stripes, self.bulk_stripes);
        set(&mut options.demand_patience, self.demand_patience);
        set(&mut options.waiting_patience, self.waiting_patience);
        set(&mut options.bulk_patience, self.bulk_patience);
        set(&mut options.lookup_patience, self.lookup_patience);
        set(&mut options.hedge_min, self.hedge_min);
        set(&mut options.hedge_max, self.hedge_max);
        set(&mut options.hedge_burst, self.hedge_burst);
        set(&mut options.wait_repeat, self.wait_repeat);
        set(&mut options.upload_slots, self.upload_slots);
        set(&mut options.upload_slots_most, self.upload_slots);
        set(&mut options.upload_queue, self.upload_queue);
        set(&mut options.waiters_per_chunk, self.waiters_per_chunk);
        set(&mut options.announce_every, self.announce_every);
    }

    pub(crate) fn of_tracker(&self, options: &mut TrackerOptions) {
        set(&mut options.lease, self.lease);
        set(&mut options.fan_out, self.fan_out);
        set(&mut options.rack_fan_out, self.rack_fan_out);
        set(&mut options.seed_fan_out, self.seed_fan_out);
        set(&mut options.opened_members, self.opened_members);
    }
}
