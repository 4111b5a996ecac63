//! The first words on a peer stream: both ends prove that they are members.
//!
//! Nothing else may come first, and it must come soon and be short, so that a
//! stranger who gets a connection gets nothing more.

use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tranship_format::wire::{
    Certificate, Hello, HelloAck, MAX_BODY_LEN, Member, PeerId, PeerMessage, Versions, WireError,
};

use super::certificate::{Authority, CertificateError, unix_seconds};
use super::stream::{FrameReader, FrameWriter, StreamError, frames};
use super::transport::ByteStream;

/// Each end has so long for its part of the greeting.
const PATIENCE: Duration = Duration::from_secs(3);
/// A greeting is a certificate and a few numbers: its texts have at most 2 KiB.
const MAX_GREETING_LEN: u32 = 4 << 10;

/// Why a stream was not accepted.
#[derive(Debug, Error)]
pub(crate) enum HelloError {
    #[error("no greeting in time")]
    TimedOut,
    #[error("the stream closed before the greeting")]
    Closed,
    #[error("read or write the greeting")]
    Stream(#[source] StreamError),
    #[error("understand the greeting")]
    Wire(#[source] WireError),
    #[error("the first frame is no greeting")]
    OutOfTurn,
    #[error("no version of the protocol in common")]
    Version,
    #[error("believe the peer's membership")]
    Certificate(#[source] CertificateError),
    #[error("this node is no member yet")]
    NotAMember,
}

impl HelloError {
    /// Whether the other end failed to prove that it belongs, rather than to connect.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::OutOfTurn | Self::Version | Self::Certificate(_) | Self::Wire(_)
        )
    }
}

/// What a node shows, and by what it judges others.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    /// Whose certificates count.
    pub(crate) authority: Authority,
    /// Our own, once the tracker gave it.
    pub(crate) ours: watch::Receiver<Option<Certificate>>,
    /// Tells our restarts apart.
    pub(crate) boot_id: [u8; 16],
}

impl Membership {
    /// Our certificate. A peer may hear of us before we hear that we are in, so
    /// this waits, within the greeting's time.
    async fn certificate(&mut self) -> Result<Certificate, HelloError> {
        let found = self.ours.wait_for(Option::is_some).await;
        let ours = found.map_err(|_| HelloError::NotAMember)?;
        (*ours).clone().ok_or(HelloError::NotAMember)
    }

    fn check(&self, certificate: &Certificate, peer: &PeerId) -> Result<(), HelloError> {
        self.authority
            .check(certificate, peer, unix_seconds())
            .map_err(HelloError::Certificate)
    }
}

/// A stream whose ends have greeted each other.
#[derive(Debug)]
pub(crate) struct Greeted {
    /// Who is at the other end, as its certificate says.
    pub(crate) member: Member,
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
}

/// Greets the peer that a stream was opened to.
pub(crate) async fn greet(
    stream: ByteStream,
    peer: &PeerId,
    membership: &mut Membership,
) -> Result<Greeted, HelloError> {
    let (mut reader, mut writer) = frames(stream, MAX_GREETING_LEN);
    let member = within(async {
        let hello = Hello {
            versions: Versions::OURS,
            certificate: membership.certificate().await?,
            boot_id: membership.boot_id,
        };
        let mut bytes = Vec::new();
        PeerMessage::Hello(Box::new(hello)).encode(&mut bytes);
        writer.send(&bytes).await.map_err(HelloError::Stream)?;
        let PeerMessage::HelloAck(ack) = receive(&mut reader).await? else {
            return Err(HelloError::OutOfTurn);
        };
        if !(Versions::OURS.min..=Versions::OURS.max).contains(&ack.version) {
            return Err(HelloError::Version);
        }
        membership.check(&ack.certificate, peer)?;
        Ok(ack.certificate.member)
    })
    .await?;
    reader.set_max_body_len(MAX_BODY_LEN);
    Ok(Greeted {
        member,
        reader,
        writer,
    })
}

/// Hears the greeting of the peer that opened a stream, and returns it.
pub(crate) async fn welcome(
    stream: ByteStream,
    peer: &PeerId,
    membership: &mut Membership,
) -> Result<Greeted, HelloError> {
    let (mut reader, mut writer) = frames(stream, MAX_GREETING_LEN);
    let member = within(async {
        let PeerMessage::Hello(hello) = receive(&mut reader).await? else {
            return Err(HelloError::OutOfTurn);
        };
        membership.check(&hello.certificate, peer)?;
        let version = Versions::OURS
            .common(hello.versions)
            .ok_or(HelloError::Version)?;
        let ack = HelloAck {
            version,
            certificate: membership.certificate().await?,
            boot_id: membership.boot_id,
        };
        let mut bytes = Vec::new();
        PeerMessage::HelloAck(Box::new(ack)).encode(&mut bytes);
        writer.send(&bytes).await.map_err(HelloError::Stream)?;
        Ok(hello.certificate.member)
    })
    .await?;
    reader.set_max_body_len(MAX_BODY_LEN);
    Ok(Greeted {
        member,
        reader,
        writer,
    })
}

async fn receive(reader: &mut FrameReader) -> Result<PeerMessage, HelloError> {
    let frame = reader.next().await.map_err(|error| match error {
        StreamError::Wire(error) => HelloError::Wire(error),
        error @ StreamError::Broken(_) => HelloError::Stream(error),
    })?;
    PeerMessage::from_frame(frame.ok_or(HelloError::Closed)?).map_err(HelloError::Wire)
}

async fn within<T>(part: impl Future<Output = Result<T, HelloError>>) -> Result<T, HelloError> {
    tokio::time::timeout(PATIENCE, part)
        .await
        .unwrap_or(Err(HelloError::TimedOut))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;
    use tranship_format::wire::Role;

    use super::super::certificate::{issue, wire_peer};
    use super::super::identity::Identity;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_stays_silent_at_the_door_is_not_waited_for() {
        let tracker = Identity::generate().libp2p_peer();
        let (_ours, certificate) = watch::channel(None);
        let mut membership = Membership {
            authority: Authority::of(tracker).unwrap(),
            ours: certificate,
            boot_id: [0; 16],
        };
        let (stream, _silent) = tokio::io::duplex(1 << 10);
        let peer = PeerId::from_bytes(b"silent").unwrap();
        let began = Instant::now();
        let welcomed = welcome(Box::new(stream), &peer, &mut membership).await;
        assert!(matches!(welcomed, Err(HelloError::TimedOut)));
        assert_eq!(began.elapsed(), PATIENCE);
    }

    // Nodes did not know who had dialled them: they could not send others there, nor reckon with it without a tracker.
    #[tokio::test]
    async fn both_ends_know_each_other_as_members_once_they_have_greeted() {
        let tracker = Identity::generate();
        let end = |zone: &str| {
            let identity = Identity::generate();
            let member = Member {
                peer: wire_peer(identity.libp2p_peer()).unwrap(),
                addresses: vec!["/ip4/192.0.2.1/tcp/9475".to_owned()],
                zone: zone.to_owned(),
                rack: String::new(),
                role: Role::Agent,
            };
            let certificate = issue(&tracker, member.clone(), unix_seconds(), PATIENCE).unwrap();
            let (ours, theirs) = watch::channel(Some(certificate));
            let membership = Membership {
                authority: Authority::of(tracker.libp2p_peer()).unwrap(),
                ours: theirs,
                boot_id: [0; 16],
            };
            (member, membership, ours)
        };
        let ((caller, mut callers, _one), (host, mut hosts, _two)) = (end("here"), end("there"));
        let (there, here) = tokio::io::duplex(1 << 14);
        let (greeted, welcomed) = tokio::join!(
            greet(Box::new(there), &host.peer, &mut callers),
            welcome(Box::new(here), &caller.peer, &mut hosts),
        );
        assert_eq!(greeted.unwrap().member, host);
        assert_eq!(welcomed.unwrap().member, caller);
    }

    #[tokio::test]
    async fn a_greeting_that_is_too_long_is_refused_before_it_is_read() {
        let tracker = Identity::generate().libp2p_peer();
        let (_ours, certificate) = watch::channel(None);
        let mut membership = Membership {
            authority: Authority::of(tracker).unwrap(),
            ours: certificate,
            boot_id: [0; 16],
        };
        let (stream, theirs) = tokio::io::duplex(1 << 10);
        let (_, mut writer) = frames(Box::new(theirs), MAX_BODY_LEN);
        let header = tranship_format::wire::Header {
            body_len: MAX_GREETING_LEN + 1,
            kind: 1,
            request: 0,
        };
        writer.send(&header.encode()).await.unwrap();
        let peer = PeerId::from_bytes(b"talker").unwrap();
        let welcomed = welcome(Box::new(stream), &peer, &mut membership).await;
        assert!(matches!(
            welcomed,
            Err(HelloError::Wire(WireError::FrameTooLong { .. }))
        ));
    }
}
