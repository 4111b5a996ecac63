//! Whom a node asks and tells, as its trackers come and go.

use super::*;

fn peer(name: u8) -> PeerId {
    PeerId::from_bytes(&[name; 38]).unwrap()
}

fn blob(name: u32) -> Digest {
    Digest::of(&name.to_le_bytes())
}

const BLOBS: u32 = 300;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A node that has trackers 1 to `count` and all blobs open.
fn shards(count: u8) -> Shards {
    let mut shards = Shards::default();
    for name in 1..=count {
        shards.up(at(1), peer(name), u64::from(name), None);
    }
    for name in 0..BLOBS {
        shards.open(at(1), blob(name));
    }
    shards
}

fn asked(shards: &Shards) -> Vec<Option<PeerId>> {
    (0..BLOBS).map(|name| shards.asked(&blob(name))).collect()
}

fn changed(inputs: &[Input], which: TrackerChange) -> usize {
    let counts = inputs.iter().map(|input| match input {
        Input::TrackerChanged { blobs, change } if *change == which => blobs.len(),
        _ => 0,
    });
    counts.sum()
}

#[test]
fn blobs_are_shared_out_evenly_whatever_the_order_in_which_trackers_were_met() {
    let shards = shards(3);
    for name in 1..=3 {
        let mine = asked(&shards)
            .iter()
            .filter(|asked| **asked == Some(peer(name)))
            .count();
        assert!(
            (70..=130).contains(&mine),
            "tracker {name} has {mine} of {BLOBS}"
        );
    }
    let mut other = Shards::default();
    for name in 0..BLOBS {
        other.open(at(1), blob(name));
    }
    for name in [3, 1, 2] {
        other.up(at(1), peer(name), u64::from(name), None);
    }
    assert_eq!(asked(&shards), asked(&other));
}

#[test]
fn when_a_tracker_is_lost_its_blobs_alone_move_and_to_the_one_that_was_told_of_them() {
    let mut shards = shards(3);
    let before = asked(&shards);
    let told: Vec<Vec<PeerId>> = (0..BLOBS)
        .map(|name| shards.told(&blob(name)).collect())
        .collect();
    let inputs = shards.down(at(2), &peer(2));
    let mut moved = 0;
    for ((before, after), told) in before.iter().zip(asked(&shards)).zip(told) {
        if *before == Some(peer(2)) {
            moved += 1;
            assert_eq!(after, Some(told[1]));
        } else {
            assert_eq!(after, *before);
        }
    }
    assert_eq!(changed(&inputs, TrackerChange::Asked), moved);
    assert!(
        changed(&inputs, TrackerChange::StandIn) > 0,
        "new stand-ins must be told"
    );
}

#[test]
fn a_tracker_that_is_back_is_told_at_once_and_asked_when_all_can_have_found_it() {
    let mut shards = shards(3);
    let before = asked(&shards);
    shards.down(at(2), &peer(2));
    let without = asked(&shards);
    let inputs = shards.up(at(5), peer(2), 22, None);
    assert_eq!(asked(&shards), without, "its stand-ins are asked for now");
    assert_eq!(changed(&inputs, TrackerChange::Asked), 0);
    for (name, before) in (0..BLOBS).zip(&before) {
        if *before == Some(peer(2)) {
            assert!(shards.told(&blob(name)).any(|told| told == peer(2)));
        }
    }
    let wake_at = shards.wake_at().unwrap();
    let just_before = wake_at.saturating_sub(Duration::from_millis(1));
    assert!(shards.tick(just_before).is_empty());
    let inputs = shards.tick(wake_at);
    assert_eq!(asked(&shards), before);
    let moved = before
        .iter()
        .filter(|asked| **asked == Some(peer(2)))
        .count();
    assert_eq!(changed(&inputs, TrackerChange::Asked), moved);
    assert_eq!(shards.wake_at(), None);
    for (left, blob) in shards.take_left() {
        assert!(shards.told(&blob).all(|told| told != left));
    }
}

#[test]
fn one_tracker_alone_is_asked_as_soon_as_it_is_back_and_keeps_its_epoch() {
    let mut shards = shards(1);
    assert!(matches!(
        shards.down(at(2), &peer(1))[..],
        [Input::TrackerDown]
    ));
    assert_eq!(shards.asked(&blob(0)), None);
    let inputs = shards.up(at(3), peer(1), 1, None);
    assert!(matches!(inputs[..], [Input::TrackerUp { epoch: 1, .. }]));
    assert_eq!(shards.asked(&blob(0)), Some(peer(1)));
    assert_eq!(shards.told(&blob(0)).count(), 1);
    // The stream stands, and what it says is of another epoch.
    let inputs = shards.up(at(4), peer(1), 2, None);
    assert_eq!(changed(&inputs, TrackerChange::Forgot), BLOBS as usize);
}

#[test]
fn after_all_were_lost_nothing_holds_that_another_tracker_said() {
    let mut shards = shards(2);
    shards.down(at(2), &peer(2));
    shards.down(at(2), &peer(1));
    let inputs = shards.up(at(3), peer(1), 1, None);
    assert!(matches!(inputs[..], [Input::TrackerUp { epoch, .. }] if epoch != 1));
}

#[test]
fn a_tracker_that_forgot_is_treated_as_one_that_was_lost() {
    let mut shards = shards(2);
    let moved = asked(&shards)
        .iter()
        .filter(|asked| **asked == Some(peer(1)))
        .count();
    let inputs = shards.up(at(2), peer(1), 11, None);
    assert!(asked(&shards).iter().all(|asked| *asked == Some(peer(2))));
    assert_eq!(changed(&inputs, TrackerChange::Asked), moved);
}

#[test]
fn equal_leases_of_two_trackers_have_two_numbers() {
    let mut shards = shards(2);
    let (one, other) = (shards.number(peer(1), 7), shards.number(peer(2), 7));
    assert_ne!(one, other);
    assert_eq!(shards.number(peer(1), 7), one);
    assert_eq!(shards.lease(other), Some((peer(2), 7)));
    for lease in 0..10_000 {
        shards.number(peer(1), lease);
    }
    assert!(shards.leases.len() <= MAX_LEASES && shards.numbers.len() <= MAX_LEASES);
    assert_eq!(shards.lease(one), None);
}

#[test]
fn a_tracker_that_comes_later_than_the_others_is_told_before_it_is_asked() {
    let mut late = shards(2);
    let before = asked(&late);
    late.up(at(60), peer(3), 3, None);
    assert_eq!(asked(&late), before, "nobody has told it yet");
    assert!((0..BLOBS).any(|name| late.told(&blob(name)).any(|told| told == peer(3))));
    late.tick(late.wake_at().unwrap());
    assert_eq!(asked(&late), asked(&shards(3)));
}

#[test]
fn a_blob_that_is_not_in_use_is_asked_about_where_it_will_be() {
    let mut shards = shards(3);
    let new = Digest::of(b"not open yet");
    let to_ask = shards.to_ask(at(2), &new);
    assert_eq!(shards.asked(&new), None);
    shards.open(at(2), new);
    assert_eq!(shards.asked(&new), to_ask);
    assert!(to_ask.is_some());
}
