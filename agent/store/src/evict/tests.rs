//! The policy against what it promises, with a hand-made heat.

use super::*;

const LEN: u64 = 256 * 1024;

fn key(chunk: u32) -> Key {
    Key { blob: 0, chunk }
}

/// A store of `room` chunks that evicts when a chunk does not fit.
struct Rig {
    policy: Policy,
    held: BTreeSet<Key>,
    heat: HashMap<Key, u8>,
    room: usize,
}

impl Rig {
    fn new(room: usize) -> Self {
        Self {
            policy: Policy::default(),
            held: BTreeSet::new(),
            heat: HashMap::new(),
            room,
        }
    }

    /// Reads a chunk, fetching it when it is not there. Says whether it was.
    fn read(&mut self, key: Key) -> bool {
        if self.held.contains(&key) {
            let heat = self.heat.entry(key).or_default();
            *heat = (*heat + 1).min(3);
            return true;
        }
        while self.held.len() >= self.room {
            let heat = &mut self.heat;
            let victim = self
                .policy
                .evict(|key| {
                    let now = heat.entry(key).or_default();
                    let before = *now;
                    *now = now.saturating_sub(1);
                    before
                })
                .expect("something to evict");
            assert!(self.held.remove(&victim), "{victim:?} was not there");
            self.heat.remove(&victim);
        }
        self.held.insert(key);
        self.policy.insert(key, LEN);
        false
    }
}

#[test]
fn scan_does_not_push_out_what_is_read_again() {
    let mut rig = Rig::new(100);
    for _ in 0..3 {
        for chunk in 0..50 {
            rig.read(key(chunk));
        }
    }
    for chunk in 1000..5000 {
        rig.read(key(chunk));
    }
    let kept = (0..50)
        .filter(|chunk| rig.held.contains(&key(*chunk)))
        .count();
    assert_eq!(kept, 50, "the working set is still there");
}

#[test]
fn ghost_that_returns_is_kept_longer_than_a_newcomer() {
    let mut rig = Rig::new(20);
    for chunk in 0..40 {
        rig.read(key(chunk));
    }
    let ghost = key(15);
    assert!(!rig.read(ghost), "it had to go");
    for chunk in 100..119 {
        rig.read(key(chunk));
    }
    for chunk in 200..210 {
        rig.read(key(chunk));
    }
    assert!(rig.held.contains(&ghost));
    assert!(!rig.held.contains(&key(100)));
}

#[test]
fn pinned_chunks_go_last() {
    let mut rig = Rig::new(20);
    let pinned: Vec<Key> = (0..10).map(|chunk| Key { blob: 7, chunk }).collect();
    for key in &pinned {
        rig.read(*key);
    }
    rig.policy.set_pinned(7, true);
    for chunk in 0..500 {
        rig.read(key(chunk));
    }
    assert!(pinned.iter().all(|key| rig.held.contains(key)));
    rig.policy.set_pinned(7, false);
    for chunk in 500..1000 {
        rig.read(key(chunk));
    }
    assert!(pinned.iter().all(|key| !rig.held.contains(key)));
}

#[test]
fn pinned_chunks_go_when_nothing_else_is_left() {
    let mut policy = Policy::default();
    policy.set_pinned(0, true);
    policy.insert(key(1), LEN);
    assert_eq!(policy.evict(|_| 0), Some(key(1)));
    assert_eq!(policy.evict(|_| 0), None);
}

#[test]
fn removed_chunks_are_never_named() {
    let mut policy = Policy::default();
    for chunk in 0..10 {
        policy.insert(key(chunk), LEN);
    }
    policy.insert(Key { blob: 1, chunk: 0 }, LEN);
    for chunk in (0..10).step_by(2) {
        policy.remove(key(chunk));
    }
    policy.remove_blob(1);
    policy.insert(key(0), LEN);
    let mut named = Vec::new();
    while let Some(victim) = policy.evict(|_| 0) {
        named.push(victim.chunk);
    }
    named.sort_unstable();
    assert_eq!(named, [0, 1, 3, 5, 7, 9]);
}

#[test]
fn hot_chunks_cannot_make_eviction_endless() {
    let mut policy = Policy::default();
    let mut heat: HashMap<Key, u8> = HashMap::new();
    for chunk in 0..100 {
        policy.insert(key(chunk), LEN);
        heat.insert(key(chunk), 3);
    }
    let mut asked = 0;
    let victim = policy.evict(|key| {
        asked += 1;
        let now = heat.entry(key).or_default();
        let before = *now;
        *now = now.saturating_sub(1);
        before
    });
    assert!(victim.is_some());
    assert!(asked <= 401, "{asked} questions");
}

#[test]
fn ghosts_are_bounded() {
    let mut rig = Rig::new(10);
    for chunk in 0..10_000 {
        rig.read(key(chunk));
    }
    assert!(rig.policy.ghosts.len() <= MIN_GHOSTS);
    assert!(rig.policy.ghost_set.len() <= MIN_GHOSTS);
}

#[test]
fn pinning_to_and_fro_does_not_grow_the_queues() {
    let mut policy = Policy::default();
    for chunk in 0..10 {
        policy.insert(key(chunk), LEN);
    }
    for _ in 0..1000 {
        policy.set_pinned(0, true);
        for chunk in 0..10 {
            policy.remove(key(chunk));
            policy.insert(key(chunk), LEN);
        }
        policy.set_pinned(0, false);
    }
    let entries =
        policy.small.entries.len() + policy.main.entries.len() + policy.pinned.entries.len();
    assert!(
        entries <= 3 * (2 * 10 + MIN_GHOSTS + 1),
        "{entries} entries"
    );
}
