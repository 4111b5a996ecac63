//! What goes wrong: hosts that die, lie or restart, a tracker or a registry that is lost.

use std::time::Duration;

use tranship_format::wire::Role;
use tranship_swarm::node::Node;

use super::{Event, World};
use crate::host::HostNo;

/// The tracker gives a connection that broke so long to come back.
const BACK_WITHIN: Duration = Duration::from_secs(1);

impl World {
    pub(super) fn plan_trouble(&mut self) {
        let trouble = self.scenario.trouble.clone();
        for host in self.pick(trouble.dying) {
            let at = self.random.part(trouble.die_within);
            self.plan(at, Event::Dies(host));
        }
        let mut liars: Vec<HostNo> = (0..self.scenario.hosts.count).collect();
        self.random.shuffle(&mut liars);
        self.liars = liars.into_iter().take(trouble.liars as usize).collect();
        if let Some(every) = trouble.restart_every {
            for host in 0..self.scenario.hosts.count {
                self.plan(every * (host + 1), Event::Restarts(host));
            }
        }
        let (tracker, registry) = (&self.scenario.tracker, &self.scenario.registry);
        let losses = [
            (tracker.lost_at, Event::TrackerLost),
            (tracker.back_at, Event::TrackerBack),
            (registry.lost_at, Event::RegistryLost),
        ];
        for (at, event) in losses {
            if let Some(at) = at {
                self.plan(at, event);
            }
        }
    }

    pub(super) fn dies(&mut self, host: HostNo) {
        let noticed_at = self.now + self.scenario.trouble.noticed_after;
        let Some(this) = self.host(host).filter(|this| this.is_alive) else {
            return;
        };
        this.is_alive = false;
        this.up.clear();
        if !this.is_ready() {
            self.unready = self.unready.saturating_sub(1);
        }
        self.drop_reads(host);
        self.cut_off(host, noticed_at);
        self.plan(noticed_at + BACK_WITHIN, Event::Gone(host));
    }

    /// The agent of a host restarts. What it holds stays, its connections do not, and its readers ask again.
    pub(super) fn restarts(&mut self, host: HostNo) {
        let now = self.now;
        let Some((zone, rack)) = self
            .host(host)
            .filter(|this| this.is_alive)
            .map(|this| (this.zone, this.member.rack.clone()))
        else {
            return;
        };
        let Some(options) = self.options(host, zone, rack, Role::Agent) else {
            return;
        };
        self.drop_reads(host);
        self.cut_off(host, now);
        let mut again = Vec::new();
        let mut counters = None;
        if let Some(this) = self.host(host) {
            counters = Some(*this.node.counters());
            this.node = Node::new(options);
            this.boot += 1;
            this.wake_at = None;
            this.has_joined = false;
            this.up.clear();
            this.asked.clear();
            for (chunk, readers) in std::mem::take(&mut this.waiting) {
                again.extend(readers.into_iter().map(|reader| (reader, chunk)));
            }
        }
        self.totals.counters.extend(counters);
        self.join(host);
        if self.host(host).is_some_and(|this| this.has_begun) {
            self.open(host);
            for (reader, chunk) in again {
                self.wait_for(host, reader, chunk);
            }
            self.act(host);
        }
    }
}
