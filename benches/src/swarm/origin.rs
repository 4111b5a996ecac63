//! The registry's host: Debian's docker-registry behind a relay that counts what it sends.
//!
//! The cost of a start is what left the registry, hedged, cancelled or wasted; so it is counted outside every process
//! under test, HTTP headers and manifests included.

use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::lab::{self, Lab};
use super::process::Process;

/// Where docker-registry listens inside its host.
const BEHIND: &str = "127.0.0.1:5001";
/// Where the others reach it.
const PORT: u16 = 5000;
/// Bytes that a connection may hold on each side of the relay: more than a limited link keeps under way.
const BUFFER_LEN: usize = 128 << 10;
/// How long docker-registry may take to listen.
const START: Duration = Duration::from_secs(30);

/// Who may pull where a login is asked for: `reader`, whose password is `a password for the bench`, by bcrypt.
const READERS: &str = "reader:$2y$05$abcdefghijklmnopqrstuuPRkKme8pduKlccN/Zki7CSpeB55acwK\n";
/// The same user and password as Docker's configuration has them.
const LOGIN: &str = "cmVhZGVyOmEgcGFzc3dvcmQgZm9yIHRoZSBiZW5jaA==";

/// A running registry.
#[derive(Debug)]
pub(crate) struct Registry {
    /// None once it was killed.
    process: Option<Process>,
    relay: Relay,
    place: Source,
}

/// Where to pull from, and with what.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// `host:port` for references.
    pub(super) host: String,
    /// Docker's configuration with a login that is good there; useless where none is asked for.
    pub(super) login: PathBuf,
}

#[derive(Debug)]
struct Relay {
    listener: TcpListener,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    sent: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Registry {
    /// Starts it on a host, with its blobs in `folder`; it lets everybody in, or those who have a login.
    pub(crate) fn start(lab: &Lab, host: &str, folder: &Path, is_private: bool) -> Result<Self> {
        let config = folder.join("registry.yml");
        let data = folder.join("registry");
        let readers = folder.join("readers");
        fs::write(&readers, READERS).context("write who may pull")?;
        let auth = if is_private {
            format!(
                "auth:\n  htpasswd:\n    realm: bench\n    path: {}\n",
                readers.display()
            )
        } else {
            String::new()
        };
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {BEHIND}\n{auth}",
                data.display()
            ),
        )
        .context("write the registry's configuration")?;
        let namespace = lab.namespace(host);
        let mut process = Process::start(
            &namespace,
            Path::new("docker-registry"),
            &["serve", &config.to_string_lossy()],
            folder.join("registry.log"),
            false,
        )?;
        let address = format!("{}:{PORT}", lab.address(host)?);
        let relay = lab::inside(&namespace, || {
            let deadline = Instant::now() + START;
            while TcpStream::connect(BEHIND).is_err() {
                if process.has_ended() || Instant::now() > deadline {
                    bail!("docker-registry does not start:\n{}", process.last_lines());
                }
                thread::park_timeout(Duration::from_millis(10));
            }
            Relay::start(&address)
        })?;
        let login = folder.join("login.json");
        let known = format!("{{\"auths\":{{{address:?}:{{\"auth\":{LOGIN:?}}}}}}}");
        fs::write(&login, known).context("write a login")?;
        Ok(Self {
            process: Some(process),
            relay,
            place: Source {
                host: address,
                login,
            },
        })
    }

    /// Where to pull from, and with what.
    pub(crate) fn place(&self) -> Source {
        self.place.clone()
    }

    /// The login of that.
    pub(crate) fn login(&self) -> &Path {
        &self.place.login
    }

    /// `host:port` for references.
    pub(crate) fn host(&self) -> &str {
        &self.place.host
    }

    /// Bytes that left it so far.
    pub(crate) fn sent_len(&self) -> u64 {
        self.relay.shared.sent.load(Ordering::SeqCst)
    }

    /// Ends it at once, with all its connections.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.relay.close();
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Fails if it ended by itself.
    pub(crate) fn check_runs(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check_runs)
    }
}

impl Relay {
    /// Listens and relays. The threads belong to the namespace that this is called in.
    fn start(address: &str) -> Result<Self> {
        let listener =
            TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        let shared = Arc::new(Shared::default());
        let accepting = listener.try_clone().context("a second handle")?;
        let sharing = Arc::clone(&shared);
        thread::spawn(move || {
            // A listener that was shut down accepts no more.
            while let Ok((client, _)) = accepting.accept() {
                // A client of a registry that is gone finds its connection closed.
                if let Ok(server) = TcpStream::connect(BEHIND) {
                    let _ = sharing.carry_both(client, server);
                }
            }
        });
        Ok(Self { listener, shared })
    }

    fn close(&self) {
        // Wakes the thread that accepts.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        let mut open = self
            .shared
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for stream in open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn carry_both(self: &Arc<Self>, client: TcpStream, server: TcpStream) -> std::io::Result<()> {
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        // What waits in a buffer has not left, but is counted.
        rustix::net::sockopt::set_socket_send_buffer_size(&client, BUFFER_LEN)?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&server, BUFFER_LEN)?;
        let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push(client.try_clone()?);
        open.push(server.try_clone()?);
        drop(open);
        thread::spawn(move || carry(from_client, to_server, &AtomicU64::new(0)));
        let shared = Arc::clone(self);
        thread::spawn(move || carry(server, client, &shared.sent));
        Ok(())
    }
}

/// Carries one direction until it ends, then closes that direction on the other side.
fn carry(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    let mut ended = true;
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        let Some(bytes) = buffer.get(..len) else {
            break;
        };
        if to.write_all(bytes).is_err() {
            ended = false;
            break;
        }
        count.fetch_add(len as u64, Ordering::SeqCst);
    }
    // Either may be closed already. One whose reader is gone must not go on sending to nobody.
    let _ = to.shutdown(if ended {
        Shutdown::Write
    } else {
        Shutdown::Both
    });
    let _ = from.shutdown(if ended {
        Shutdown::Read
    } else {
        Shutdown::Both
    });
}
