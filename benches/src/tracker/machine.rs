//! The decisions alone: no sockets, no frames, one thread.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tranship_format::wire::{Grant, Open, PeerId, TrackerReply, TrackerRequest};
use tranship_swarm::tracker::{Action, Input, Rights, Tracker, TrackerOptions};

use super::Load;
use super::script::{self, Script};
use crate::cost::thread_seconds;

/// What was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    pub(super) calls: u64,
    pub(super) calls_per_cpu_s: f64,
}

/// Time that passes from one call to the next: twenty thousand calls a second.
const BETWEEN: Duration = Duration::from_micros(50);

/// The nodes say one thing each, in turn, until all have said everything.
pub(super) fn measure(load: Load) -> Result<Figures> {
    let mut tracker = Tracker::new(TrackerOptions::default(), 1, []);
    let mut now = Duration::from_secs(10);
    let mut nodes = Vec::with_capacity(load.nodes);
    for number in 0..load.nodes {
        let peer = peer(number)?;
        let member = script::member(number, peer);
        let boot_id = [0; 16];
        tracker.handle(now, Input::Joined { member, boot_id });
        nodes.push((peer, Script::new(load)));
    }
    while tracker.poll(now).is_some() {}
    let (began, mut calls) = (thread_seconds(), 0);
    let mut talking = true;
    while talking {
        talking = false;
        for (peer, script) in &mut nodes {
            let Some(message) = script.next() else {
                continue;
            };
            talking = true;
            calls += 1;
            now += BETWEEN;
            let request = u32::try_from(calls % 1_000_000).unwrap_or(0) + 1;
            let from = *peer;
            let input = match message {
                TrackerRequest::Open(open) => granted(from, request, *open),
                message => Input::Request {
                    from,
                    request,
                    message,
                },
            };
            tracker.handle(now, input);
            let reply = answer(&mut tracker, now, &from, request);
            let reply = reply.context("the tracker does not answer")?;
            ensure!(script.heard(&reply), "the tracker answers {reply:?}");
        }
    }
    let spent = thread_seconds() - began;
    #[expect(
        clippy::cast_precision_loss,
        reason = "no measurement makes 2^52 calls"
    )]
    let calls_per_cpu_s = calls as f64 / spent;
    Ok(Figures {
        calls,
        calls_per_cpu_s,
    })
}

/// OPEN as the server hands it on: every node may have the image.
fn granted(from: PeerId, request: u32, open: Open) -> Input {
    let grant = Grant {
        peer: from,
        registry: open.image.registry.clone(),
        manifest: open.image.manifest,
        blobs: open.blobs.iter().map(|info| info.digest).collect(),
        issued_at: 0,
        expires_at: u64::MAX,
        tracker: from,
        signature: vec![0; 64],
    };
    Input::Open {
        from,
        request,
        image: open.image,
        blobs: open.blobs,
        rights: Some(Box::new(Rights {
            grant,
            until: Duration::MAX,
        })),
    }
}

fn answer(
    tracker: &mut Tracker,
    now: Duration,
    peer: &PeerId,
    number: u32,
) -> Option<TrackerReply> {
    let mut answer = None;
    while let Some(action) = tracker.poll(now) {
        if let Action::Reply { to, request, reply } = action
            && to == *peer
            && request == number
        {
            answer = Some(reply);
        }
    }
    answer
}

/// As long as those in earnest.
fn peer(number: usize) -> Result<PeerId> {
    let mut id = [0_u8; 38];
    for (place, byte) in id.iter_mut().zip((number as u64).to_le_bytes()) {
        *place = byte;
    }
    PeerId::from_bytes(&id).context("make a peer id")
}
