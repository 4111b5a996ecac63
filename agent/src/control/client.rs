//! The asking side of the control API.
//!
//! Each call opens a connection of its own: calls are rare, an attach may take long, and nothing has to be kept alive
//! between them.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tranship_source::Trace;

use super::http;
use super::message::{
    AttachRequest, DetachReply, DeviceInfo, ErrorReply, MountInfo, MountRequest, Status,
};
use super::waiting::OrphanInfo;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Nobody listens there: the daemon is not running, or at another path.
    #[error("cannot reach the agent at {}", .path.display())]
    Unreachable {
        /// The control socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The exchange broke off or was not HTTP.
    #[error("talking to the agent at {} failed", .path.display())]
    Exchange {
        /// The control socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The daemon answered with an error of its own.
    #[error("{}", .reply.error)]
    Refused {
        /// The HTTP status, which tells the kind of error (404 not found, 409 conflict, 502 the registry's fault …).
        status: u16,
        /// What the daemon said, and what to do.
        reply: ErrorReply,
    },
    /// The daemon's answer is not what this version understands.
    #[error("the agent's answer cannot be read")]
    Answer(#[source] serde_json::Error),
}

impl ControlError {
    /// What to do about it, when there is something to say.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Unreachable { .. } => {
                Some("is tranship-agent running, and is this its control_socket?")
            }
            Self::Refused { reply, .. } if !reply.hint.is_empty() => Some(&reply.hint),
            Self::Refused { .. } | Self::Exchange { .. } | Self::Answer(_) => None,
        }
    }

    /// The HTTP status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Unreachable { .. } | Self::Exchange { .. } | Self::Answer(_) => None,
        }
    }
}

/// Calls the daemon behind one control socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon at `socket`. Nothing is sent yet.
    pub fn connect(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// The control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Makes a device of an image, or shares the one that is there. Answers when the device can be read.
    pub async fn attach(&self, request: &AttachRequest) -> Result<DeviceInfo, ControlError> {
        self.call("POST", "/v1/devices", Some(request)).await
    }

    /// All devices, by id.
    pub async fn devices(&self) -> Result<Vec<DeviceInfo>, ControlError> {
        self.call::<(), _>("GET", "/v1/devices", None).await
    }

    /// Gives up one attach of a device; the last one removes it. Refused (409) while it is mounted.
    pub async fn detach(&self, id: &str) -> Result<DetachReply, ControlError> {
        let target = format!("/v1/devices/{}", encode(id.as_bytes()));
        self.call::<(), _>("DELETE", &target, None).await
    }

    /// Takes a device away at once with all its mounts, whoever shares or reads it; reads that hang fail.
    pub async fn detach_by_force(&self, id: &str) -> Result<DetachReply, ControlError> {
        let target = format!("/v1/devices/{}?force=true", encode(id.as_bytes()));
        self.call::<(), _>("DELETE", &target, None).await
    }

    /// What was read of a device since the daemon has it, in order.
    pub async fn trace(&self, id: &str) -> Result<Trace, ControlError> {
        let target = format!("/v1/devices/{}/trace", encode(id.as_bytes()));
        self.call::<(), _>("GET", &target, None).await
    }

    /// What the kernel or the keeper has of ours that no device knows of.
    pub async fn orphans(&self) -> Result<Vec<OrphanInfo>, ControlError> {
        self.call::<(), _>("GET", "/v1/orphans", None).await
    }

    /// Mounts a device's filesystem.
    pub async fn mount(&self, id: &str, request: &MountRequest) -> Result<MountInfo, ControlError> {
        let target = format!("/v1/devices/{}/mounts", encode(id.as_bytes()));
        self.call("POST", &target, Some(request)).await
    }

    /// Unmounts what the daemon mounted at `target`.
    pub async fn unmount(&self, target: &Path) -> Result<MountInfo, ControlError> {
        let target = format!(
            "/v1/mounts?target={}",
            encode(target.as_os_str().as_encoded_bytes())
        );
        self.call::<(), _>("DELETE", &target, None).await
    }

    /// How the daemon is.
    pub async fn status(&self) -> Result<Status, ControlError> {
        self.call::<(), _>("GET", "/v1/status", None).await
    }

    async fn call<B: Serialize, A: DeserializeOwned>(
        &self,
        method: &str,
        target: &str,
        body: Option<&B>,
    ) -> Result<A, ControlError> {
        let body = body
            .map(serde_json::to_vec)
            .transpose()
            .map_err(ControlError::Answer)?;
        let answer = http::exchange(&self.socket, method, target, body.as_deref())
            .await
            .map_err(|source| self.failed(source))?;
        if (200..300).contains(&answer.status) {
            return serde_json::from_slice(&answer.body).map_err(ControlError::Answer);
        }
        let reply = serde_json::from_slice(&answer.body).unwrap_or_else(|_| ErrorReply {
            error: format!("the agent answered with status {}", answer.status),
            hint: String::new(),
        });
        Err(ControlError::Refused {
            status: answer.status,
            reply,
        })
    }

    fn failed(&self, source: io::Error) -> ControlError {
        let path = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::PermissionDenied => ControlError::Unreachable { path, source },
            _ => ControlError::Exchange { path, source },
        }
    }
}

/// Percent-encodes all but the characters that need it nowhere in a URL.
fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for nibble in [byte >> 4, byte & 15] {
                out.extend(
                    char::from_digit(u32::from(nibble), 16).map(|digit| digit.to_ascii_uppercase()),
                );
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_percent_encoded() {
        assert_eq!(
            encode("/mnt/a b&c=ü".as_bytes()),
            "%2Fmnt%2Fa%20b%26c%3D%C3%BC"
        );
    }

    #[tokio::test]
    async fn absent_socket_is_unreachable_with_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::connect(dir.path().join("no.sock"));
        let error = client.status().await.unwrap_err();
        assert!(matches!(error, ControlError::Unreachable { .. }));
        assert!(error.hint().is_some());
    }
}
