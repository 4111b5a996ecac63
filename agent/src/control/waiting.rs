//! What reads of a device do that no source serves, and those that wait, as they are written in messages and settings.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use humantime_serde::re::humantime;
use serde::{Deserialize, Serialize};

/// What a read does that no source serves: `wait`, `wait=30s` or `error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Unserved {
    /// It waits for the sources to come back, for as long as given or as the configuration says; then it fails.
    Wait(Option<Duration>),
    /// It fails as soon as the sources were asked and none gave the bytes.
    Error,
}

impl Default for Unserved {
    fn default() -> Self {
        Self::Wait(None)
    }
}

impl fmt::Display for Unserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait(None) => f.write_str("wait"),
            Self::Wait(Some(deadline)) => {
                write!(f, "wait={}", humantime::format_duration(*deadline))
            }
            Self::Error => f.write_str("error"),
        }
    }
}

impl FromStr for Unserved {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!("{text:?} is neither error, nor wait, nor wait with a time, such as wait=30s")
        };
        match text {
            "error" => Ok(Self::Error),
            "wait" => Ok(Self::Wait(None)),
            _ => {
                let time = text.strip_prefix("wait=").ok_or_else(refused)?;
                let deadline = humantime::parse_duration(time).map_err(|_| refused())?;
                Ok(Self::Wait(Some(deadline)))
            }
        }
    }
}

impl TryFrom<String> for Unserved {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Unserved> for String {
    fn from(unserved: Unserved) -> Self {
        unserved.to_string()
    }
}

/// Reads of a device that hang because no source gives their chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitInfo {
    /// How many.
    pub count: u32,
    /// How long the longest has, in milliseconds.
    pub longest_ms: u64,
    /// Digest of the blob that it reads.
    pub blob: String,
    /// The chunk's number in the blob.
    pub chunk: u32,
    /// What was tried, and what came of it.
    pub tried: String,
}

/// Something in the kernel or with the keeper that is ours and that no device knows of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanInfo {
    /// `mount`, `loop` or `kept`.
    pub kind: String,
    /// The device to which it belonged.
    pub device: String,
    /// The mount point, the block device, or the name with the keeper.
    pub what: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_and_others_are_named() {
        for text in ["wait", "error", "wait=30s", "wait=1m 5s"] {
            assert_eq!(text.parse::<Unserved>().unwrap().to_string(), text);
        }
        for text in ["", "wait=", "wait=soon", "Error"] {
            let refused = text.parse::<Unserved>().unwrap_err();
            assert!(refused.contains("wait=30s"), "{refused}");
        }
    }
}
