//! A TCP relay that counts what it carries.
//!
//! What the registry had to send is counted here, outside every process under test, so that no counter of
//! ours has to be believed when a test says "the registry sent about one image".

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A relay on a free port of loopback; it ends with the value.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    downstream: Arc<AtomicU64>,
    accepted: Arc<AtomicU64>,
    open: Arc<AtomicBool>,
}

impl Relay {
    /// Relays connections to `target`, counting the bytes that come back from it.
    pub fn to(target: SocketAddr) -> Self {
        Self::over(target, Link::default())
    }

    /// The same over a link of `bits` a second towards the clients, which all connections share.
    pub fn narrow(target: SocketAddr, bits: u64) -> Self {
        Self::over(
            target,
            Link {
                bits: Some(bits),
                ..Link::default()
            },
        )
    }

    fn over(target: SocketAddr, link: Link) -> Self {
        let link = Arc::new(link);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let downstream = Arc::new(AtomicU64::new(0));
        let accepted = Arc::new(AtomicU64::new(0));
        let open = Arc::new(AtomicBool::new(true));
        let (count, accepting) = (Arc::clone(&downstream), Arc::clone(&open));
        let counting = Arc::clone(&accepted);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if !accepting.load(Ordering::SeqCst) {
                    return;
                }
                counting.fetch_add(1, Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(target) else {
                    continue;
                };
                let (count, link) = (Arc::clone(&count), Arc::clone(&link));
                let (from_client, to_server) = (
                    client.try_clone().expect("a second handle"),
                    server.try_clone().expect("a second handle"),
                );
                thread::spawn(move || {
                    carry(from_client, to_server, &AtomicU64::new(0), &Link::default());
                });
                thread::spawn(move || carry(server, client, &count, &link));
            }
        });
        Self {
            address,
            downstream,
            accepted,
            open,
        }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that were made so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Bytes that came back from the target so far, HTTP headers included.
    pub fn downstream_len(&self) -> u64 {
        self.downstream.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.open.store(false, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
    }
}

/// What bytes go over towards the clients.
#[derive(Debug, Default)]
struct Link {
    /// What it lets through in a second; `None` for everything.
    bits: Option<u64>,
    /// When all that was put on it is through.
    free_at: Mutex<Option<Instant>>,
}

impl Link {
    /// Takes as long as `len` bytes need behind all that is on the link.
    fn pass(&self, len: usize) {
        let Some(bits) = self.bits else {
            return;
        };
        let nanos = (len as u64).saturating_mul(8_000_000_000) / bits.max(1);
        let takes = Duration::from_nanos(nanos);
        let through = {
            let mut free_at = self.free_at.lock().expect("nobody panics over a link");
            let now = Instant::now();
            let through = free_at.map_or(now, |free_at| free_at.max(now)) + takes;
            *free_at = Some(through);
            through
        };
        thread::sleep(through.saturating_duration_since(Instant::now()));
    }
}

/// Carries one direction until it ends, then closes that direction on the other side.
fn carry(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64, link: &Link) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        count.fetch_add(len as u64, Ordering::SeqCst);
        link.pass(len);
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Write));
}
