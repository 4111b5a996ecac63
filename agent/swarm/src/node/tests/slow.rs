//! Peers that were found slow: when they are asked all the same, and when they are slow no longer.

use super::*;

/// The peers 1 and 2 are there, and slow.
fn with_slow_peers() -> Bench {
    let mut bench = Bench::routed();
    for name in [1, 2] {
        bench.tell(Input::PeerUp {
            member: member(name),
        });
        let peers = &mut bench.node.peers;
        assert!(peers.mark_slow(bench.now, peer(name), Duration::from_mins(1)));
    }
    bench
}

// On slow links nobody was left who was not slow, and what was read ahead of readers came from the registry, once for each node.
// Then one of sixteen had found all of its parents slow in a bad second: for ten more it read each chunk of the registry, after
// four rounds of waiting, and all that were below it in the tree waited with it.
#[test]
fn slow_peers_are_asked_before_the_registry_is_read() {
    let ask = |class| {
        let mut bench = with_slow_peers();
        let mut actions = bench.want(0, class);
        for _ in 0..4 {
            actions.extend(bench.pass(200));
            actions.extend(bench.route(0, parents(&[1, 1, 2])));
        }
        actions
    };
    let ahead = ask(Class::Prefetch);
    assert_eq!(wants(&ahead)[0].0, 1);
    assert!(reads(&ahead).is_empty(), "{ahead:?}");
    let demanded = ask(Class::Demand);
    assert_eq!(wants(&demanded)[0].0, 1);
    assert!(!reads(&demanded).is_empty(), "it says nothing");
}

#[test]
fn a_slow_peer_that_sends_quickly_is_slow_no_longer() {
    let mut bench = with_slow_peers();
    bench.want(0, Class::Demand);
    bench.want(2, Class::Demand);
    let mut asked = bench.pass(100);
    asked.extend(bench.route(0, parents(&[1, 1])));
    let &[(1, request, _)] = &wants(&asked)[..] else {
        panic!("not one chunk at a time: {asked:?}");
    };
    bench.pass(30);
    bench.tell(Input::Data {
        peer: peer(1),
        request,
        arrival: Arrival::Kept,
    });
    assert!(!bench.node.peers.is_slow(bench.now, &peer(1)));
}
