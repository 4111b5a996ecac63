//! The kubelet's calls about images, passed on to containerd, and what is learnt of them: credentials.
//!
//! The kubelet gives a pod's credentials to the runtime and to nobody else. With `--image-service-endpoint` it calls us for images;
//! containerd answers each call, byte for byte, also calls that are newer than we are, but for what our snapshots take, which it does not know; `v1alpha2` of the interface passes as `v1` does. If we are away the kubelet cannot pull, and
//! what runs is none the worse.

mod accounts;
mod frame;
mod login;
mod relay;

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tranship_containerd::tonic::transport::Server;
use tranship_source::Learnt;

pub(crate) use accounts::Accounts;
use relay::{Before, Current, Relay};

/// Answers the kubelet on `listener` with what containerd says at its socket, until `stop`. containerd need not be there yet.
/// With `accounts` it is told what our snapshots take now.
pub(crate) async fn serve(
    listener: UnixListener,
    containerd: &Path,
    learnt: Arc<Learnt>,
    accounts: Option<Accounts>,
    stop: CancellationToken,
) -> io::Result<()> {
    let containerd = tranship_containerd::connect_lazily(containerd).map_err(io::Error::other)?;
    let relay = Relay::new(containerd, learnt, accounts);
    Server::builder()
        .add_service(Current(relay.clone()))
        .add_service(Before(relay))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
            stop.cancelled().await;
        })
        .await
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
