//! The calls of containerd and of the container runtime interface, as types.
//!
//! Made from `proto`, which holds what we use of their definitions: protobuf passes over fields that one side does not know, and
//! the numbers of fields never change. The agent answers one of these services; the command line and the tests call the others.

#![forbid(unsafe_code)]

mod connect;

pub use connect::{connect, connect_lazily, in_namespace};
pub use prost;
pub use prost_types;
pub use tonic;

/// Types that several services share.
#[allow(
    missing_docs,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    unreachable_pub,
    reason = "made by a generator"
)]
pub mod containerd {
    /// What several services speak of.
    pub mod types {
        tonic::include_proto!("containerd.types");
    }
    /// containerd's services, each with its calls.
    pub mod services {
        /// Blobs.
        pub mod content {
            /// Version 1.
            pub mod v1 {
                tonic::include_proto!("containerd.services.content.v1");
            }
        }
        /// Unpacking.
        pub mod diff {
            /// Version 1.
            pub mod v1 {
                tonic::include_proto!("containerd.services.diff.v1");
            }
        }
        /// What happens.
        pub mod events {
            /// Version 1.
            pub mod v1 {
                tonic::include_proto!("containerd.services.events.v1");
            }
        }
        /// Names of images.
        pub mod images {
            /// Version 1.
            pub mod v1 {
                tonic::include_proto!("containerd.services.images.v1");
            }
        }
        /// What keeps the garbage collector away.
        pub mod leases {
            /// Version 1.
            pub mod v1 {
                tonic::include_proto!("containerd.services.leases.v1");
            }
        }
        /// Who shares it.
        pub mod namespaces {
            /// Version 1.
            pub mod v1 {
                tonic::include_proto!("containerd.services.namespaces.v1");
            }
        }
        /// Root filesystems.
        pub mod snapshots {
            /// Version 1.
            pub mod v1 {
                tonic::include_proto!("containerd.services.snapshots.v1");
            }
        }
        /// Which containerd answers.
        pub mod version {
            /// Version 1.
            pub mod v1 {
                tonic::include_proto!("containerd.services.version.v1");
            }
        }
    }
}

/// What the kubelet asks of a runtime.
#[allow(
    missing_docs,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    unreachable_pub,
    reason = "made by a generator"
)]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

pub use containerd::services::{
    content, diff, events, images, leases, namespaces, snapshots, version,
};
pub use containerd::types;
