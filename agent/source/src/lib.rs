//! Where chunks come from: peers, seed, registry.
//!
//! All network of the node is here and nothing else of it, so that the tools can pull and push images with the same
//! code that the agent reads chunks with.
#![forbid(unsafe_code)]

pub mod blob;
pub mod counters;
pub mod credentials;
pub mod fetch;
pub mod image_store;
pub mod layout;
pub mod manifest;
pub mod net;
pub mod places;
pub mod proof;
pub mod reference;
pub mod registry;
pub mod trace;
pub mod verdict;
pub mod whole_blob;

pub use blob::BlobBody;
pub use counters::{Counters, CountersSnapshot};
pub use credentials::{Credential, Credentials, Learnt, Secret};
pub use fetch::{Class, FetchError, Fetcher};
pub use image_store::{BlobReader, FoundImage, ImageStore, ImageStoreError};
pub use layout::{LayoutError, LayoutFailure, OciLayout};
pub use manifest::{Descriptor, Manifest, Platform};
pub use net::{NetOptions, OpenImage, SwarmNet};
pub use reference::{ImageReference, ManifestSelector, ParseReferenceError, RepoRef};
pub use registry::{PlainHttp, RegistryClient, RegistryError, RegistryFailure, RegistryOptions};
pub use trace::Trace;
pub use verdict::Verdict;
pub use whole_blob::WholeBlob;
