//! What the tracker's machine is told and what it wants done.

use tranship_format::wire::{BlobInfo, ImageSource, Member, PeerId, TrackerReply, TrackerRequest};

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A JOIN whose proof was found good: the machine knows nothing of keys and tokens.
    Joined {
        /// Who.
        member: Member,
        /// As the message says: with another one than before, what the member had under way is void.
        boot_id: [u8; 16],
    },
    /// Any other request, from a peer whose identity its connection proves.
    Request {
        /// From whom.
        from: PeerId,
        /// Number to repeat in the answer.
        request: u32,
        /// The request.
        message: TrackerRequest,
    },
    /// A member's connection ended and did not come back in the time the server gives it.
    Gone {
        /// Who.
        peer: PeerId,
    },
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send a reply; number 0 means that nobody asked.
    Reply {
        /// To whom.
        to: PeerId,
        /// The number.
        request: u32,
        /// What.
        reply: TrackerReply,
    },
    /// An image is used whose blobs were not known: the seed may want it.
    Opened {
        /// Where it is.
        image: ImageSource,
        /// Its blobs that are new.
        blobs: Vec<BlobInfo>,
    },
    /// A member was banned: close its connections, keep the ban on disk, admit it no more.
    Banned {
        /// Who.
        peer: PeerId,
    },
}
