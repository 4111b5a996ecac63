//! A connection to a gRPC server on a unix socket, as containerd's are.

use std::path::Path;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Error};
use tonic::{Request, Status};

/// The header by which containerd is told in which namespace a call is.
const NAMESPACE: &str = "containerd-namespace";

/// Connects to the server at `socket`.
pub async fn connect(socket: &Path) -> Result<Channel, Error> {
    Endpoint::try_from(format!("unix://{}", socket.display()))?
        .connect()
        .await
}

/// The same once it is needed, and again whenever the connection broke. Must be called within a runtime.
pub fn connect_lazily(socket: &Path) -> Result<Channel, Error> {
    Ok(Endpoint::try_from(format!("unix://{}", socket.display()))?.connect_lazy())
}

/// A call in one of containerd's namespaces; `INVALID_ARGUMENT` for a name that no header can carry.
pub fn in_namespace<T>(namespace: &str, call: T) -> Result<Request<T>, Status> {
    let value: MetadataValue<Ascii> = namespace
        .parse()
        .map_err(|_| Status::invalid_argument(format!("{namespace:?} is no namespace")))?;
    let mut request = Request::new(call);
    request.metadata_mut().insert(NAMESPACE, value);
    Ok(request)
}
