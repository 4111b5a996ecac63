//! Small random swarms, one for each seed, each with one kind of trouble.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{ChunkId, Class, Role, Want};
use tranship_swarm::node::Input;

use crate::random::Random;
use crate::world::{Credit, End, Terms, World};

/// What goes wrong in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Nothing,
    Liar,
    Crashes,
    Silence,
    LeaseHolderDies,
    TrackerAway,
    TrackerRestarts,
    RegistryFails,
    Bans,
    SlowPeer,
    FullStores,
    Rights,
    Everything,
}

const TROUBLES: [Trouble; 13] = [
    Trouble::Nothing,
    Trouble::Liar,
    Trouble::Crashes,
    Trouble::Silence,
    Trouble::LeaseHolderDies,
    Trouble::TrackerAway,
    Trouble::TrackerRestarts,
    Trouble::RegistryFails,
    Trouble::Bans,
    Trouble::SlowPeer,
    Trouble::FullStores,
    Trouble::Rights,
    Trouble::Everything,
];

/// How long virtual time may go on: far beyond all patience of the machines.
const LIMIT: Duration = Duration::from_mins(2);

fn has(trouble: Trouble, which: Trouble) -> bool {
    trouble == which || trouble == Trouble::Everything
}

/// What a node reads: all of it in order, or parts in an order of its own.
fn script(random: &mut Random, blobs: &[(Digest, u32)]) -> Vec<(ChunkId, Class)> {
    let mut script = Vec::new();
    let everything = random.chance(50);
    let percent = random.between(5, 80);
    for &(blob, count) in blobs {
        for number in 0..count {
            if everything || random.chance(percent) {
                let class = match random.below(10) {
                    0..=5 => Class::Demand,
                    6 => Class::ReadAhead,
                    7 | 8 => Class::Prefetch,
                    _ => Class::Background,
                };
                script.push((ChunkId { blob, number }, class));
            }
        }
    }
    if random.chance(50) {
        for place in (1..script.len()).rev() {
            script.swap(place, random.index(place + 1));
        }
    }
    script
}

fn build(seed: u64, trouble: Trouble) -> World {
    let mut random = Random(seed);
    let terms = Terms {
        latency_us: (50, random.between(60, 2_000)),
        uplink: random.between(20_000_000, 1_250_000_000),
        registry_latency: random.micros(1_000, 80_000),
        registry_rate: random.between(20_000_000, 1_250_000_000),
        tracker_us: 5,
        stripe_chunks: 8,
        readahead: random.index(12) + 1,
        racks: random.chance(30),
    };
    let mut world = World::new(terms, seed ^ 0x5eed);
    world.max_steps = 300_000;
    // Half of all nodes have so little credit that it is what they wait for.
    if random.chance(50) {
        let peer = random.between(300_000, 1_600_000);
        world.credit = Some(Credit {
            peer,
            peer_bulk: peer / 2,
            all: peer * random.between(1, 4),
        });
    }
    // Half of those in trouble may hedge once before they have earned another.
    let hedges_little = trouble != Trouble::Nothing && Random(seed ^ 0xbadd).chance(50);
    world.hedge_burst = hedges_little.then_some(1);
    world.start_tracker();
    let mut blobs = Vec::new();
    for name in 0..=random.below(2) {
        let count = random.between(1, 40);
        let lens = (0..count).map(|_| u32::try_from(random.between(1, 400_000)).unwrap());
        let digest = world.add_blob(&format!("blob {name}"), lens.collect());
        blobs.push((digest, u32::try_from(count).unwrap()));
    }
    let digests: Vec<Digest> = blobs.iter().map(|&(digest, _)| digest).collect();
    let nodes = random.between(2, 9);
    let zones = random.between(1, 3);
    // Half of all trackers go when all members know each other, the others before.
    let spread = if random.chance(50) { 50_000 } else { 600_000 };
    world.all_start_by = Duration::from_micros(5_000 + spread);
    for number in 0..nodes {
        let zone = format!("zone-{}", random.below(zones));
        let role = if number == 0 && random.chance(30) {
            Role::Seed
        } else {
            Role::Agent
        };
        let script = script(&mut random, &blobs);
        let start = random.micros(5_000, 5_000 + spread);
        world.add_host(role, &zone, &digests, script, start);
    }
    harm(&mut world, &mut random, trouble, &digests);
    world
}

fn harm(world: &mut World, random: &mut Random, trouble: Trouble, blobs: &[Digest]) {
    let some = |random: &mut Random, world: &World| random.index(world.hosts.len());
    if has(trouble, Trouble::Liar) {
        let liar = some(random, world);
        world.hosts[liar].lies = true;
    }
    if has(trouble, Trouble::Crashes) {
        for _ in 0..random.between(1, 3) {
            let at = random.micros(10_000, 700_000);
            let host = some(random, world);
            world.end_at(at, host, End::Crash);
        }
    }
    if has(trouble, Trouble::Silence) {
        let at = random.micros(10_000, 400_000);
        let host = some(random, world);
        world.end_at(at, host, End::Vanish);
    }
    if has(trouble, Trouble::LeaseHolderDies) {
        for _ in 0..random.between(1, 2) {
            let at = random.micros(10_000, 400_000);
            world.end_lease_holder_at(at);
        }
    }
    if has(trouble, Trouble::TrackerAway) || has(trouble, Trouble::TrackerRestarts) {
        let down = random.micros(0, 300_000);
        world.members_know_each_other = down > world.all_start_by + Duration::from_millis(10);
        world.tracker_down_at(down);
        if has(trouble, Trouble::TrackerRestarts) {
            world.tracker_back_at(down + random.micros(1_000, 400_000));
        }
    }
    if has(trouble, Trouble::RegistryFails) {
        // Now and then, or most of the time.
        world.registry_fails = if random.chance(60) {
            random.between(5, 30)
        } else {
            random.between(60, 100)
        };
        world.registry_back_at(random.micros(100_000, 4_000_000));
    }
    if has(trouble, Trouble::Bans) {
        for _ in 0..random.between(1, 2) {
            let at = random.micros(10_000, 1_500_000);
            let host = some(random, world);
            world.ban_at(at, host);
        }
    }
    if has(trouble, Trouble::SlowPeer) {
        let slow = some(random, world);
        world.hosts[slow].slow = 50;
    }
    if has(trouble, Trouble::Rights) {
        // One is given none and asks everybody all the same, one is given none for long.
        let stranger = some(random, world);
        world.hosts[stranger].right = None;
        for request in 0..20 {
            let blob = blobs[random.index(blobs.len())];
            let number = u32::try_from(random.below(world.blobs[&blob].len() as u64)).unwrap();
            let want = Want {
                class: Class::Demand,
                chunk: ChunkId { blob, number },
                hash: None,
            };
            let (at, to) = (random.micros(10_000, 900_000), some(random, world));
            if to != stranger {
                world.want_at(at, stranger, to, 1_000_000 + request, want);
            }
        }
        let late = some(random, world);
        if late != stranger {
            world.hosts[late].right = Some(random.micros(1_000, 500_000));
        }
    }
    if has(trouble, Trouble::FullStores) {
        for host in 0..world.hosts.len() {
            if random.chance(50) {
                world.hosts[host].full = random.between(10, 100);
            }
        }
        for _ in 0..20 {
            let blob = blobs[random.index(blobs.len())];
            let number = u32::try_from(random.below(world.blobs[&blob].len() as u64)).unwrap();
            let at = random.micros(50_000, 900_000);
            let host = some(random, world);
            let chunk = ChunkId { blob, number };
            world.tell_at(at, host, Input::Evicted { chunk });
        }
    }
}

fn live(seed: u64) -> (Trouble, u64, u64, World) {
    let trouble = TROUBLES[usize::try_from(seed).unwrap() % TROUBLES.len()];
    let mut world = build(seed, trouble);
    let wanted: BTreeSet<ChunkId> = world
        .hosts
        .iter()
        .flat_map(|host| host.script.iter().map(|&(chunk, _)| chunk))
        .collect();
    let unique: u64 = wanted
        .iter()
        .map(|c| u64::from(world.blobs[&c.blob][c.number as usize]))
        .sum();
    let scripts: Vec<BTreeSet<ChunkId>> = world
        .hosts
        .iter()
        .map(|host| host.script.iter().map(|&(chunk, _)| chunk).collect())
        .collect();
    world.run(LIMIT);
    for host in &world.hosts {
        host.ledger.close(host.node.counters());
    }
    for (host, script) in world.hosts.iter().zip(scripts) {
        if !host.alive {
            continue;
        }
        assert!(
            host.script.is_empty() && host.open.is_empty(),
            "chunks never came: {:?}",
            host.open
        );
        assert!(host.failed.is_empty(), "chunks failed for good");
        assert_eq!(host.done, script, "not all that was wanted came");
    }
    for shunned in &world.shunned {
        let mut hosts = world.hosts.iter();
        let host = hosts.find(|host| host.member.peer == *shunned).unwrap();
        assert!(host.lies, "an honest node was shunned");
    }
    if !has(trouble, Trouble::Liar) {
        assert_eq!(
            world.sum(|c| c.wrong_chunks),
            0,
            "an honest node was refused"
        );
    }
    assert!(
        world.banned.is_empty() || has(trouble, Trouble::Bans),
        "a node was banned by nobody"
    );
    let unique_or_one = unique.max(1);
    if trouble == Trouble::Nothing {
        // With credit for a chunk or two, nodes may wait for each other in a ring until one loses patience and reads the
        // registry itself.
        let tenths = if world.credit.is_some() { 20 } else { 11 };
        assert!(
            world.registry_len * 10 <= unique_or_one * tenths,
            "the registry was read {} % of once",
            world.registry_len * 100 / unique_or_one
        );
    }
    (trouble, world.registry_len, unique_or_one, world)
}

#[test]
fn every_wanted_chunk_arrives_in_thousands_of_small_swarms() {
    let only = crate::number("TRANSHIP_SWARM_SEED");
    let count = crate::number("TRANSHIP_SWARM_SEEDS").unwrap_or(2_200);
    let seeds = only.map_or(0..count, |seed| seed..seed + 1);
    let mut sums = vec![(0, 0, 0, 0, 0, (Duration::ZERO, 0)); TROUBLES.len()];
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| live(seed))) {
            Ok((trouble, read, unique, world)) => {
                let at = TROUBLES.iter().position(|known| *known == trouble).unwrap();
                let sum = &mut sums[at];
                sum.0 += 1;
                sum.1 += read;
                sum.2 += unique;
                sum.3 += world.sum(|c| c.hedges);
                sum.4 += world.sum(|c| c.requests);
                sum.5 = sum.5.max((world.now, seed));
            }
            Err(panic) => {
                let trouble = TROUBLES[usize::try_from(seed).unwrap() % TROUBLES.len()];
                println!(
                    "seed {seed} ({trouble:?}) fails; again with: TRANSHIP_SWARM_SEED={seed} \
                     cargo test -p tranship-swarm --test history every_wanted_chunk"
                );
                resume_unwind(panic);
            }
        }
    }
    for (trouble, (swarms, read, unique, hedges, requests, (longest, of))) in
        TROUBLES.iter().zip(sums)
    {
        println!(
            "{trouble:?}: {swarms} swarms, origin {}%, hedges {}% of requests, longest {longest:?} (seed {of})",
            read * 100 / unique.max(1),
            hedges * 100 / requests.max(1),
        );
    }
}
