//! The search for parents against one that compares all joiners.

use proptest::prelude::*;

use super::*;

/// What befalls a swarm.
#[derive(Clone, Copy, Debug)]
enum Event {
    Asks(u8),
    Has(u8),
    Leaves(u8),
    IsSlow(u8),
    IsApart(u8, u8),
}

fn event(count: u8) -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (1..=count).prop_map(Event::Asks),
        4 => (1..=count).prop_map(Event::Has),
        1 => (1..=count).prop_map(Event::Leaves),
        1 => (1..=count).prop_map(Event::IsSlow),
        1 => (1..=count, 1..=count).prop_map(|(by, of)| Event::IsApart(by, of)),
    ]
}

fn befall(tracker: &mut Tracker, now: Duration, event: Event) {
    match event {
        Event::Asks(name) => {
            let message = TrackerRequest::Lookup {
                blob: blob(),
                stripes: vec![0],
            };
            tell(tracker, now, peer(name), message);
        }
        Event::Has(name) => announce(tracker, now, name, StripeState::Complete),
        Event::Leaves(name) => announce(tracker, now, name, StripeState::None),
        Event::IsSlow(name) => {
            let message = TrackerRequest::Report {
                fault: Fault::Slow,
                peer: peer(name),
                chunk: chunk(),
            };
            tell(tracker, now, peer(name), message);
        }
        Event::IsApart(by, of) => {
            let message = TrackerRequest::Report {
                fault: Fault::WrongChunk,
                peer: peer(of),
                chunk: chunk(),
            };
            tell(tracker, now, peer(by), message);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn what_is_found_is_what_comparing_all_finds(
        places in prop::collection::vec((0_u8..3, 0_u8..4), 1..90),
        has_seed in any::<bool>(),
        events in prop::collection::vec(event(90), 1..300),
    ) {
        let mut tracker = swarm(0);
        if has_seed {
            join(&mut tracker, member(99, "z0", Role::Seed));
        }
        for (name, (zone, rack)) in (1..).zip(&places) {
            let mut member = member(name, &format!("z{zone}"), Role::Agent);
            // Some do not say which rack they are in.
            if *rack > 0 {
                member.rack = format!("r{rack}");
            }
            join(&mut tracker, member);
        }
        for (number, event) in events.into_iter().enumerate() {
            let now = START + Duration::from_millis(1) * u32::try_from(number).unwrap();
            befall(&mut tracker, now, event);
            let key = blobs::key("registry", &blob());
            let Some(stripe) = tracker.blobs.stripe(StripeId { blob: key, number: 0 }) else {
                continue;
            };
            // Whoever was heard of last, and one besides.
            let last = stripe.joiners().last().map(|joiner| joiner.member);
            let any = stripe.joiners().get(number % stripe.joiners().len().max(1));
            for me in last.into_iter().chain(any.map(|joiner| joiner.member)) {
                for asks in [false, true] {
                    prop_assert_eq!(
                        tracker.search(now, stripe, me, asks),
                        tracker.search_all(now, stripe, me, asks),
                        "for {} after {:?}", me, event
                    );
                }
            }
        }
    }
}
