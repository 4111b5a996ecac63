//! Directories that say how registries are reached, as containerd's `certs.d`: mirrors, addresses, certificates, headers.
//!
//! An operator writes this once for a node, and expects whoever pulls there to keep to it. So it is read as it is,
//! and read again while we run.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

mod can;
mod file;

pub(super) use can::Need;
pub(super) use file::{Host, Hosts, Tls};

/// Where containerd looks for folders of registries: its own directory, then docker's.
pub const HOSTS_DIRS: [&str; 2] = ["/etc/containerd/certs.d", "/etc/docker/certs.d"];

/// A registry's folder that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostsError {
    /// A file is there, or should be, and cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML, or not of the form of a `hosts.toml`.
    #[error("{} is not well formed", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// It says something that cannot be.
    #[error("{} cannot be used: {what}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// What the first of `dirs` that has a folder for `registry` says of it.
pub(super) fn find(dirs: &[PathBuf], registry: &str) -> Result<Option<Hosts>, HostsError> {
    for dir in dirs {
        if let Some(folder) = folder(dir, registry)? {
            return file::read(&folder).map(Some);
        }
    }
    Ok(None)
}

/// The folder for a registry: `host_port_` comes before `host:port`, and that before the one for all others.
fn folder(dir: &Path, registry: &str) -> Result<Option<PathBuf>, HostsError> {
    let with_port = registry
        .rsplit_once(':')
        .filter(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
        .map(|(host, port)| format!("{host}_{port}_"));
    let names = [with_port.as_deref(), Some(registry), Some("_default")];
    for name in names.into_iter().flatten() {
        let path = dir.join(name);
        match path.metadata() {
            Ok(found) if found.is_dir() => return Ok(Some(path)),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(HostsError::Read { path, source }),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_found_in_containerds_order() {
        let dir = tempfile::tempdir().unwrap();
        let found = |registry: &str| {
            let found = folder(dir.path(), registry).unwrap()?;
            Some(found.file_name()?.to_str()?.to_owned())
        };
        let make = |name: &str| std::fs::create_dir(dir.path().join(name)).unwrap();
        assert_eq!(found("h.example:5000"), None);
        make("_default");
        assert_eq!(found("h.example:5000").unwrap(), "_default");
        make("h.example:5000");
        assert_eq!(found("h.example:5000").unwrap(), "h.example:5000");
        make("h.example_5000_");
        assert_eq!(found("h.example:5000").unwrap(), "h.example_5000_");
        assert_eq!(found("h.example").unwrap(), "_default");
        make("[::1]_5_");
        assert_eq!(found("[::1]:5").unwrap(), "[::1]_5_");
    }

    #[test]
    fn the_first_directory_with_a_folder_counts() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dirs = [first.path().to_owned(), second.path().to_owned()];
        assert!(find(&dirs, "h.example").unwrap().is_none());
        let folder = second.path().join("h.example");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("hosts.toml"), "skip_verify = true\n").unwrap();
        let found = find(&dirs, "h.example").unwrap().unwrap();
        assert!(found.registry.tls.skip_verify);
        let gone = [PathBuf::from("/nonexistent")];
        assert!(find(&gone, "h.example").unwrap().is_none());
    }
}
