//! A TCP relay that counts what it carries.
//!
//! What the registry had to send is counted here, outside every process under test, so that no counter of
//! ours has to be believed when a test says "the registry sent about one image".

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// A relay on a free port of loopback; it ends with the value.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    downstream: Arc<AtomicU64>,
    open: Arc<AtomicBool>,
}

impl Relay {
    /// Relays connections to `target`, counting the bytes that come back from it.
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let downstream = Arc::new(AtomicU64::new(0));
        let open = Arc::new(AtomicBool::new(true));
        let (count, accepting) = (Arc::clone(&downstream), Arc::clone(&open));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if !accepting.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(server) = TcpStream::connect(target) else {
                    continue;
                };
                let count = Arc::clone(&count);
                let (from_client, to_server) = (
                    client.try_clone().expect("a second handle"),
                    server.try_clone().expect("a second handle"),
                );
                thread::spawn(move || carry(from_client, to_server, &AtomicU64::new(0)));
                thread::spawn(move || carry(server, client, &count));
            }
        });
        Self {
            address,
            downstream,
            open,
        }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
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

/// Carries one direction until it ends, then closes that direction on the other side.
fn carry(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        count.fetch_add(len as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Write));
}
