//! The registry: it gives chunks one after the other, fails now and then, and is well again some time.

use std::sync::Arc;
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::Class;
use tranship_swarm::node::{Arrival, Input, RegistryFailure};

use super::{Event, World};

impl World {
    pub(crate) fn registry_back_at(&mut self, at: Duration) {
        self.registry_backs_at = Some(at);
        self.at(at, Event::RegistryBack);
    }

    /// From now on the registry fails no more, and readers want again what they did not get.
    pub(super) fn registry_back(&mut self) {
        self.registry_fails = 0;
        for host in 0..self.hosts.len() {
            let this = &mut self.hosts[host];
            let again = std::mem::take(&mut this.failed);
            // Who has none may not have started yet.
            if !again.is_empty() {
                let again = again.into_iter().map(|chunk| (chunk, Class::Demand));
                this.script.extend(again);
                self.at(self.now, Event::Read(host));
            }
        }
    }

    pub(super) fn read_registry(
        &mut self,
        host: usize,
        read: u64,
        blob: Digest,
        chunks: std::ops::Range<u32>,
    ) {
        let lens = Arc::clone(&self.blobs[&blob]);
        self.hosts[host].reads.insert(read, (blob, chunks.clone()));
        let fails_after = if self.random.chance(self.registry_fails) {
            Some(self.random.below(u64::from(chunks.end - chunks.start)))
        } else {
            None
        };
        let mut at = self.now + self.terms.registry_latency;
        let mut run_len = 0_u64;
        for (place, number) in chunks.enumerate() {
            if fails_after == Some(place as u64) {
                let asks_for_pause = self.random.chance(20);
                let retry_after = asks_for_pause.then(|| self.random.micros(20_000, 500_000));
                let failure = Some(RegistryFailure {
                    retry_after,
                    permanent: false,
                });
                self.at(
                    at,
                    Event::ToNode(host, Input::RegistryEnd { read, failure }),
                );
                return;
            }
            let len = u64::from(lens[number as usize]);
            run_len += len;
            let begins = self.registry_free_at.max(at);
            at = begins + Duration::from_nanos(len * 1_000_000_000 / self.terms.registry_rate);
            self.registry_free_at = at;
            self.registry_len += len;
            self.at(
                at,
                Event::ToNode(host, Input::RegistryProgress { read, len }),
            );
            let arrival = Arrival::Kept;
            self.at(
                at,
                Event::ToNode(
                    host,
                    Input::RegistryChunk {
                        read,
                        number,
                        arrival,
                    },
                ),
            );
        }
        let longest = lens.iter().map(|&len| u64::from(len)).max().unwrap();
        assert!(
            run_len <= (4 << 20).max(longest),
            "a registry read is too long"
        );
        self.at(
            at,
            Event::ToNode(
                host,
                Input::RegistryEnd {
                    read,
                    failure: None,
                },
            ),
        );
    }
}
