//! Finds the process at the other end of a loopback connection, from the kernel's tables under `/proc`.
//!
//! A relay sees only a port. The kernel knows the socket's inode for it, and each process's open descriptors name
//! their sockets' inodes, so that a connection finds its machine without the process having to say who it is.

use std::net::SocketAddr;
use std::path::Path;

/// Which of `pids` holds the socket with local address `client` and remote address `server`.
pub(super) fn find(
    pids: impl Iterator<Item = u32>,
    client: SocketAddr,
    server: SocketAddr,
) -> Option<u32> {
    let inode = inode_of(
        &std::fs::read_to_string("/proc/net/tcp").ok()?,
        client,
        server,
    )?;
    let name = format!("socket:[{inode}]");
    pids.into_iter()
        .find(|pid| holds(Path::new(&format!("/proc/{pid}/fd")), &name))
}

fn holds(descriptors: &Path, name: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(descriptors) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == Path::new(name)))
}

/// The inode column of the line of `/proc/net/tcp` with these addresses.
fn inode_of(table: &str, client: SocketAddr, server: SocketAddr) -> Option<u64> {
    let (client, server) = (kernel_form(client)?, kernel_form(server)?);
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, remote) = (fields.next()?, fields.next()?);
        (local == client && remote == server)
            .then(|| fields.nth(6)?.parse().ok())
            .flatten()
    })
}

/// IPv4 address and port as `/proc/net/tcp` prints them: the address as a native integer, the port plainly.
fn kernel_form(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else {
        return None;
    };
    #[expect(
        clippy::host_endian_bytes,
        reason = "the kernel prints the address in the machine's own byte order"
    )]
    let number = u32::from_ne_bytes(address.ip().octets());
    Some(format!("{number:08X}:{:04X}", address.port()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_of_this_process_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let client = TcpStream::connect(server).unwrap();
        let address = client.local_addr().unwrap();
        let me = std::process::id();
        assert_eq!(find([me].into_iter(), address, server), Some(me));
        assert_eq!(
            find([1].into_iter().filter(|pid| *pid != me), address, server),
            None
        );
    }

    #[test]
    fn a_line_of_the_kernels_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0100007F:1F90 0100007F:A2C4 01 00000000:00000000 00:00000000 00000000     0        0 12345 1 0\n";
        if cfg!(target_endian = "little") {
            let (a, b) = (
                "127.0.0.1:8080".parse().unwrap(),
                "127.0.0.1:41668".parse().unwrap(),
            );
            assert_eq!(inode_of(table, a, b), Some(12345));
            assert_eq!(inode_of(table, b, a), None);
        }
    }
}
