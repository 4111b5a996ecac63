//! What can go wrong between us and a registry, told apart by what one would do about it.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use tranship_format::{ByteRange, Digest};

use super::hosts::HostsError;
use crate::credentials::CredentialsError;
use crate::manifest::ManifestError;
use crate::reference::{ManifestSelector, RepoRef};
use crate::verdict::Verdict;

/// How long to leave a registry alone after a failure that passes by itself.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// A request to a registry that did not succeed; the source says why, and is a [`RegistryFailure`].
#[derive(Debug)]
pub struct RegistryError(Box<Failed>);

#[derive(Debug)]
struct Failed {
    request: Request,
    failure: RegistryFailure,
}

// Written by hand, because a derived source would be the box and not what is in it.
impl Error for RegistryError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0.failure)
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {}", self.0.request)
    }
}

impl RegistryError {
    pub(super) fn new(request: &Request, failure: impl Into<RegistryFailure>) -> Self {
        Self(Box::new(Failed {
            request: request.clone(),
            failure: failure.into(),
        }))
    }

    /// What was asked of whom.
    pub fn request(&self) -> &Request {
        &self.0.request
    }

    /// Why it failed.
    pub fn failure(&self) -> &RegistryFailure {
        &self.0.failure
    }

    /// What to do next.
    pub fn verdict(&self) -> Verdict {
        self.0.failure.verdict()
    }
}

/// One thing asked of a registry, as errors and logs name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The registry and the repository.
    pub repo: RepoRef,
    /// The deed.
    pub verb: Verb,
}

/// What is asked of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// See whether the registry answers and lets us in.
    Ping,
    /// List the tags.
    ListTags,
    /// Read a manifest.
    ReadManifest(ManifestSelector),
    /// Look whether a manifest is there.
    FindManifest(ManifestSelector),
    /// Read a whole blob.
    ReadBlob(Digest),
    /// Read some bytes of a blob.
    ReadRange(Digest, ByteRange),
    /// Look whether a blob is there.
    FindBlob(Digest),
    /// Upload a blob.
    PushBlob(Digest),
    /// Take a blob over from another repository of the registry.
    MountBlob(Digest, RepoRef),
    /// Upload a manifest.
    PushManifest(ManifestSelector),
    /// List the manifests that refer to one.
    ListReferrers(Digest),
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let repo = &self.repo;
        match &self.verb {
            Verb::Ping => write!(f, "reach registry {}", repo.host()),
            Verb::ListTags => write!(f, "list the tags of {repo}"),
            Verb::ReadManifest(which) => write!(f, "read manifest {which} of {repo}"),
            Verb::FindManifest(which) => write!(f, "look for manifest {which} in {repo}"),
            Verb::ReadBlob(digest) => write!(f, "read blob {digest} of {repo}"),
            Verb::ReadRange(digest, range) => write!(
                f,
                "read bytes {}..{} of blob {digest} of {repo}",
                range.start, range.end
            ),
            Verb::FindBlob(digest) => write!(f, "look for blob {digest} in {repo}"),
            Verb::PushBlob(digest) => write!(f, "push blob {digest} to {repo}"),
            Verb::MountBlob(digest, from) => {
                write!(f, "mount blob {digest} of {from} into {repo}")
            }
            Verb::PushManifest(which) => write!(f, "push manifest {which} to {repo}"),
            Verb::ListReferrers(subject) => {
                write!(f, "list what refers to {subject} in {repo}")
            }
        }
    }
}

/// Why a registry request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryFailure {
    /// 404.
    #[error("the registry answered 404: it does not have it{0}; check the reference")]
    NotFound(Detail),
    /// 401 although we showed what we have.
    #[error(
        "the registry answered 401: it wants credentials{0}; log in to it, or give the docker configuration that holds them"
    )]
    Unauthorized(Detail),
    /// 403 although we showed what we have.
    #[error("the registry answered 403: these credentials do not permit it{0}")]
    Denied(Detail),
    /// 200 where 206 was asked for: whoever answers does not serve ranges. The whole blob can still be streamed.
    #[error("the registry ignores ranges: it answered 200 with the whole blob")]
    RangeIgnored,
    /// 416, or the blob ended within the range.
    #[error("the range lies beyond the end of the blob")]
    RangeNotSatisfiable,
    /// 429.
    #[error("the registry answered 429: too many requests{detail}")]
    TooManyRequests {
        /// How long it asks us to wait, if it says.
        retry_after: Option<Duration>,
        /// What it says.
        detail: Detail,
    },
    /// 5xx.
    #[error("the registry answered {status}{detail}")]
    Server {
        /// The status.
        status: u16,
        /// How long it asks us to wait, if it says.
        retry_after: Option<Duration>,
        /// What it says.
        detail: Detail,
    },
    /// Any other status that the request has no use for.
    #[error("the registry answered {status}, which has no meaning here{detail}")]
    UnexpectedStatus {
        /// The status.
        status: u16,
        /// What it says.
        detail: Detail,
    },
    /// Nothing came for this long.
    #[error("nothing came from {host} for {waited:?} while waiting for {what}")]
    TimedOut {
        /// The host that was silent.
        host: String,
        /// What we were waiting for.
        what: &'static str,
        /// How long.
        waited: Duration,
    },
    /// The connection could not be made or broke.
    #[error("the connection to {host} failed")]
    Transport {
        /// The host at the other end.
        host: String,
        /// What broke.
        #[source]
        source: reqwest::Error,
    },
    /// TLS could not be agreed on: an unknown certificate, or no TLS at the other end.
    #[error(
        "TLS with {host} failed; if its certificate is private, give it as an extra root; if it speaks plain HTTP, allow that for this host"
    )]
    Tls {
        /// The host at the other end.
        host: String,
        /// What TLS found.
        #[source]
        source: reqwest::Error,
    },
    /// Fewer bytes came than were promised.
    #[error("the answer ended after {got} of {wanted} bytes")]
    ShortBody {
        /// Bytes that came.
        got: u64,
        /// Bytes that should have come.
        wanted: u64,
    },
    /// More bytes came than can be right.
    #[error("the answer is longer than {limit} bytes, the most that belongs here")]
    LongBody {
        /// The most that was acceptable.
        limit: u64,
    },
    /// The bytes are not the ones that were asked for.
    #[error("the bytes have digest {got}, not {wanted}: whoever sent them is broken or lies")]
    WrongDigest {
        /// What was asked for.
        wanted: Digest,
        /// What came.
        got: Digest,
    },
    /// The answer breaks the protocol.
    #[error("the answer breaks the protocol: {0}")]
    Malformed(String),
    /// A redirect that must not be followed.
    #[error("redirect to {to} refused: {why}")]
    BadRedirect {
        /// Where it leads, without its query, which may hold a signature.
        to: String,
        /// Why not.
        why: &'static str,
    },
    /// Credentials could not be had.
    #[error("could not get credentials")]
    Credentials(#[from] CredentialsError),
    /// The token service did not give us a token.
    #[error(transparent)]
    Token(TokenError),
    /// A manifest that is none.
    #[error("the manifest cannot be used")]
    Manifest(#[from] ManifestError),
    /// The bytes to push could not be read here.
    #[error("could not read the bytes to push")]
    ReadSource(#[source] std::io::Error),
    /// What a directory of hosts says of the registry cannot be used.
    #[error("the registry's hosts cannot be used; correct the file, or take its folder away")]
    Hosts(#[from] HostsError),
    /// A file of hosts gives nobody this work.
    #[error("of the hosts of {registry} none may be asked to {what}; correct their capabilities")]
    NoHost {
        /// The registry.
        registry: String,
        /// What for.
        what: &'static str,
    },
    /// The HTTP client could not be set up.
    #[error("could not set up the HTTP client")]
    Setup(#[source] reqwest::Error),
}

impl RegistryFailure {
    /// How long the registry, or its token service, is to be left alone, if it asks for that.
    pub fn asked_pause(&self) -> Option<Duration> {
        match self {
            // Too many requests are too many whether it says how long or not: whoever read on would be refused as well.
            Self::TooManyRequests { retry_after, .. } => {
                Some(retry_after.unwrap_or(PAUSE_AFTER_FAILURE))
            }
            Self::Server { retry_after, .. } => *retry_after,
            Self::Token(error) => error.failure.asked_pause(),
            _ => None,
        }
    }

    /// Whether somebody else might have been let in.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Unauthorized(_) | Self::Denied(_) => true,
            Self::Token(error) => error.failure.is_refusal(),
            _ => false,
        }
    }

    /// What to do next.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::TooManyRequests { retry_after, .. } | Self::Server { retry_after, .. } => {
                Verdict::TryAgain {
                    after: retry_after.unwrap_or(PAUSE_AFTER_FAILURE),
                }
            }
            Self::TimedOut { .. } | Self::Transport { .. } | Self::ShortBody { .. } => {
                Verdict::TryAgain {
                    after: PAUSE_AFTER_FAILURE,
                }
            }
            Self::Token(error) => error.failure.verdict(),
            Self::WrongDigest { .. } => Verdict::Ban,
            Self::NotFound(_)
            | Self::Unauthorized(_)
            | Self::Denied(_)
            | Self::RangeIgnored
            | Self::UnexpectedStatus { .. }
            | Self::LongBody { .. }
            | Self::Malformed(_)
            | Self::BadRedirect { .. }
            | Self::Tls { .. }
            | Self::Credentials(_)
            | Self::Hosts(_)
            | Self::NoHost { .. }
            | Self::Setup(_) => Verdict::TryElsewhere,
            Self::RangeNotSatisfiable | Self::Manifest(_) | Self::ReadSource(_) => Verdict::GiveUp,
        }
    }
}

/// A token service that did not give a token; the source says why, and is a [`RegistryFailure`].
#[derive(Debug)]
pub struct TokenError {
    pub(super) realm: String,
    pub(super) failure: Box<RegistryFailure>,
}

impl Error for TokenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.failure)
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not get a token from {}", self.realm)
    }
}

/// What the registry says about an error, printed as `: text` or as nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail(pub(super) Option<String>);

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(text) => write!(f, " ({text})"),
            None => Ok(()),
        }
    }
}
