//! Opens the places that hold images, registries and layouts, and tells their errors by cause.

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tranship_format::erofs::ErofsError;
use tranship_format::{Digest, OpenLayerError};
use tranship_source::image_store::ImageStoreError;
use tranship_source::layout::LayoutFailure;
use tranship_source::manifest::ManifestError;
use tranship_source::{
    BlobBody, Credentials, ImageReference, ImageStore, PlainHttp, RegistryClient, RegistryFailure,
    RegistryOptions,
};

use crate::blob::WrongBytes;
use crate::cli::RegistryArgs;
use crate::failure::{Exit, Explain, Failure, Outcome};

/// A person waits: a registry that does not answer for this long is told so.
const DEADLINE: Duration = Duration::from_secs(15);

/// Opens the place of an image for reading.
pub(crate) async fn open(reference: &ImageReference, args: &RegistryArgs) -> Outcome<ImageStore> {
    let opened = ImageStore::open(reference, &client(reference, args)?).await;
    opened.map_err(|error| failure(format!("cannot open {reference}"), &error))
}

/// Opens the place of an image for writing.
pub(crate) async fn create(reference: &ImageReference, args: &RegistryArgs) -> Outcome<ImageStore> {
    let created = ImageStore::create(reference, &client(reference, args)?).await;
    created.map_err(|error| failure(format!("cannot write to {reference}"), &error))
}

/// A client of an image's registry.
pub(crate) fn client(reference: &ImageReference, args: &RegistryArgs) -> Outcome<RegistryClient> {
    let plain_http = match reference {
        ImageReference::Registry(registry) if args.plain_http => {
            PlainHttp::Always(vec![registry.repo.host().to_string()])
        }
        _ => PlainHttp::Loopback,
    };
    let mut credentials = Credentials::anonymous();
    if let Some(path) = docker_config(args.docker_config.as_ref()) {
        credentials = credentials.with_docker_config(path);
    }
    let options = RegistryOptions {
        plain_http,
        credentials,
        hosts_dirs: args.hosts_dir.clone(),
        deadline: args.retry_for.map_or(DEADLINE, Into::into),
        ..RegistryOptions::default()
    };
    RegistryClient::new(options).explain(|| "cannot set up the registry client".into())
}

/// Docker's configuration file: in the given directory, else where docker looks.
pub(crate) fn docker_config(given: Option<&PathBuf>) -> Option<PathBuf> {
    let dir = given
        .cloned()
        .or_else(|| std::env::var_os("DOCKER_CONFIG").map(PathBuf::from));
    let dir = dir.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
    dir.map(|dir| dir.join("config.json"))
}

/// Pushes bytes as a blob.
pub(crate) async fn push_bytes(store: &ImageStore, bytes: Bytes) -> Result<(), ImageStoreError> {
    let (digest, len) = (Digest::of(&bytes), bytes.len() as u64);
    store.push_blob(&digest, len, BlobBody::bytes(bytes)).await
}

/// Pushes an open file that has no name, and that has just been found to have this digest, as a blob.
pub(crate) async fn push_file(
    store: &ImageStore,
    file: &File,
    digest: Digest,
    len: u64,
) -> Result<(), ImageStoreError> {
    // Opened anew by its descriptor, so that a push that broke can begin again at the file's start.
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    store
        .push_blob(&digest, len, BlobBody::hashed_file(path))
        .await
}

/// An error as a failure: what stands deepest in its chain of causes decides what kind it is.
pub(crate) fn failure(what: String, error: &(dyn Error + 'static)) -> Failure {
    let exit = causes(error).filter_map(kind_of).last();
    Failure::new(exit.unwrap_or(Exit::Failed), what).because(error)
}

/// Whether an error says that the bytes of a blob have not its digest.
pub(crate) fn is_wrong_digest(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| {
        matches!(known(cause), Some(RegistryFailure::WrongDigest { .. }))
            || matches!(known(cause), Some(LayoutFailure::WrongDigest { .. }))
    })
}

/// An error and what stands below it.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| below(*error))
}

/// The next cause. An `io::Error` made of another error hides that one from `source`, and so does a transparent one.
fn below<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    if let Some(inner) = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        return Some(inner);
    }
    match error.downcast_ref::<ImageStoreError>() {
        Some(ImageStoreError::Registry(inner)) => Some(inner),
        Some(ImageStoreError::Layout(inner)) => Some(inner),
        Some(ImageStoreError::Manifest(inner)) => Some(inner),
        _ => error.source(),
    }
}

/// An error as what it is, boxed or not: a box inside an error is an error of a type of its own.
fn known<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    let boxed = || error.downcast_ref::<Box<E>>().map(Box::as_ref);
    error.downcast_ref().or_else(boxed)
}

fn kind_of(error: &(dyn Error + 'static)) -> Option<Exit> {
    if let Some(failure) = known(error) {
        return kind_of_registry(failure);
    }
    if let Some(failure) = known(error) {
        return kind_of_layout(failure);
    }
    if let Some(failure) = known::<ManifestError>(error) {
        return Some(match failure {
            ManifestError::NoSuchPlatform { .. } => Exit::NotFound,
            _ => Exit::Unsupported,
        });
    }
    if known::<WrongBytes>(error).is_some()
        || known::<tranship_format::DecodeError>(error).is_some()
    {
        return Some(Exit::Verification);
    }
    match known(error) {
        Some(ErofsError::NotFound { .. }) => return Some(Exit::NotFound),
        Some(ErofsError::Corrupt { .. }) => return Some(Exit::Verification),
        Some(ErofsError::Unsupported { .. }) => return Some(Exit::Unsupported),
        _ => {}
    }
    match known(error) {
        Some(ImageStoreError::WrongLength { .. }) => return Some(Exit::Verification),
        Some(ImageStoreError::TooDeep(_)) => return Some(Exit::Unsupported),
        _ => {}
    }
    if let Some(layer) = known::<OpenLayerError>(error) {
        return (!matches!(layer, OpenLayerError::Read { .. })).then_some(Exit::Verification);
    }
    match known::<io::Error>(error)?.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Some(Exit::Verification),
        io::ErrorKind::NotFound => Some(Exit::NotFound),
        io::ErrorKind::PermissionDenied => Some(Exit::Denied),
        _ => None,
    }
}

const fn kind_of_registry(failure: &RegistryFailure) -> Option<Exit> {
    Some(match failure {
        RegistryFailure::NotFound(_) => Exit::NotFound,
        RegistryFailure::Unauthorized(_)
        | RegistryFailure::Denied(_)
        | RegistryFailure::Credentials(_) => Exit::Denied,
        RegistryFailure::TooManyRequests { .. }
        | RegistryFailure::Server { .. }
        | RegistryFailure::TimedOut { .. }
        | RegistryFailure::Transport { .. } => Exit::Unavailable,
        RegistryFailure::WrongDigest { .. }
        | RegistryFailure::ShortBody { .. }
        | RegistryFailure::LongBody { .. }
        | RegistryFailure::RangeNotSatisfiable => Exit::Verification,
        RegistryFailure::RangeIgnored => Exit::Unsupported,
        _ => return None,
    })
}

const fn kind_of_layout(failure: &LayoutFailure) -> Option<Exit> {
    Some(match failure {
        LayoutFailure::NoSuchImage { .. } | LayoutFailure::NoSuchBlob(_) => Exit::NotFound,
        LayoutFailure::NotEmpty | LayoutFailure::ReadOnly | LayoutFailure::SeveralImages { .. } => {
            Exit::Usage
        }
        LayoutFailure::NotALayout | LayoutFailure::Compressed => Exit::Unsupported,
        LayoutFailure::WrongDigest { .. }
        | LayoutFailure::WrongLength { .. }
        | LayoutFailure::BeyondEnd { .. }
        | LayoutFailure::TooLong { .. } => Exit::Verification,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_cause_decides() {
        let inner = io::Error::from(io::ErrorKind::NotFound);
        let error = LayoutFailure::Io(inner);
        assert_eq!(failure("x".into(), &error).exit, Exit::NotFound);
        let wrapped = io::Error::other(RegistryFailure::RangeIgnored);
        assert_eq!(failure("x".into(), &wrapped).exit, Exit::Unsupported);
        assert_eq!(
            failure("x".into(), &io::Error::other("?")).exit,
            Exit::Failed
        );
    }

    #[test]
    fn a_wrong_digest_is_known_through_wrappings() {
        let (wanted, got) = (Digest::of(b"a"), Digest::of(b"b"));
        let wrapped = io::Error::other(LayoutFailure::WrongDigest { wanted, got });
        assert!(is_wrong_digest(&wrapped));
        assert!(!is_wrong_digest(&io::Error::other("?")));
    }
}
