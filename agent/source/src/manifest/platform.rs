//! Which image of an index a machine runs.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use oci_spec::image::Arch;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Descriptor, ManifestError, media_type};

/// What an image runs on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    /// Processor architecture, in Go's names (`amd64`, `arm64`).
    pub architecture: String,
    /// Operating system, in Go's names.
    pub os: String,
    /// Version of the operating system, where it matters.
    #[serde(
        default,
        rename = "os.version",
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
    /// What the image needs of its host beyond the rest; the host must have every one.
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Version of the architecture (`v7`, `v8`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Fields that are not ours to know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Platform {
    /// Linux on this architecture, in any variant that its plainest machine runs.
    pub fn linux(architecture: &str) -> Self {
        Self {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            os_version: None,
            os_features: Vec::new(),
            variant: None,
            other: Map::new(),
        }
    }

    /// Linux on the architecture that this program was built for.
    pub fn of_this_machine() -> Self {
        Self::linux(&Arch::default().to_string())
    }

    /// Whether it is `unknown/unknown`, as on attestations.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }

    /// How well a host of this platform runs images of `image`; greater is better, `None` is not at all.
    fn suits(&self, image: &Self) -> Option<(u32, usize)> {
        let same =
            self.os == image.os && go_name(&self.architecture) == go_name(&image.architecture);
        let has_features = image
            .os_features
            .iter()
            .all(|feature| self.os_features.contains(feature));
        let variant = image.variant_number();
        (same && has_features && variant <= self.variant_number())
            .then_some((variant, image.os_features.len()))
    }

    /// The number in `v7`; what the plainest machine of the architecture has, where it is not named.
    fn variant_number(&self) -> u32 {
        let named = self
            .variant
            .as_deref()
            .and_then(|variant| variant.strip_prefix('v')?.parse().ok());
        named.unwrap_or(match go_name(&self.architecture) {
            "arm64" => 8,
            "arm" => 7,
            _ => 1,
        })
    }
}

/// Go's name for an architecture that may be written in the kernel's way.
fn go_name(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if let Some(variant) = &self.variant {
            write!(f, "/{variant}")?;
        }
        for feature in &self.os_features {
            write!(f, "+{feature}")?;
        }
        Ok(())
    }
}

/// Text that is not a platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a platform: write OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/arm64"
)]
pub struct ParsePlatformError(String);

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('/');
        let (os, architecture, variant) = (parts.next(), parts.next(), parts.next());
        let well_formed = text.split('/').all(|part| !part.is_empty()) && parts.next().is_none();
        match (os, architecture) {
            (Some(os), Some(architecture)) if well_formed => Ok(Self {
                os: os.to_owned(),
                variant: variant.map(str::to_owned),
                ..Self::linux(go_name(architecture))
            }),
            _ => Err(ParsePlatformError(text.to_owned())),
        }
    }
}

/// The best image for `wanted`: the closest variant, then the most features, then the author's order.
pub(super) fn select<'a>(
    manifests: &'a [Descriptor],
    wanted: &Platform,
) -> Result<&'a Descriptor, ManifestError> {
    let images = || manifests.iter().filter(|entry| !entry.is_attestation());
    let best = images()
        .filter_map(|entry| Some((wanted.suits(entry.platform.as_ref()?)?, entry)))
        .min_by_key(|(fit, _)| Reverse(*fit))
        .map(|(_, entry)| entry);
    if let Some(entry) = best {
        return Ok(entry);
    }
    // An index of one image that names no platform leaves no choice to make.
    let mut all = images().filter(|entry| {
        media_type::is_manifest(&entry.media_type) || media_type::is_index(&entry.media_type)
    });
    match (all.next(), all.next()) {
        (Some(only), None) if only.platform.is_none() => Ok(only),
        _ => Err(ManifestError::NoSuchPlatform {
            wanted: wanted.to_string(),
            offered: offered(images()),
        }),
    }
}

fn offered<'a>(images: impl Iterator<Item = &'a Descriptor>) -> String {
    let mut names: Vec<String> = images
        .filter_map(|entry| entry.platform.as_ref().map(Platform::to_string))
        .collect();
    names.dedup();
    if names.is_empty() {
        return "none".to_owned();
    }
    names.join(", ")
}
