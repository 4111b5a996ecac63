//! What an operator may choose about registries, and what holds where nothing was chosen.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use super::Mirrors;
use crate::credentials::Credentials;

/// Which registries are spoken to without TLS.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum PlainHttp {
    /// Those on this machine only (`localhost`, `127.0.0.0/8`, `[::1]`).
    #[default]
    Loopback,
    /// Those on this machine and these hosts, written as in references, with their ports.
    Always(Vec<String>),
}

/// How a [`RegistryClient`](super::RegistryClient) behaves.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Which registries are spoken to without TLS.
    pub plain_http: PlainHttp,
    /// Where credentials come from.
    pub credentials: Credentials,
    /// Registries, or parts of them, for which our credentials themselves may be shown to the tracker as
    /// proof that we may pull. A token that was given for pulling alone may always be.
    pub prove_by_secret: Vec<String>,
    /// Certificates (PEM) to trust besides the machine's own.
    pub extra_roots: Vec<Bytes>,
    /// The longest wait for a connection.
    pub connect_timeout: Duration,
    /// The longest time without progress: no answer, no further byte.
    pub read_timeout: Duration,
    /// How long a request is tried again after failures that pass by themselves. A stream's time begins anew
    /// with each byte it brings.
    pub deadline: Duration,
    /// The first pause between two tries; it doubles, with jitter.
    pub first_pause: Duration,
    /// Directories that say how registries are reached, as containerd's `certs.d`; the first with a folder for a registry
    /// counts. Changes are seen within some seconds.
    pub hosts_dirs: Vec<PathBuf>,
    /// Who is asked before a registry for what is named by a digest.
    pub mirrors: Mirrors,
    /// How long a mirror may take to begin its answer before the next is asked.
    pub mirror_patience: Duration,
    /// How long the target of a redirect is used for further ranges of the same blob.
    pub redirect_life: Duration,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            plain_http: PlainHttp::default(),
            credentials: Credentials::anonymous(),
            prove_by_secret: Vec::new(),
            extra_roots: Vec::new(),
            hosts_dirs: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            // A registry that restarts is back within this.
            deadline: Duration::from_mins(1),
            first_pause: Duration::from_millis(100),
            mirrors: Mirrors::default(),
            // A registry is reached across the world in a tenth of it.
            mirror_patience: Duration::from_secs(3),
            // The shortest signed addresses seen live five minutes.
            redirect_life: Duration::from_mins(1),
        }
    }
}
