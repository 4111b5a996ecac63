//! What the tracker's machine is told and what it wants done.

use std::time::Duration;

use tranship_format::wire::{
    BlobInfo, Grant, ImageSource, Member, PeerId, TrackerReply, TrackerRequest,
};

/// A member's right to an image's blobs.
#[derive(Clone, Debug)]
pub struct Rights {
    /// The grant that says so, to be told to the member.
    pub grant: Grant,
    /// When it ends, on the clock of `now`.
    pub until: Duration,
}

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
    /// An OPEN, judged: the machine knows nothing of registries and who may pull from them.
    Open {
        /// From whom.
        from: PeerId,
        /// Number to repeat in the answer.
        request: u32,
        /// As the message says.
        image: ImageSource,
        /// As the message says; those that the grant does not name are left out.
        blobs: Vec<BlobInfo>,
        /// What the member may have; `None` is nothing.
        rights: Option<Box<Rights>>,
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
    /// The operator bans a peer, member or not.
    Ban {
        /// Whom.
        peer: PeerId,
    },
    /// The operator takes a ban back.
    Unban {
        /// Whose.
        peer: PeerId,
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
    /// A member sends wrong chunks by the word of two: nobody is sent to it any more.
    Shunned {
        /// Who.
        peer: PeerId,
    },
    /// A peer was banned: close its connections, keep the ban on disk, admit it no more.
    Banned {
        /// Who.
        peer: PeerId,
    },
}
