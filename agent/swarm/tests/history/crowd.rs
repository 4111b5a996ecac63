//! A flash crowd: many nodes start one image within 50 ms.

use std::time::Duration;

use tranship_format::wire::{ChunkId, Class, Role};

use crate::random::Random;
use crate::world::{End, Terms, World};

const CHUNK_LEN: u32 = 256 << 10;

fn crowd(nodes: u64, chunks: u32, class: Class, seed: u64) -> World {
    let terms = Terms {
        latency_us: (90, 110),
        uplink: 1_250_000_000,
        registry_latency: Duration::from_millis(20),
        registry_rate: 1_250_000_000,
        tracker_us: 5,
        stripe_chunks: 64,
        readahead: 8,
        racks: false,
    };
    let mut world = World::new(terms, seed);
    world.start_tracker();
    let blob = world.add_blob("image", vec![CHUNK_LEN; chunks as usize]);
    let mut random = Random(seed);
    for _ in 0..nodes {
        let script = (0..chunks)
            .map(|number| (ChunkId { blob, number }, class))
            .collect();
        let start = random.micros(1_000, 51_000);
        world.add_host(Role::Agent, "a", &[blob], script, start);
    }
    world
}

fn tell(name: &str, world: &World) {
    let mut times: Vec<Duration> = world.hosts.iter().map(|host| host.done_at).collect();
    times.sort_unstable();
    let mut waits: Vec<Duration> = world
        .hosts
        .iter()
        .flat_map(|host| host.waits.iter().copied())
        .collect();
    waits.sort_unstable();
    let at = |of: &[Duration], permille: usize| of[(of.len() - 1) * permille / 1_000];
    let unique: u64 = world
        .blobs
        .values()
        .flat_map(|lens| lens.iter())
        .map(|&l| u64::from(l))
        .sum();
    let permille = world.registry_len * 1_000 / unique;
    let requests = world.sum(|c| c.requests);
    let sent: Vec<u64> = world.hosts.iter().map(|host| host.sent_len).collect();
    let mean = sent.iter().sum::<u64>() / sent.len() as u64;
    println!(
        "{name}: {} nodes, origin x{}.{:03}, node p50 {:?} max {:?}, chunk p50 {:?} p99 {:?} p99.9 {:?}, \
         hedges {} of {requests}, overrides {}, busy {}, miss {}, waits {}, relayed {}, tracker messages {}, \
         most sent {}% of mean",
        world.hosts.len(),
        permille / 1_000,
        permille % 1_000,
        at(&times, 500),
        at(&times, 1_000),
        at(&waits, 500),
        at(&waits, 990),
        at(&waits, 999),
        world.sum(|c| c.hedges),
        world.sum(|c| c.origin_overrides),
        world.sum(|c| c.busy_sent),
        world.sum(|c| c.misses_sent),
        world.sum(|c| c.waits_sent),
        world.sum(|c| c.relayed),
        world.tracker_messages,
        sent.iter().max().unwrap() * 100 / mean.max(1),
    );
}

fn size() -> (u64, u32) {
    let nodes = crate::number("TRANSHIP_SWARM_NODES").unwrap_or(60);
    let chunks = crate::number("TRANSHIP_SWARM_CHUNKS").unwrap_or(128);
    (nodes, u32::try_from(chunks).unwrap())
}

/// Whether the registry gave at most so many permille of what is in the image.
fn read_at_most(world: &World, permille: u64) -> bool {
    let unique: u64 = world
        .blobs
        .values()
        .flat_map(|lens| lens.iter())
        .map(|&len| u64::from(len))
        .sum();
    world.registry_len * 1_000 <= unique * permille
}

#[test]
fn a_flash_crowd_costs_the_registry_one_pull() {
    let (nodes, chunks) = size();
    for class in [Class::Demand, Class::Prefetch] {
        let mut world = crowd(nodes, chunks, class, 1);
        world.run(Duration::from_mins(1));
        tell(&format!("{class:?}"), &world);
        assert!(world.is_over(), "not everybody is ready");
        assert!(
            read_at_most(&world, 1_100),
            "the registry is read more than 1.1 times"
        );
    }
}

#[test]
fn a_flash_crowd_gets_over_the_loss_of_the_tracker() {
    let (nodes, chunks) = size();
    let mut world = crowd(nodes, chunks.max(192), Class::Demand, 2);
    // One chunk after the other takes long enough for everybody to hear of everybody first.
    world.terms.readahead = 1;
    world.tracker_down_at(Duration::from_millis(1_400));
    world.run(Duration::from_mins(1));
    tell("tracker lost", &world);
    assert!(world.is_over(), "not everybody is ready");
    assert!(
        read_at_most(&world, 2_000),
        "without a tracker the registry is read twice over"
    );
}

#[test]
fn a_flash_crowd_gets_over_slow_and_dead_nodes() {
    let (nodes, chunks) = size();
    let mut world = crowd(nodes, chunks, Class::Demand, 3);
    for host in 0..world.hosts.len() {
        if host % 50 == 7 {
            world.hosts[host].slow = 50;
        }
        if host % 50 == 3 {
            world.end_at(Duration::from_millis(90), host, End::Vanish);
        }
    }
    world.run(Duration::from_mins(1));
    tell("slow and dead", &world);
    assert!(world.is_over(), "not everybody is ready");
    assert!(
        read_at_most(&world, 2_000),
        "a few bad nodes send the others to the registry"
    );
}

#[test]
fn a_crowd_that_reads_different_parts_shares_what_it_shares() {
    let (nodes, chunks) = size();
    let mut world = crowd(nodes, chunks, Class::Demand, 4);
    let mut random = Random(4);
    let mut wanted = std::collections::BTreeSet::new();
    for host in &mut world.hosts {
        host.script.retain(|_| random.chance(30));
        for place in (1..host.script.len()).rev() {
            host.script.swap(place, random.index(place + 1));
        }
        wanted.extend(host.script.iter().map(|&(chunk, _)| chunk));
    }
    world.run(Duration::from_mins(1));
    tell("different parts", &world);
    assert!(world.is_over(), "not everybody is ready");
    let unique = wanted.len() as u64 * u64::from(CHUNK_LEN);
    assert!(
        world.registry_len * 10 <= unique * 11,
        "the registry is read more than 1.1 times"
    );
}
