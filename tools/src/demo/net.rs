//! Addresses in the two forms of the demo: sockets and libp2p's multiaddresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The multiaddress of a TCP listener.
pub(crate) fn multiaddr(address: SocketAddr) -> String {
    let family = if address.is_ipv4() { "ip4" } else { "ip6" };
    format!("/{family}/{}/tcp/{}", address.ip(), address.port())
}

/// The socket behind `/ip4/A/tcp/P…` or `A:P`; an unspecified address is reached by loopback.
pub(crate) fn socket(text: &str) -> Option<SocketAddr> {
    let found = text.parse().ok().or_else(|| {
        let mut parts = text.strip_prefix('/')?.split('/');
        let (_family, host, tcp, port) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let host: IpAddr = host.parse().ok()?;
        (tcp == "tcp").then_some(())?;
        Some(SocketAddr::new(host, port.parse().ok()?))
    });
    found.map(|address: SocketAddr| match address.ip() {
        ip if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        ip => SocketAddr::new(ip, address.port()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_name_the_same_socket() {
        let address: SocketAddr = "127.0.0.1:4001".parse().unwrap();
        assert_eq!(multiaddr(address), "/ip4/127.0.0.1/tcp/4001");
        for text in [
            "127.0.0.1:4001",
            "/ip4/127.0.0.1/tcp/4001",
            "/ip4/0.0.0.0/tcp/4001/p2p/12D3",
            "0.0.0.0:4001",
        ] {
            assert_eq!(socket(text), Some(address), "{text}");
        }
        assert_eq!(socket("/dns/x/tcp/1"), None);
    }
}
