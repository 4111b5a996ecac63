//! A gate before a registry: whoever shows no token is sent to the token service, and whoever shows an old one is answered 403.
//!
//! Some registries say "forbidden" where "ask again" is meant, when a token has expired. Here a test says when tokens expire, so that none
//! has to wait for it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// Whom the token service knows, and his password, as HTTP's basic scheme writes them: `reader`, `secret`.
pub const PASS: &str = "cmVhZGVyOnNlY3JldA==";
/// Longest head of a request.
const MAX_HEAD_LEN: u64 = 64 << 10;

/// A gate on a free port of loopback; it ends with the value.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    /// Tokens name it; those that name an earlier one have expired.
    time: AtomicU64,
    issued: AtomicU64,
    refused: AtomicU64,
    open: AtomicBool,
}

impl Gate {
    /// Stands before the registry at `target`, a `host:port`.
    pub fn before(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let shared = Arc::new(Shared {
            target: target.parse().expect("an address"),
            time: AtomicU64::new(0),
            issued: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            open: AtomicBool::new(true),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if !accepting.open.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                // A client that leaves early is answered no more.
                thread::spawn(move || shared.answer(client, address).ok());
            }
        });
        Self { address, shared }
    }

    /// `host:port` for references.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// All tokens that were given expire now.
    pub fn expire(&self) {
        self.shared.time.fetch_add(1, Ordering::SeqCst);
    }

    /// Tokens given so far.
    pub fn issued(&self) -> u64 {
        self.shared.issued.load(Ordering::SeqCst)
    }

    /// Requests that showed an expired token.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::SeqCst)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shared.open.store(false, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    /// One request a connection.
    fn answer(&self, mut client: TcpStream, own: SocketAddr) -> io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?.take(MAX_HEAD_LEN));
        let (mut head, mut shown) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            if name.eq_ignore_ascii_case("authorization") {
                value.trim().clone_into(&mut shown);
            } else if !name.eq_ignore_ascii_case("connection") {
                head.push_str(&line);
            }
        }
        let path = head.split(' ').nth(1).unwrap_or_default();
        if path.starts_with("/token") {
            return self.give_token(&mut client, &shown);
        }
        match shown.strip_prefix("Bearer of-") {
            Some(time) if time.parse() == Ok(self.time.load(Ordering::SeqCst)) => {
                self.forward(client, &head)
            }
            Some(_) => {
                self.refused.fetch_add(1, Ordering::SeqCst);
                say(
                    &mut client,
                    "403 Forbidden",
                    "",
                    r#"{"errors":[{"code":"DENIED"}]}"#,
                )
            }
            None => {
                let challenge = format!(
                    "www-authenticate: Bearer realm=\"http://{own}/token\",service=\"gate\"\r\n"
                );
                say(&mut client, "401 Unauthorized", &challenge, "{}")
            }
        }
    }

    fn give_token(&self, client: &mut TcpStream, shown: &str) -> io::Result<()> {
        if shown != format!("Basic {PASS}") {
            return say(client, "401 Unauthorized", "", "{}");
        }
        self.issued.fetch_add(1, Ordering::SeqCst);
        let time = self.time.load(Ordering::SeqCst);
        let body = format!(r#"{{"token":"of-{time}","expires_in":60}}"#);
        say(
            client,
            "200 OK",
            "content-type: application/json\r\n",
            &body,
        )
    }

    fn forward(&self, mut client: TcpStream, head: &str) -> io::Result<()> {
        let mut server = TcpStream::connect(self.target)?;
        write!(server, "{head}connection: close\r\n\r\n")?;
        io::copy(&mut server, &mut client).map(drop)
    }
}

fn say(client: &mut TcpStream, status: &str, headers: &str, body: &str) -> io::Result<()> {
    write!(
        client,
        "HTTP/1.1 {status}\r\n{headers}connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}
