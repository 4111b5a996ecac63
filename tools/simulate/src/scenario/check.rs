//! Which values of a scenario make sense: each that does not is named, with what it must be.

use super::{Scenario, ScenarioError};

/// Most hosts.
const MAX_HOSTS: u32 = 100_000;
/// Most chunks in the image.
const MAX_CHUNKS: u64 = 1 << 20;

impl Scenario {
    pub(super) fn check(&self) -> Result<(), ScenarioError> {
        self.check_image()?;
        self.check_hosts()?;
        self.check_rest()
    }

    fn check_image(&self) -> Result<(), ScenarioError> {
        let image = &self.image;
        let chunk = image.chunk.as_u64();
        range(
            (4_096..=(16 << 20)).contains(&chunk),
            "image.chunk",
            image.chunk.to_string(),
            "from 4 KiB to 16 MiB",
        )?;
        let chunks = image.len.as_u64().div_ceil(chunk);
        range(
            (1..=MAX_CHUNKS).contains(&chunks),
            "image.len",
            image.len.to_string(),
            "from one chunk to 1,048,576 chunks",
        )?;
        let set = image.working_set.unwrap_or(image.len);
        range(
            set.as_u64() > 0 && set <= image.len,
            "image.working_set",
            set.to_string(),
            "more than nothing and at most `image.len`",
        )?;
        range(
            image.layers > 0 && u64::from(image.layers) <= chunks,
            "image.layers",
            image.layers.to_string(),
            "from 1 to the number of chunks",
        )?;
        range(
            image.run > 0,
            "image.run",
            image.run.to_string(),
            "at least 1",
        )
    }

    fn check_hosts(&self) -> Result<(), ScenarioError> {
        let hosts = &self.hosts;
        range(
            (1..=MAX_HOSTS).contains(&hosts.count),
            "hosts.count",
            hosts.count.to_string(),
            "from 1 to 100,000",
        )?;
        range(
            (1..=256).contains(&hosts.zones) && hosts.zones <= hosts.count,
            "hosts.zones",
            hosts.zones.to_string(),
            "from 1 to 256, and at most `hosts.count`",
        )?;
        range(
            hosts.turn.as_u64() >= 1_500,
            "hosts.turn",
            hosts.turn.to_string(),
            "at least 1,500 bytes",
        )?;
        range(
            hosts.window >= hosts.turn,
            "hosts.window",
            hosts.window.to_string(),
            "at least `hosts.turn`",
        )
    }

    fn check_rest(&self) -> Result<(), ScenarioError> {
        let (hosts, trouble) = (&self.hosts, &self.trouble);
        let containers = &self.containers;
        range(
            (1..=1_000).contains(&containers.per_host),
            "containers.per_host",
            containers.per_host.to_string(),
            "from 1 to 1,000",
        )?;
        range(
            containers
                .count
                .is_none_or(|n| n >= hosts.count && n <= hosts.count.saturating_mul(1_000)),
            "containers.count",
            containers.count.unwrap_or(0).to_string(),
            "from `hosts.count` to a thousand times that",
        )?;
        range(
            containers.window > 0,
            "containers.window",
            containers.window.to_string(),
            "at least 1",
        )?;
        for (key, part) in [
            ("trouble.slow", trouble.slow),
            ("trouble.dying", trouble.dying),
        ] {
            range(
                (0.0..=1.0).contains(&part),
                key,
                part.to_string(),
                "from 0 to 1",
            )?;
        }
        range(
            trouble.slower > 0,
            "trouble.slower",
            trouble.slower.to_string(),
            "at least 1",
        )?;
        range(
            self.tracker.back_at.is_none() || self.tracker.back_at > self.tracker.lost_at,
            "tracker.back_at",
            format!("{:?}", self.tracker.back_at.unwrap_or_default()),
            "after `tracker.lost_at`",
        )
    }
}

fn range(
    is_right: bool,
    key: &'static str,
    value: String,
    must: &'static str,
) -> Result<(), ScenarioError> {
    if is_right {
        return Ok(());
    }
    Err(ScenarioError::Range { key, value, must })
}
