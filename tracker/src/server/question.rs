//! What the HTTP side asks of the server, and what the operator orders: answered between two requests of nodes.

use tokio::sync::oneshot;
use tranship_format::Digest;
use tranship_format::wire::PeerId;
use tranship_swarm::tracker::Input;

use super::{Server, name};
use crate::message::{BanList, ImageDetail};
use crate::status::Status;

/// A question and where its answer goes.
#[derive(Debug)]
pub(crate) enum Question {
    /// Everything; the parts that the server does not know are left empty.
    Status(oneshot::Sender<Status>),
    /// One image; `None` if nobody opened it.
    Image {
        manifest: Digest,
        answer: oneshot::Sender<Option<ImageDetail>>,
    },
    /// Who is banned.
    Bans(oneshot::Sender<BanList>),
    /// Ban a peer.
    Ban {
        peer: PeerId,
        answer: oneshot::Sender<BanList>,
    },
    /// Take a ban back; `None` if there is none, or if it cannot be taken off the list on disk.
    Unban {
        peer: PeerId,
        answer: oneshot::Sender<Option<BanList>>,
    },
}

impl Server {
    pub(super) fn asked(&mut self, question: Question) {
        // Whoever asked may have gone: then the answer goes nowhere.
        match question {
            Question::Status(answer) => {
                let _ = answer.send(self.status());
            }
            Question::Image { manifest, answer } => {
                let _ = answer.send(self.image(&manifest));
            }
            Question::Bans(answer) => {
                let _ = answer.send(self.ban_list());
            }
            Question::Ban { peer, answer } => {
                self.tracker.handle(self.now(), Input::Ban { peer });
                // The list on disk first: an order that was answered holds.
                self.act_all();
                let _ = answer.send(self.ban_list());
            }
            Question::Unban { peer, answer } => {
                let _ = answer.send(self.unban(peer));
            }
        }
    }

    fn unban(&mut self, peer: PeerId) -> Option<BanList> {
        if self.tracker.is_banned(&peer) {
            if let Err(error) = self.bans.remove(&peer) {
                tracing::error!(peer = %name(&peer), %error, "a ban cannot be taken off the list");
                return None;
            }
        } else if !self.tracker.is_shunned(&peer) {
            return None;
        }
        tracing::info!(peer = %name(&peer), "a ban is taken back, or a peer shunned no more");
        self.tracker.handle(self.now(), Input::Unban { peer });
        Some(self.ban_list())
    }

    fn ban_list(&self) -> BanList {
        BanList {
            peer_ids: self.tracker.bans().map(name).collect(),
        }
    }
}
