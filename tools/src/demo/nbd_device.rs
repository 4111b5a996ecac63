//! A device read through its NBD socket: how the demo looks at an image where it may not mount.

use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nbd::client::{NbdClient, handshake};
use tranship_format::ReadAt;

/// A connection to an NBD server; reads take turns.
pub(crate) struct NbdDevice {
    len: u64,
    client: Mutex<NbdClient<UnixStream>>,
}

impl std::fmt::Debug for NbdDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NbdDevice")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl NbdDevice {
    /// Connects to the export `name` behind a socket.
    ///
    /// # Errors
    /// Nobody listens, or there is no such export.
    pub(crate) fn connect(socket: &Path, name: &str) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        let export = handshake(&mut stream, name.as_bytes())?;
        Ok(Self {
            len: export.size,
            client: Mutex::new(NbdClient::new(stream, &export)),
        })
    }
}

impl ReadAt for NbdDevice {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        client.seek(SeekFrom::Start(offset))?;
        client.read_exact(buf)
    }
}

/// The export's name in a URI such as `nbd+unix:///NAME?socket=PATH`; the default export has none.
pub(crate) fn export_name(uri: &str) -> &str {
    let path = uri.split_once("://").map_or("", |(_, rest)| rest);
    path.split('?')
        .next()
        .unwrap_or_default()
        .trim_start_matches('/')
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tranship_device::{Export, Memory, NbdOptions, NbdServer};

    use super::*;

    #[test]
    fn names_of_exports_are_found_in_uris() {
        assert_eq!(export_name("nbd+unix:///dev1?socket=/run/x.sock"), "dev1");
        assert_eq!(export_name("nbd+unix:///?socket=/run/x.sock"), "");
    }

    #[test]
    fn bytes_of_a_server_are_read_at_any_place() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..65_536_u32).map(|n| (n % 239) as u8).collect();
        let export = Export {
            name: "a".into(),
            description: String::new(),
            content: Arc::new(Memory::new(bytes.clone())),
        };
        let server =
            NbdServer::bind(&dir.path().join("s"), vec![export], NbdOptions::default()).unwrap();
        let device = NbdDevice::connect(server.path(), "a").unwrap();
        assert_eq!(device.len(), 65_536);
        let mut buf = [0; 1024];
        device.read_exact_at(4096, &mut buf).unwrap();
        assert_eq!(buf, bytes[4096..5120]);
        drop(device);
        server.stop().unwrap();
    }
}
