//! What happens, one event after the other: joins, heartbeats, reads, ends.

use std::time::Duration;

use tranship_format::wire::TrackerRequest;
use tranship_swarm::node::Input;
use tranship_swarm::tracker::{self, Tracker};

use super::{End, Event, HEARTBEAT, World};

impl World {
    /// Lives on until every living honest node has what it wants, or `limit` is over.
    pub(crate) fn run(&mut self, limit: Duration) {
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at > limit || self.is_over() {
                return;
            }
            self.now = at;
            self.steps += 1;
            assert!(self.steps < self.max_steps, "the swarm talks without end");
            if self.tells {
                println!("{at:?} {event:?}");
            }
            self.happen(event);
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.hosts.iter().all(|host| {
            let is_done = host.script.is_empty() && host.open.is_empty() && host.failed.is_empty();
            !host.alive || is_done
        })
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToNode(host, input) => self.tell(host, input),
            Event::ToTracker(from, request, message) => self.tracker_hears(from, request, message),
            Event::FromTracker(to, epoch, request, reply) => {
                self.node_hears_tracker(to, epoch, request, reply);
            }
            Event::Join(host) => self.join(host),
            Event::Gone(host) => {
                let peer = self.hosts[host].member.peer;
                self.tell_tracker(tracker::Input::Gone { peer });
            }
            Event::Heartbeat(host) => self.heartbeat(host),
            Event::WakeNode(host) => {
                self.hosts[host].wake_at = None;
                self.act(host);
            }
            Event::WakeTracker => {
                self.tracker_wake_at = None;
                self.tracker_acts();
            }
            Event::Read(host) => self.read_on(host),
            Event::End(host, end) => self.end(host, end),
            Event::EndLeaseHolder => {
                let views: Vec<_> = self.tracker.iter().flat_map(Tracker::stripes).collect();
                let holder = views.iter().find_map(|view| view.lease_holder);
                if let Some(&host) = holder.and_then(|peer| self.by_peer.get(&peer)) {
                    self.end(host, End::Crash);
                }
            }
            Event::TrackerDown => {
                self.tracker = None;
                for host in 0..self.hosts.len() {
                    self.hosts[host].joined = false;
                    self.tell(host, Input::TrackerDown);
                }
            }
            Event::Ban(host) => self.ban(host),
            Event::RegistryBack => self.registry_back(),
            Event::TrackerBack => {
                self.start_tracker();
                for host in 0..self.hosts.len() {
                    let at = self.now + self.random.micros(0, 50_000);
                    self.at(at, Event::Join(host));
                }
            }
        }
    }

    fn join(&mut self, host: usize) {
        let member = self.hosts[host].member.clone();
        let Some(tracker) = &self.tracker else { return };
        if !self.hosts[host].alive {
            return;
        }
        if tracker.is_banned(&member.peer) {
            return self.join_banned(host);
        }
        assert!(
            !self.banned.contains_key(&member.peer),
            "a tracker that starts anew forgets a ban"
        );
        let epoch = tracker.epoch();
        self.tell_tracker(tracker::Input::Joined {
            member,
            boot_id: [0; 16],
        });
        self.hosts[host].joined = true;
        self.hosts[host].joined_at = self.now;
        self.hosts[host].asked_tracker.clear();
        self.tell(host, Input::TrackerUp { epoch, seed: None });
        self.at(self.now + HEARTBEAT, Event::Heartbeat(host));
    }

    fn heartbeat(&mut self, host: usize) {
        if self.hosts[host].alive && self.hosts[host].joined {
            let node = &mut self.hosts[host].node;
            let (load_permille, goodputs) = (node.load_permille(), node.take_goodputs());
            let epoch = self.epoch;
            self.ask_tracker(
                host,
                TrackerRequest::Heartbeat {
                    load_permille,
                    epoch,
                    goodputs,
                },
            );
            self.at(self.now + HEARTBEAT, Event::Heartbeat(host));
        }
    }

    /// The reader of a node asks for the next chunks of its script.
    fn read_on(&mut self, host: usize) {
        loop {
            let this = &mut self.hosts[host];
            if !this.alive || this.open.len() >= self.terms.readahead || this.script.is_empty() {
                return;
            }
            let (chunk, class) = this.script.remove(0);
            if this.has.contains(&chunk) || this.done.contains(&chunk) {
                this.done.insert(chunk);
                continue;
            }
            this.open.insert(chunk);
            this.asked_at.insert(chunk, self.now);
            self.tell(
                host,
                Input::Wanted {
                    chunk,
                    class,
                    give_up_at: None,
                },
            );
        }
    }

    fn end(&mut self, host: usize, end: End) {
        if !std::mem::replace(&mut self.hosts[host].alive, false) {
            return;
        }
        self.hosts[host].ended = Some(end);
        let peer = self.hosts[host].member.peer;
        let noticed = match end {
            End::Crash => Duration::from_millis(1),
            End::Vanish => Duration::from_secs(3),
        };
        for other in self.hosts[host].connected.clone() {
            self.at(
                self.now + noticed,
                Event::ToNode(other, Input::PeerGone { peer }),
            );
        }
        if end == End::Crash {
            self.at(self.now + noticed * 50, Event::Gone(host));
        }
    }
}
