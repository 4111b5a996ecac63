//! Builds the swarm that a scenario describes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{Class, Member, Role};
use tranship_swarm::node::NodeOptions;
use tranship_swarm::read_ahead::ReadAhead;

use super::{Event, Totals, World};
use crate::host::{Host, HostNo, ImageChunk, Reader, peer_of};
use crate::link::{Inbound, Outbound};
use crate::queue::Queue;
use crate::random::Random;
use crate::scenario::Scenario;

impl World {
    pub(crate) fn new(scenario: Scenario, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let chunk_count = scenario.chunk_count();
        let layer_count = scenario.image.layers.max(1);
        let layer_chunks = chunk_count / layer_count;
        let layers = (0..layer_count)
            .map(|layer| Digest::of(&layer.to_le_bytes()))
            .collect();
        let chunk_len = u32::try_from(scenario.image.chunk.as_u64()).unwrap_or(u32::MAX);
        let order = working_set(&scenario, &mut random);
        let turn = scenario.hosts.turn.as_u64();
        let window = scenario.hosts.window.as_u64();
        let zones = scenario.hosts.zones as usize;
        let between = scenario.between_zones.map_or_else(Vec::new, |terms| {
            vec![Inbound::new(terms.rate); zones * zones]
        });
        let mut world = Self {
            now: Duration::ZERO,
            hosts: Vec::new(),
            totals: Totals::default(),
            order,
            registry: Outbound::new(scenario.registry.rate, turn, window),
            queue: Queue::new(),
            random,
            layers,
            layer_chunks,
            chunk_lens: vec![chunk_len; layer_chunks as usize].into(),
            registry_is_lost: false,
            reads: BTreeSet::new(),
            tracker: None,
            tracker_began_at: Duration::ZERO,
            tracker_free_at: Duration::ZERO,
            tracker_wake_at: None,
            tracker_link: Inbound::new(scenario.tracker.rate),
            epoch: 0,
            between,
            liars: BTreeSet::new(),
            unready: 0,
            scenario,
        };
        world.add_hosts(chunk_count);
        world.plan_trouble();
        if !world.scenario.tracker.absent {
            world.start_tracker();
        }
        world
    }

    fn add_hosts(&mut self, chunk_count: u32) {
        let terms = self.scenario.hosts.clone();
        let slower = u64::from(self.scenario.trouble.slower);
        let slow = self.pick(self.scenario.trouble.slow);
        let pieces = (terms.turn.as_u64(), terms.window.as_u64());
        for number in 0..terms.count {
            let zone = u64::from(number) * u64::from(terms.zones) / u64::from(terms.count);
            let zone = u32::try_from(zone).unwrap_or(0);
            let by = if slow.contains(&number) { slower } else { 1 };
            let up = terms.up.slower(by);
            let down = terms.down.unwrap_or(terms.up);
            let rack = match number.checked_div(terms.rack) {
                Some(rack) => format!("r{rack}"),
                None => String::new(),
            };
            if let Some(options) = self.options(number, zone, rack, Role::Agent) {
                let mut host = Host::new(options, zone, up, down, pieces, chunk_count);
                self.add_readers(number, &mut host);
                self.hosts.push(host);
                self.unready += 1;
            }
        }
        if self.scenario.tracker.seed
            && let Some(options) = self.options(terms.count, 0, String::new(), Role::Seed)
        {
            let rate = self.scenario.tracker.rate;
            let host = Host::new(options, 0, rate, rate, pieces, chunk_count);
            self.hosts.push(host);
            self.queue.plan(Duration::ZERO, Event::Open(terms.count));
        }
    }

    fn add_readers(&mut self, number: HostNo, host: &mut Host) {
        let containers = self.scenario.containers.clone();
        let hosts = self.scenario.hosts.count;
        let count = containers.count.map_or(containers.per_host, |all| {
            all / hosts + u32::from(number < all % hosts)
        });
        for container in 0..count {
            let at = self.random.part(containers.start_within);
            if containers.file > 0 {
                host.files.push(0);
                let reader = |_| Reader::of_files(&self.order, container, at);
                host.readers.extend((0..containers.window).map(reader));
                continue;
            }
            let reader = Reader::new(Class::Demand, &self.order, containers.window, at);
            host.readers.push(reader);
        }
        // The agent reads ahead from the first of them on.
        let starts = host.readers.iter().map(|reader| reader.starts_at);
        let first = starts.min().unwrap_or_default();
        if containers.file > 0 {
            host.ahead = ReadAhead::new(containers.prefetch);
        } else if containers.prefetch > 0 {
            let ahead = Reader::new(Class::Prefetch, &self.order, containers.prefetch, first);
            host.readers.push(ahead);
        }
        self.queue.plan(first, Event::Open(number));
        for (place, reader) in (0..).zip(&host.readers) {
            self.queue
                .plan(reader.starts_at, Event::Read(number, place));
        }
    }

    /// The options of a host's decisions.
    pub(super) fn options(
        &mut self,
        host: HostNo,
        zone: u32,
        rack: String,
        role: Role,
    ) -> Option<NodeOptions> {
        let member = Member {
            peer: peer_of(host)?,
            addresses: Vec::new(),
            zone: format!("z{zone}"),
            rack,
            role,
        };
        let mut options = NodeOptions::new(member, self.random.next());
        self.scenario.policy.of_node(&mut options);
        Some(options)
    }

    /// Picks a part of the hosts.
    pub(super) fn pick(&mut self, part: f64) -> BTreeSet<HostNo> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part from 0 to 1 of a number of hosts is one"
        )]
        let count = (part * f64::from(self.scenario.hosts.count)).round() as usize;
        let mut all: Vec<HostNo> = (0..self.scenario.hosts.count).collect();
        self.random.shuffle(&mut all);
        all.into_iter().take(count).collect()
    }
}

/// Which chunks a start reads, in order: runs of neighbours from all over the image.
fn working_set(scenario: &Scenario, random: &mut Random) -> Arc<[ImageChunk]> {
    let (all, run) = (scenario.chunk_count(), scenario.image.run);
    let mut runs: Vec<u32> = (0..all.div_ceil(run)).collect();
    random.shuffle(&mut runs);
    let chunks = runs
        .into_iter()
        .flat_map(|first| first * run..((first + 1) * run).min(all));
    chunks.take(scenario.working_set_count() as usize).collect()
}
