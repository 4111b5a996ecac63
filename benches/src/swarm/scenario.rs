//! What happens to a swarm while an image starts on all of its hosts, by name.
//!
//! A scenario is a value: who is there, how links are, and what is done when which share of all bytes has been read.
//! Hosts are numbered from 0; those that misbehave are the lowest, since nobody chooses its parents by number.

use anyhow::{Context, Result};
use std::time::Duration;

/// What the tracker's host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tracker {
    /// There is none, and the agents know of none.
    None,
    /// Without a seed.
    Alone,
    /// With its seed, as it comes.
    WithSeed,
}

/// Who has the image whole when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HasAll {
    /// Nobody but the registry.
    Nobody,
    /// Host 0, which has read everything.
    HostZero,
    /// The seed, by the operator's order.
    Seed,
}

/// Something that is done to the swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// `kill -9` of the tracker, its seed included.
    KillTracker,
    /// The tracker again, in its old folder.
    StartTracker,
    /// `kill -9` of the registry; it stays away.
    KillRegistry,
    /// `kill -9` of an agent; its host reads no more.
    KillAgent(usize),
    /// All agents one after the other: stopped in order and started again.
    RestartAgents,
    /// Nothing: reads are told apart by that moment, as where something is done.
    Nothing,
}

/// One scenario.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) tracker: Tracker,
    /// Trackers that share the swarm, if there is any; what is done to the tracker is done to the one that answers for the image.
    pub(super) trackers: usize,
    /// Hosts, if not as many as were asked for.
    pub(super) hosts: Option<usize>,
    /// Time between the starts of hosts.
    pub(super) stagger: Duration,
    /// All hosts attach before the first reads, and what is done at share 0 is done between.
    pub(super) attach_first: bool,
    /// Who has everything before the others begin.
    pub(super) has_all: HasAll,
    /// Half of the hosts are behind a link that is so many times thinner than all their links together.
    pub(super) thin: Option<u64>,
    /// What each way over that link takes longer.
    pub(super) delay: Duration,
    /// The lowest hosts upload so slowly: 1 of 50.
    pub(super) slow: usize,
    /// This many corrupt half of what they send.
    pub(super) corrupting: usize,
    /// What is done, and at which share of all bytes.
    pub(super) deeds: Vec<(f64, Deed)>,
    /// Members of the swarm, none or one, that have no login while the registry asks for one; they ask for everything.
    pub(super) strangers: usize,
    /// The same is done with a host that knows no tracker, and its time compared.
    pub(super) beside_direct: bool,
    /// The scenario in which nothing happens, which is run in turn with this one and compared with it.
    pub(super) base: Option<&'static str>,
}

/// How much slower a slow host uploads.
pub(super) const SLOWNESS: u64 = 50;
/// One way to a zone that is far away.
const FAR: Duration = Duration::from_millis(10);
/// Share of what a corrupting peer sends that it corrupts.
pub(super) const CORRUPT_SHARE: f64 = 0.5;

/// All scenarios, for a number of hosts.
pub(super) fn all(hosts: usize) -> Vec<Scenario> {
    let mut all = crowds();
    all.extend(losses());
    all.extend(bad_peers(hosts));
    all
}

/// One image on all hosts at once, by the defaults.
fn plain(name: &'static str, about: &'static str) -> Scenario {
    Scenario {
        name,
        about,
        tracker: Tracker::WithSeed,
        trackers: 1,
        hosts: None,
        stagger: Duration::ZERO,
        attach_first: false,
        has_all: HasAll::Nobody,
        thin: None,
        delay: Duration::ZERO,
        slow: 0,
        corrupting: 0,
        deeds: Vec::new(),
        strangers: 0,
        beside_direct: false,
        base: None,
    }
}

/// Nothing goes wrong.
fn crowds() -> Vec<Scenario> {
    vec![
        plain("flash-crowd", "all hosts start one image at once"),
        Scenario {
            tracker: Tracker::Alone,
            ..plain("no-seed", "the same without a seed")
        },
        Scenario {
            stagger: Duration::from_millis(300),
            ..plain("staggered", "a host starts every 300 ms")
        },
        Scenario {
            thin: Some(8),
            ..plain(
                "two-zones",
                "half of the hosts are behind a link an eighth as wide as theirs together",
            )
        },
        Scenario {
            thin: Some(8),
            delay: FAR,
            ..plain(
                "far-zones",
                "the same, and the thin link takes 20 ms there and back",
            )
        },
        Scenario {
            tracker: Tracker::Alone,
            hosts: Some(1),
            beside_direct: true,
            ..plain(
                "alone",
                "one host without peers or seed, beside one that knows no tracker",
            )
        },
        Scenario {
            tracker: Tracker::None,
            ..plain("direct", "no P2P: all hosts read the registry")
        },
    ]
}

/// Parts go away, or come again.
fn losses() -> Vec<Scenario> {
    vec![
        Scenario {
            attach_first: true,
            has_all: HasAll::Seed,
            deeds: vec![(0.0, Deed::KillRegistry)],
            ..plain(
                "seed-only",
                "the seed alone has the image, by the operator's order: the registry is gone",
            )
        },
        Scenario {
            attach_first: true,
            deeds: vec![(0.0, Deed::KillTracker)],
            ..plain(
                "no-tracker",
                "the tracker is killed when all have attached and none has read",
            )
        },
        Scenario {
            deeds: vec![(0.3, Deed::KillTracker), (0.6, Deed::StartTracker)],
            base: Some("tracker-stays"),
            ..plain(
                "tracker-restart",
                "the tracker is killed at 30 % of all bytes and comes back at 60 %",
            )
        },
        Scenario {
            trackers: 2,
            deeds: vec![(0.3, Deed::KillTracker)],
            base: Some("tracker-stays"),
            ..plain(
                "two-trackers",
                "of two trackers the one that answers for the image is killed at 30 % of all bytes",
            )
        },
        Scenario {
            attach_first: true,
            has_all: HasAll::HostZero,
            deeds: vec![(0.1, Deed::KillRegistry)],
            base: Some("registry-stays"),
            ..plain(
                "registry-killed",
                "host 0 has everything; the registry is killed when the others have read a tenth",
            )
        },
        Scenario {
            deeds: vec![(0.3, Deed::Nothing), (0.6, Deed::Nothing)],
            ..plain(
                "tracker-stays",
                "what tracker-restart and two-trackers are compared with: nothing happens at 30 %",
            )
        },
        Scenario {
            attach_first: true,
            has_all: HasAll::HostZero,
            deeds: vec![(0.1, Deed::Nothing)],
            ..plain(
                "registry-stays",
                "what registry-killed is compared with: nothing happens at a tenth",
            )
        },
        Scenario {
            deeds: vec![(0.1, Deed::RestartAgents)],
            ..plain(
                "rolling-restart",
                "all agents are restarted one after the other, from 10 % of all bytes on",
            )
        },
    ]
}

/// Some hosts are no good. Of few hosts a few percent are none: it is one at least.
fn bad_peers(hosts: usize) -> Vec<Scenario> {
    let slow = (hosts * 3).div_ceil(100);
    let dying = (hosts * 2).div_ceil(100);
    let die = |from: usize| (from..from + dying).map(|host| (0.3, Deed::KillAgent(host)));
    vec![
        Scenario {
            slow,
            ..plain(
                "slow-peers",
                "3 % of the hosts, at least one, upload at a fiftieth",
            )
        },
        Scenario {
            deeds: die(0).collect(),
            ..plain(
                "dying-peers",
                "2 % of the hosts, at least one, are killed at 30 % of all bytes",
            )
        },
        Scenario {
            corrupting: 1,
            ..plain("corrupting-peer", "one host corrupts half of what it sends")
        },
        Scenario {
            slow,
            corrupting: 1,
            deeds: die(slow + 1).collect(),
            ..plain("mixed", "3 % slow, 2 % dying, one corrupting")
        },
        Scenario {
            strangers: 1,
            ..plain(
                "no-rights",
                "the image is private, and one more host, which may not pull it, asks the swarm for all of it",
            )
        },
    ]
}

/// The scenario of this name.
pub(super) fn named(name: &str, hosts: usize) -> Result<Scenario> {
    let names: Vec<_> = all(hosts).iter().map(|known| known.name).collect();
    all(hosts)
        .into_iter()
        .find(|known| known.name == name)
        .with_context(|| {
            format!(
                "there is no scenario {name:?}; there are {}",
                names.join(", ")
            )
        })
}

impl Scenario {
    pub(super) fn restarts(&self) -> bool {
        self.deeds
            .iter()
            .any(|(_, deed)| *deed == Deed::RestartAgents)
    }

    /// Hosts from this number on corrupt, and how many.
    pub(super) fn corrupts(&self, host: usize) -> bool {
        (self.slow..self.slow + self.corrupting).contains(&host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let names: std::collections::BTreeSet<_> =
            all(16).into_iter().map(|known| known.name).collect();
        assert_eq!(names.len(), all(16).len());
        assert_eq!(named("mixed", 16).unwrap().name, "mixed");
        assert!(
            named("mixture", 16)
                .unwrap_err()
                .to_string()
                .contains("flash-crowd")
        );
    }

    #[test]
    fn what_a_scenario_is_compared_with_is_the_same_without_what_happens() {
        let all = all(16);
        let compared = all.iter().filter_map(|known| Some((known, known.base?)));
        let mut count = 0;
        for (event, base) in compared {
            count += 1;
            let base = named(base, 16).unwrap();
            assert_eq!(
                (base.has_all, base.attach_first),
                (event.has_all, event.attach_first)
            );
            assert_eq!(base.deeds[0], (event.deeds[0].0, Deed::Nothing));
        }
        assert_eq!(count, 3);
    }

    #[test]
    fn misbehaving_hosts_of_the_mixed_scenario_are_different_ones() {
        let mixed = named("mixed", 16).unwrap();
        let slow: Vec<_> = (0..16).filter(|host| *host < mixed.slow).collect();
        let corrupting: Vec<_> = (0..16).filter(|host| mixed.corrupts(*host)).collect();
        let dying = mixed.deeds.iter().filter_map(|(_, deed)| match deed {
            Deed::KillAgent(host) => Some(*host),
            _ => None,
        });
        let dying: Vec<_> = dying.collect();
        assert_eq!((slow, corrupting, dying), (vec![0], vec![1], vec![2]));
    }
}
