//! Tells the tracker what is held, soon after it changed but not for every chunk.

use std::time::Duration;

use tranship_format::Digest;

use super::Node;
use super::action::Action;
use super::blob::Route;
use super::timer::Timer;

impl Node {
    /// What is held of a blob changed so that the tracker should know.
    pub(super) fn announce_soon(&mut self, now: Duration, blob: Digest) {
        let every = self.options.announce_every;
        let Some(known) = self.blobs.get_mut(&blob) else {
            return;
        };
        if known.unannounced {
            return;
        }
        known.unannounced = true;
        let at = known
            .announced_at
            .map_or(now, |before| (before + every).max(now));
        self.timers.insert((at, Timer::Announce(blob)));
    }

    pub(super) fn announce(&mut self, now: Duration, blob: Digest) {
        if self.blobs.get(&blob).is_some_and(|known| known.unannounced) && self.tracker.is_some() {
            self.tell_all(now, blob);
        }
    }

    /// Tells the tracker all that is held of a blob. What is not told of is not ours any more: a question without an answer is asked anew when
    /// something is wanted. What has an answer is told of, also before anything of it is wanted: others may have been sent here for it.
    pub(super) fn tell_all(&mut self, now: Duration, blob: Digest) {
        let Some(known) = self.blobs.get_mut(&blob) else {
            return;
        };
        if known.right.is_unheard(now) {
            // Told once it is granted.
            known.unannounced = true;
            return;
        }
        known.unannounced = false;
        known.announced_at = Some(now);
        let runs = known.runs();
        let mut present = Vec::new();
        for &number in known.stripes.keys() {
            if known.present_in(number) > 0 {
                present.push(number);
            }
        }
        for (number, stripe) in &mut known.stripes {
            if stripe.wanted.is_empty() && !present.contains(number) && !stripe.is_decided() {
                stripe.route = Route::Unknown;
            }
        }
        self.actions.push_back(Action::Announce { blob, runs });
    }
}
