//! A place before a tracker that stays while the tracker comes and goes.
//!
//! A tracker that starts again cannot count on its former port, which anybody may have got meanwhile.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tranship_source::net::{Multiaddr, parse_address};

/// Forwards connections to whoever is inside.
#[derive(Debug)]
pub(crate) struct Door {
    address: Multiaddr,
    inside: watch::Sender<Option<SocketAddr>>,
    /// Ends with this, and all connections with it.
    _keeping: JoinSet<()>,
}

impl Door {
    /// Opens on a free port; nobody is inside.
    pub(crate) async fn open() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = parse_address(&listener.local_addr().unwrap().to_string()).unwrap();
        let (inside, seen) = watch::channel(None);
        let mut keeping = JoinSet::new();
        keeping.spawn(keep(listener, seen));
        Self {
            address,
            inside,
            _keeping: keeping,
        }
    }

    /// Where to knock.
    pub(crate) fn address(&self) -> Multiaddr {
        self.address.clone()
    }

    /// Says where those who come are led from now on; without a place they are sent away.
    pub(crate) fn lead(&self, inside: Option<SocketAddr>) {
        self.inside.send_replace(inside);
    }
}

async fn keep(listener: TcpListener, inside: watch::Receiver<Option<SocketAddr>>) {
    let mut visits = JoinSet::new();
    while let Ok((mut outer, _)) = listener.accept().await {
        let inside = *inside.borrow();
        visits.spawn(async move {
            // Whoever is inside may have left, and either side may break off at any time.
            if let Some(inside) = inside
                && let Ok(mut inner) = TcpStream::connect(inside).await
            {
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            }
        });
    }
}
