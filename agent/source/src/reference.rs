//! Where an image is: in a registry, in an OCI layout directory, or in an archive of one.
//!
//! People type references, so a wrong one must say which part is wrong. Parsing happens once, here;
//! behind it the parts are types, and printing a reference gives text that parses to the same one.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use tranship_format::Digest;

mod repo;

pub use repo::RepoRef;

/// The longest tag the distribution specification allows, in bytes.
const TAG_LEN_MAX: usize = 128;

/// The tag meant when a reference names neither tag nor digest, as everywhere in the container world.
const DEFAULT_TAG: &str = "latest";

/// A user's name for an image, with the kind of place it lies in.
///
/// ```
/// use tranship_source::ImageReference;
///
/// let reference: ImageReference = "docker://127.0.0.1:5000/team/app:v1".parse()?;
/// assert_eq!(reference.to_string(), "docker://127.0.0.1:5000/team/app:v1");
/// let short: ImageReference = "busybox".parse()?;
/// assert_eq!(short.to_string(), "docker://docker.io/library/busybox");
/// # Ok::<(), tranship_source::ParseReferenceError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageReference {
    /// `docker://HOST[:PORT]/REPO[:TAG][@sha256:…]`, or the same without `docker://`.
    Registry(RegistryReference),
    /// `oci:DIR[:TAG][@sha256:…]`, a directory in the OCI image layout.
    OciDir(LayoutReference),
    /// `oci-archive:FILE[:TAG][@sha256:…]`, a tar of such a directory.
    OciArchive(LayoutReference),
}

/// An image in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryReference {
    /// Host and repository.
    pub repo: RepoRef,
    /// The tag, if one was named.
    pub tag: Option<String>,
    /// The digest, if one was named; it decides, and the tag is then talk.
    pub digest: Option<Digest>,
}

impl RegistryReference {
    /// What to ask the registry for: the digest, else the tag, else `latest`.
    pub fn selector(&self) -> ManifestSelector {
        match (self.digest, &self.tag) {
            (Some(digest), _) => ManifestSelector::Digest(digest),
            (None, Some(tag)) => ManifestSelector::Tag(tag.clone()),
            (None, None) => ManifestSelector::Tag(DEFAULT_TAG.to_owned()),
        }
    }
}

/// An image in an OCI layout on disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LayoutReference {
    /// The directory or the archive file. It holds no `:`, which ends a path in a reference.
    pub path: PathBuf,
    /// The value of `org.opencontainers.image.ref.name` to look for, if one was named.
    pub tag: Option<String>,
    /// The digest to look for in `index.json`, if one was named.
    pub digest: Option<Digest>,
}

impl LayoutReference {
    /// What to look for in `index.json`; `None` means "the only image there".
    pub fn selector(&self) -> Option<ManifestSelector> {
        match (self.digest, &self.tag) {
            (Some(digest), _) => Some(ManifestSelector::Digest(digest)),
            (None, Some(tag)) => Some(ManifestSelector::Tag(tag.clone())),
            (None, None) => None,
        }
    }
}

/// One manifest of a repository or a layout, by name or by content.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ManifestSelector {
    /// A tag: it may mean another manifest tomorrow.
    Tag(String),
    /// A digest: it means the same bytes for ever.
    Digest(Digest),
}

impl From<Digest> for ManifestSelector {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

impl fmt::Display for ManifestSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// Text that is not an image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image reference")]
pub struct ParseReferenceError {
    text: String,
    #[source]
    problem: ReferenceProblem,
}

impl ParseReferenceError {
    /// What is wrong with it.
    pub fn problem(&self) -> &ReferenceProblem {
        &self.problem
    }
}

/// What is wrong with a reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceProblem {
    /// Nothing was written where a repository or a path belongs.
    #[error("it names no repository and no path")]
    Empty,
    /// A web address was given.
    #[error("{0}:// does not begin a reference; write docker://HOST/REPOSITORY:TAG")]
    WebAddress(String),
    /// The host part cannot be a host.
    #[error("{0:?} is no host name: letters, digits, dots and hyphens, then perhaps :PORT")]
    Host(String),
    /// The repository part breaks the distribution specification's grammar.
    #[error(
        "{0:?} is no repository name: lower-case letters and digits, parted by one of . _ __ - or /, at most 255 bytes"
    )]
    Repository(String),
    /// The tag part breaks the grammar.
    #[error(
        "{0:?} is no tag: letters, digits, _ . and -, not beginning with . or -, at most 128 bytes"
    )]
    Tag(String),
    /// The digest part is not one that can be checked.
    #[error("{0:?} is no digest: write sha256: and 64 lower-case hexadecimal digits")]
    Digest(String),
}

impl FromStr for ImageReference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = if let Some(rest) = text.strip_prefix("docker://") {
            parse_registry(rest).map(Self::Registry)
        } else if let Some(rest) = text.strip_prefix("oci-archive:") {
            parse_layout(rest).map(Self::OciArchive)
        } else if let Some(rest) = text.strip_prefix("oci:") {
            parse_layout(rest).map(Self::OciDir)
        } else if let Some((scheme, _)) = text.split_once("://") {
            Err(ReferenceProblem::WebAddress(scheme.to_owned()))
        } else {
            parse_registry(text).map(Self::Registry)
        };
        parsed.map_err(|problem| ParseReferenceError {
            text: text.to_owned(),
            problem,
        })
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => write!(f, "docker://{reference}"),
            Self::OciDir(reference) => write!(f, "oci:{reference}"),
            Self::OciArchive(reference) => write!(f, "oci-archive:{reference}"),
        }
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repo.fmt(f)?;
        fmt_selection(f, self.tag.as_deref(), self.digest.as_ref())
    }
}

impl fmt::Display for LayoutReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        fmt_selection(f, self.tag.as_deref(), self.digest.as_ref())
    }
}

fn fmt_selection(
    f: &mut fmt::Formatter<'_>,
    tag: Option<&str>,
    digest: Option<&Digest>,
) -> fmt::Result {
    if let Some(tag) = tag {
        write!(f, ":{tag}")?;
    }
    if let Some(digest) = digest {
        write!(f, "@{digest}")?;
    }
    Ok(())
}

fn parse_registry(text: &str) -> Result<RegistryReference, ReferenceProblem> {
    let (name, digest) = split_digest(text)?;
    // A colon before the last slash is a port.
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(parse_tag(tag)?)),
        _ => (name, None),
    };
    Ok(RegistryReference {
        repo: repo::parse(name)?,
        tag,
        digest,
    })
}

fn parse_layout(text: &str) -> Result<LayoutReference, ReferenceProblem> {
    let (name, digest) = split_layout_digest(text)?;
    let (path, tag) = match name.split_once(':') {
        Some((path, tag)) => (path, Some(parse_ref_name(tag)?)),
        None => (name, None),
    };
    if path.is_empty() {
        return Err(ReferenceProblem::Empty);
    }
    Ok(LayoutReference {
        path: PathBuf::from(path),
        tag,
        digest,
    })
}

fn split_digest(text: &str) -> Result<(&str, Option<Digest>), ReferenceProblem> {
    match text.split_once('@') {
        None => Ok((text, None)),
        Some((name, digest)) => Ok((name, Some(parse_digest(digest)?))),
    }
}

/// Paths and names in layouts may hold an `@` of their own, so only one before `sha256:` counts.
fn split_layout_digest(text: &str) -> Result<(&str, Option<Digest>), ReferenceProblem> {
    match text.rsplit_once('@') {
        Some((name, digest)) if digest.starts_with("sha256:") => {
            Ok((name, Some(parse_digest(digest)?)))
        }
        _ => Ok((text, None)),
    }
}

fn parse_digest(text: &str) -> Result<Digest, ReferenceProblem> {
    text.parse()
        .map_err(|_| ReferenceProblem::Digest(text.to_owned()))
}

/// The distribution specification's tag grammar.
fn parse_tag(tag: &str) -> Result<String, ReferenceProblem> {
    let inside = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let good = tag.len() <= TAG_LEN_MAX
        && tag.bytes().all(inside)
        && !tag.is_empty()
        && !tag.starts_with(['.', '-']);
    if good {
        Ok(tag.to_owned())
    } else {
        Err(ReferenceProblem::Tag(tag.to_owned()))
    }
}

/// A layout's reference name may be a tag or a whole reference: `docker.io/library/busybox:1.36`.
fn parse_ref_name(name: &str) -> Result<String, ReferenceProblem> {
    let inside = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b':' | b'@' | b'/' | b'+')
    };
    if !name.is_empty() && name.bytes().all(inside) {
        Ok(name.to_owned())
    } else {
        Err(ReferenceProblem::Tag(name.to_owned()))
    }
}

#[cfg(test)]
mod tests;
