//! A scenario: which hosts there are, what they read, what goes wrong. A TOML file; `benches/scenarios` has examples.
//!
//! A key that nobody knows is an error: a misspelt one would give figures of another swarm than the one meant.

use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use thiserror::Error;

use crate::rate::Rate;

pub(crate) use policy::PolicyTerms;

mod check;
mod policy;

/// What is wrong with a scenario.
#[derive(Debug, Error)]
pub enum ScenarioError {
    /// Not TOML, or a value of the wrong kind.
    #[error("the scenario cannot be read: {0}")]
    Syntax(String),
    /// Keys that nobody knows.
    #[error("unknown key `{}`", .0.join("`, `"))]
    Unknown(Vec<String>),
    /// A value that makes no sense.
    #[error("`{key}` is {value}, which must be {must}")]
    Range {
        /// Full name of the key.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it must be.
        must: &'static str,
    },
}

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
pub struct Scenario {
    /// What it shows, in a sentence.
    #[serde(default)]
    pub about: String,
    /// Seed of everything that is random in it. 1.
    #[serde(default = "one")]
    pub seed: u64,
    /// Virtual time after which it ends, ready or not. 120 s.
    #[serde(default = "two_minutes", with = "humantime_serde")]
    pub limit: Duration,
    /// The image.
    pub image: ImageTerms,
    /// The hosts.
    pub hosts: HostTerms,
    /// The containers on them.
    #[serde(default)]
    pub containers: ContainerTerms,
    /// The registry.
    #[serde(default)]
    pub registry: RegistryTerms,
    /// The tracker.
    #[serde(default)]
    pub tracker: TrackerTerms,
    /// Links between zones, if there are several.
    #[serde(default)]
    pub between_zones: Option<BetweenTerms>,
    /// What goes wrong.
    #[serde(default)]
    pub trouble: TroubleTerms,
    /// Numbers of the decisions that are not to be the usual ones, to see what they are worth.
    #[serde(default)]
    pub(crate) policy: PolicyTerms,
}

/// The image.
#[derive(Clone, Debug, Deserialize)]
pub struct ImageTerms {
    /// Stored bytes.
    pub len: ByteSize,
    /// Stored bytes that a start reads: the working set. All of it by default.
    #[serde(default)]
    pub working_set: Option<ByteSize>,
    /// Stored bytes of a chunk. 256 KiB.
    #[serde(default = "chunk_len")]
    pub chunk: ByteSize,
    /// Layers, all of one length. 1.
    #[serde(default = "one_u32")]
    pub layers: u32,
    /// Chunks of the working set that lie side by side, in the middle. 8.
    #[serde(default = "eight")]
    pub run: u32,
}

/// The hosts.
#[derive(Clone, Debug, Deserialize)]
pub struct HostTerms {
    /// How many.
    pub count: u32,
    /// Speed of each one's link out.
    pub up: Rate,
    /// Speed of each one's link in. As out.
    #[serde(default)]
    pub down: Option<Rate>,
    /// One way between two hosts of a zone. 100 µs.
    #[serde(default = "latency", with = "humantime_serde")]
    pub latency: Duration,
    /// A connection with another host takes so long to set up. 2 ms.
    #[serde(default = "handshake", with = "humantime_serde")]
    pub handshake: Duration,
    /// Zones, of equally many hosts. 1.
    #[serde(default = "one_u32")]
    pub zones: u32,
    /// Hosts in a rack; 0 for no racks.
    #[serde(default)]
    pub rack: u32,
    /// Time of a host's processor to verify a chunk, keep it, and decompress it. 150 µs.
    #[serde(default = "verify", with = "humantime_serde")]
    pub verify: Duration,
    /// Bytes that a connection has on its way at most. 256 KiB.
    #[serde(default = "chunk_len")]
    pub window: ByteSize,
    /// Bytes that a link sends of one connection before the next has its turn. 64 KiB.
    #[serde(default = "piece")]
    pub turn: ByteSize,
}

/// Containers, which all start the same image.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct ContainerTerms {
    /// On each host. 1.
    pub per_host: u32,
    /// In all, if it does not come out even: the first hosts have one more.
    pub count: Option<u32>,
    /// They start at random within this. 50 ms.
    #[serde(with = "humantime_serde")]
    pub start_within: Duration,
    /// Reads that a container has outstanding: its demand. 4.
    pub window: u32,
    /// Chunks that the agent has on their way ahead of the containers, by the trace; 0 for none. 32.
    pub prefetch: u32,
    /// Chunks of a file. A container's reads are then those of `window` readers that go through files in order,
    /// one after the other, and the agent knows no trace: it reads ahead as the real one does, at most `prefetch`
    /// chunks. 0: reads know no files.
    pub file: u32,
    /// A container works so long on each chunk before it reads on. 0.
    #[serde(with = "humantime_serde")]
    pub think: Duration,
    /// Time of a start that is not the swarm's: what is measured with everything local. Added to each. 0.
    #[serde(with = "humantime_serde")]
    pub constant: Duration,
}

impl Default for ContainerTerms {
    fn default() -> Self {
        Self {
            per_host: 1,
            count: None,
            start_within: Duration::from_millis(50),
            window: 4,
            prefetch: 32,
            file: 0,
            think: Duration::ZERO,
            constant: Duration::ZERO,
        }
    }
}

/// The registry.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct RegistryTerms {
    /// Speed of its link. 10gbit.
    pub rate: Rate,
    /// From request to first byte. 20 ms.
    #[serde(with = "humantime_serde")]
    pub latency: Duration,
    /// Reads that it serves at once; more are refused with 429. 0 for no limit.
    pub reads: u32,
    /// What a refusal asks to wait. 1 s.
    #[serde(with = "humantime_serde")]
    pub retry_after: Duration,
    /// It is gone from then on.
    #[serde(with = "humantime_serde")]
    pub lost_at: Option<Duration>,
}

impl Default for RegistryTerms {
    fn default() -> Self {
        Self {
            rate: Rate::TEN_GBIT,
            latency: Duration::from_millis(20),
            reads: 0,
            retry_after: Duration::from_secs(1),
            lost_at: None,
        }
    }
}

/// The tracker.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct TrackerTerms {
    /// There is none at all.
    pub absent: bool,
    /// One way to it. 200 µs.
    #[serde(with = "humantime_serde")]
    pub latency: Duration,
    /// Time of its processor for a message. 20 µs.
    #[serde(with = "humantime_serde")]
    pub service: Duration,
    /// The same for each stripe that a message asks about. 8 µs.
    #[serde(with = "humantime_serde")]
    pub stripe_service: Duration,
    /// Speed of its link. 1gbit.
    pub rate: Rate,
    /// It is gone from then on.
    #[serde(with = "humantime_serde")]
    pub lost_at: Option<Duration>,
    /// It is back, and knows nothing.
    #[serde(with = "humantime_serde")]
    pub back_at: Option<Duration>,
    /// It has a seed, with a link as fast as its own.
    pub seed: bool,
}

impl Default for TrackerTerms {
    fn default() -> Self {
        Self {
            absent: false,
            latency: Duration::from_micros(200),
            service: Duration::from_micros(20),
            stripe_service: Duration::from_micros(8),
            rate: Rate::GBIT,
            lost_at: None,
            back_at: None,
            seed: false,
        }
    }
}

/// Links between zones: one each way between any two.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct BetweenTerms {
    /// Speed of each.
    pub rate: Rate,
    /// One way.
    #[serde(with = "humantime_serde")]
    pub latency: Duration,
}

/// What goes wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct TroubleTerms {
    /// Part of the hosts that are slow.
    pub slow: f64,
    /// Their links out are so many times slower. 20.
    pub slower: u32,
    /// Part of the hosts that die.
    pub dying: f64,
    /// Each within this of the first start. 2 s.
    #[serde(with = "humantime_serde")]
    pub die_within: Duration,
    /// The others notice after this that one is dead. 3 s.
    #[serde(with = "humantime_serde")]
    pub noticed_after: Duration,
    /// Hosts that send wrong chunks.
    pub liars: u32,
    /// One host's agent after the other restarts, so far apart; what is in its store stays.
    #[serde(with = "humantime_serde")]
    pub restart_every: Option<Duration>,
}

impl Default for TroubleTerms {
    fn default() -> Self {
        Self {
            slow: 0.0,
            slower: 20,
            dying: 0.0,
            die_within: Duration::from_secs(2),
            noticed_after: Duration::from_secs(3),
            liars: 0,
            restart_every: None,
        }
    }
}

impl Scenario {
    /// Reads a scenario and checks it.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| ScenarioError::Syntax(error.to_string()))?;
        let mut unknown = Vec::new();
        let scenario: Self = serde_ignored::deserialize(toml::Value::Table(table), |path| {
            unknown.push(path.to_string());
        })
        .map_err(|error| ScenarioError::Syntax(error.to_string().trim().to_owned()))?;
        if !unknown.is_empty() {
            return Err(ScenarioError::Unknown(unknown));
        }
        scenario.check()?;
        Ok(scenario)
    }

    /// Chunks in the image: as many in each layer.
    pub(crate) fn chunk_count(&self) -> u32 {
        let chunks = self
            .image
            .len
            .as_u64()
            .div_ceil(self.image.chunk.as_u64().max(1));
        let layers = u64::from(self.image.layers.max(1));
        u32::try_from(chunks.div_ceil(layers) * layers).unwrap_or(u32::MAX)
    }

    /// Chunks in the working set.
    pub(crate) fn working_set_count(&self) -> u32 {
        let len = self.image.working_set.unwrap_or(self.image.len).as_u64();
        let chunks = len.div_ceil(self.image.chunk.as_u64().max(1));
        u32::try_from(chunks)
            .unwrap_or(u32::MAX)
            .min(self.chunk_count())
    }
}

const fn one() -> u64 {
    1
}

const fn one_u32() -> u32 {
    1
}

const fn eight() -> u32 {
    8
}

const fn two_minutes() -> Duration {
    Duration::from_mins(2)
}

const fn chunk_len() -> ByteSize {
    ByteSize::kib(256)
}

const fn piece() -> ByteSize {
    ByteSize::kib(64)
}

const fn latency() -> Duration {
    Duration::from_micros(100)
}

const fn handshake() -> Duration {
    Duration::from_millis(2)
}

const fn verify() -> Duration {
    Duration::from_micros(150)
}
