//! A real registry: the distribution's `docker-registry` on a free port of loopback.

use crate::relay::Relay;
use rustix::process::{Pid, Signal, kill_process};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A running docker-registry behind a counting relay; it ends with the value.
#[derive(Debug)]
pub struct DockerRegistry {
    process: Child,
    relay: Relay,
    direct: SocketAddr,
    folder: TempDir,
}

impl DockerRegistry {
    /// Starts an empty registry without authentication.
    pub fn start() -> Self {
        Self::behind(Relay::to)
    }

    /// The same; what its users are given is a relay of their own making.
    pub fn behind(relay: impl Fn(SocketAddr) -> Relay) -> Self {
        crate::need_tools(&["docker-registry"]);
        let folder = tempfile::tempdir().expect("a scratch folder");
        // docker-registry cannot say which port it took, so a free one is chosen for it; another process may
        // take that port in between, and then the next one is tried.
        for _ in 0..10 {
            let direct = TcpListener::bind("127.0.0.1:0")
                .and_then(|listener| listener.local_addr())
                .expect("a free port");
            let config = folder.path().join("registry.yml");
            let text = format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {direct}\n",
                folder.path().join("data").display()
            );
            std::fs::write(&config, text).expect("a written configuration");
            let mut process = Command::new("docker-registry")
                .arg("serve")
                .arg(&config)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("docker-registry starts");
            if answers(&mut process, direct) {
                return Self {
                    process,
                    relay: relay(direct),
                    direct,
                    folder,
                };
            }
            drop(process.kill());
            drop(process.wait());
        }
        panic!("docker-registry did not answer on any of ten ports");
    }

    /// `host:port` through the counting relay: what agents and trackers are given.
    pub fn host(&self) -> String {
        self.relay.address().to_string()
    }

    /// `host:port` past the relay: for pushes and checks that shall not be counted.
    pub fn direct_host(&self) -> String {
        self.direct.to_string()
    }

    /// Bytes that the registry sent through the relay so far.
    pub fn sent_len(&self) -> u64 {
        self.relay.downstream_len()
    }

    /// Connections to it through the relay so far.
    pub fn connections(&self) -> u64 {
        self.relay.accepted()
    }

    /// Has it stand still from now on: connections are taken, and nothing is answered.
    pub fn stand_still(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends that.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("a registry that runs");
    }

    /// The file in which the registry keeps a blob, for tests that damage it.
    pub fn blob_file(&self, hex: &str) -> std::path::PathBuf {
        self.folder
            .path()
            .join("data/docker/registry/v2/blobs/sha256")
            .join(&hex[..2])
            .join(hex)
            .join("data")
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Whether the process accepts connections before it ends or ten seconds pass.
fn answers(process: &mut Child, address: SocketAddr) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if matches!(process.try_wait(), Ok(Some(_)) | Err(_)) {
            return false;
        }
        if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
            return true;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    false
}
