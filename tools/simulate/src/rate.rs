//! The speed of a link, as people write it: `200mbit`, `1gbit`, `25MB/s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

/// Bytes a second; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate(u64);

impl Rate {
    /// 1 Gbit a second.
    pub const GBIT: Self = Self(125_000_000);
    /// 10 Gbit a second.
    pub const TEN_GBIT: Self = Self(1_250_000_000);

    /// Bytes a second.
    pub const fn bytes_per_second(self) -> u64 {
        self.0
    }

    /// This rate divided by `by`, but never nothing.
    #[must_use]
    pub const fn slower(self, by: u64) -> Self {
        match self.0.checked_div(by) {
            Some(0) | None => Self(1),
            Some(rate) => Self(rate),
        }
    }

    /// How long `bytes` take.
    pub fn time_for(self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// What is wrong with a rate's text.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a rate such as 200mbit, 1gbit, 512kbit or 25MB/s (from 1kbit to 1000gbit)")]
pub struct BadRate(String);

impl FromStr for Rate {
    type Err = BadRate;

    fn from_str(text: &str) -> Result<Self, BadRate> {
        let bad = || BadRate(text.to_owned());
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, unit) = text.split_at(split);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let bits: u64 = match unit.to_ascii_lowercase().as_str() {
            "kbit" | "kbit/s" | "kbps" => 1_000,
            "mbit" | "mbit/s" | "mbps" => 1_000_000,
            "gbit" | "gbit/s" | "gbps" => 1_000_000_000,
            "kb/s" => 8_000,
            "mb/s" => 8_000_000,
            "gb/s" => 8_000_000_000,
            _ => return Err(bad()),
        };
        let bits = number
            .checked_mul(bits)
            .filter(|bits| (1_000..=1_000_000_000_000).contains(bits))
            .ok_or_else(bad)?;
        Ok(Self(bits / 8))
    }
}

impl TryFrom<String> for Rate {
    type Error = BadRate;

    fn try_from(text: String) -> Result<Self, BadRate> {
        text.parse()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0 * 8;
        match bits {
            _ if bits.is_multiple_of(1_000_000_000) => write!(f, "{}gbit", bits / 1_000_000_000),
            _ if bits.is_multiple_of(1_000_000) => write!(f, "{}mbit", bits / 1_000_000),
            _ => write!(f, "{}kbit", bits / 1_000),
        }
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_round_trip() {
        for text in ["200mbit", "1gbit", "512kbit"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        assert_eq!("25MB/s".parse::<Rate>().unwrap().to_string(), "200mbit");
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in [
            "",
            "200",
            "mbit",
            "0mbit",
            "-1mbit",
            "1tbit",
            "99999999999gbit",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn time_follows_the_rate() {
        let rate: Rate = "8mbit".parse().unwrap();
        assert_eq!(rate.time_for(1_000_000), Duration::from_secs(1));
    }
}
