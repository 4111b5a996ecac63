//! Keeps a stream to the tracker: connects, joins, hands on what comes, and
//! begins again when it ends, with pauses that grow.

use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tranship_format::wire::{
    Certificate, ErrorCode, Join, JoinProof, MAX_BODY_LEN, Member, PeerId, TrackerReply,
    TrackerRequest, Versions, WireError,
};

use super::{Joined, SessionEvent};
use crate::net::certificate::{Authority, CertificateError, unix_seconds};
use crate::net::event::Event;
use crate::net::options::{JoinToken, TrackerAddress};
use crate::net::stream::{FrameReader, FrameWriter, StreamError, frames};
use crate::net::transport::{Purpose, Transport, TransportError};

/// The tracker has so long to take a node in.
const PATIENCE: Duration = Duration::from_secs(5);
/// First pause before the tracker is tried again; it doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause: a tracker that comes back is found within it.
const LAST_PAUSE: Duration = Duration::from_secs(8);

/// Who asks to be taken in, by whom, and why it should be.
#[derive(Clone, Debug)]
pub(crate) struct Applicant {
    pub(crate) tracker: TrackerAddress,
    /// The tracker, as the protocol writes it.
    pub(crate) tracker_peer: PeerId,
    pub(crate) authority: Authority,
    pub(crate) token: Option<JoinToken>,
    pub(crate) member: Member,
    pub(crate) boot_id: [u8; 16],
    /// Our certificate, if we have one.
    pub(crate) certificate: watch::Receiver<Option<Certificate>>,
}

impl Applicant {
    /// JOIN. A certificate serves as proof where no token was configured, and
    /// after a token no longer counts (`stale`), so that a node that is in stays in.
    pub(crate) fn request(&self, stale: bool) -> TrackerRequest {
        let certificate = self.certificate.borrow().clone();
        let proof = match (&self.token, certificate) {
            (None, Some(certificate)) => JoinProof::Certificate(Box::new(certificate)),
            (Some(_), Some(certificate)) if stale => JoinProof::Certificate(Box::new(certificate)),
            (Some(token), _) => JoinProof::Token(token.reveal().to_vec()),
            (None, None) => JoinProof::Token(Vec::new()),
        };
        TrackerRequest::Join(Box::new(Join {
            versions: Versions::OURS,
            proof,
            member: self.member.clone(),
            boot_id: self.boot_id,
        }))
    }
}

/// Runs until told to stop.
pub(crate) async fn keep(
    applicant: Applicant,
    transport: Transport,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    let mut pause = FIRST_PAUSE;
    let mut stale = false;
    loop {
        let link = stop.child_token();
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = converse(&applicant, &transport, &events, link, stale, &mut pause) => ended,
        };
        match &ended {
            Ok(()) => tracing::info!("the tracker's stream ended"),
            Err(error) => {
                tracing::info!(tracker = %applicant.tracker, error = error as &dyn std::error::Error, "the tracker is away");
            }
        }
        let refused = matches!(
            &ended,
            Err(JoinError::Refused {
                code: ErrorCode::NotAdmitted,
                ..
            })
        );
        stale = refused && !stale;
        let jittered = jitter(pause, &applicant.boot_id);
        pause = pause.saturating_mul(2).min(LAST_PAUSE);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(jittered) => {}
        }
    }
}

/// Half to all of a pause, by a number that differs between nodes, so that
/// those which lost the tracker together do not come back together.
fn jitter(pause: Duration, boot_id: &[u8; 16]) -> Duration {
    let share = u32::from(
        boot_id
            .iter()
            .fold(0u8, |sum, byte| sum.wrapping_mul(31) ^ byte),
    );
    pause / 2 + pause / 512 * share
}

async fn converse(
    applicant: &Applicant,
    transport: &Transport,
    events: &mpsc::Sender<Event>,
    stop: CancellationToken,
    stale: bool,
    pause: &mut Duration,
) -> Result<(), JoinError> {
    let joining = tokio::time::timeout(PATIENCE, join(applicant, transport, stale));
    let (mut reader, writer, accepted) = joining.await.map_err(|_| JoinError::TimedOut)??;
    tracing::info!(tracker = %applicant.tracker, epoch = accepted.epoch, "joined the swarm");
    *pause = FIRST_PAUSE;
    let (outbox, writing) = writer.queued();
    let joined = Joined {
        outbox,
        _stop: stop.clone().drop_guard(),
        certificate: accepted.certificate,
        epoch: accepted.epoch,
        heartbeat: accepted.heartbeat,
        seed: accepted.seed,
    };
    let tell = |event| {
        let tracker = applicant.tracker_peer;
        events.send(Event::Session { tracker, event })
    };
    if tell(SessionEvent::Up(Box::new(joined))).await.is_err() {
        return Ok(());
    }
    let reading = async {
        while let Some(frame) = reader.next().await.map_err(JoinError::Stream)? {
            let (request, reply) = TrackerReply::from_frame(&frame).map_err(JoinError::Wire)?;
            if tell(SessionEvent::Reply { request, reply }).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = reading => ended,
        ended = writing => ended.map_err(JoinError::Stream),
    };
    // A driver that has stopped does not mind.
    let _ = tell(SessionEvent::Down).await;
    ended
}

struct Accepted {
    certificate: Certificate,
    epoch: u64,
    heartbeat: Duration,
    seed: Option<Member>,
}

async fn join(
    applicant: &Applicant,
    transport: &Transport,
    stale: bool,
) -> Result<(FrameReader, FrameWriter, Accepted), JoinError> {
    let TrackerAddress { address, peer } = &applicant.tracker;
    let addresses = std::slice::from_ref(address);
    let opening = transport.open(*peer, addresses, Purpose::Tracker);
    let stream = opening.await.map_err(JoinError::Transport)?;
    let (mut reader, mut writer) = frames(stream, MAX_BODY_LEN);
    let mut bytes = Vec::new();
    applicant.request(stale).encode(1, &mut bytes);
    writer.send(&bytes).await.map_err(JoinError::Stream)?;
    let frame = reader.next().await.map_err(JoinError::Stream)?;
    let frame = frame.ok_or(JoinError::Closed)?;
    let (_, reply) = TrackerReply::from_frame(&frame).map_err(JoinError::Wire)?;
    match reply {
        TrackerReply::Joined {
            certificate,
            epoch,
            heartbeat_ms,
            seed,
            ..
        } => {
            applicant
                .authority
                .check(&certificate, &applicant.member.peer, unix_seconds())
                .map_err(JoinError::Certificate)?;
            let accepted = Accepted {
                certificate: *certificate,
                epoch,
                // A tracker that wants no pause would have us do nothing else.
                heartbeat: Duration::from_millis(heartbeat_ms.max(100).into()),
                seed: seed.map(|seed| *seed),
            };
            Ok((reader, writer, accepted))
        }
        TrackerReply::Error { code, text } => Err(JoinError::Refused { code, text }),
        _ => Err(JoinError::OutOfTurn),
    }
}

#[derive(Debug, Error)]
enum JoinError {
    #[error("no answer in time")]
    TimedOut,
    #[error("open a stream to the tracker")]
    Transport(#[source] TransportError),
    #[error("read or write the tracker's stream")]
    Stream(#[source] StreamError),
    #[error("understand the tracker")]
    Wire(#[source] WireError),
    #[error("the tracker closed the stream")]
    Closed,
    #[error("the tracker answers something else")]
    OutOfTurn,
    #[error("the tracker refuses: {text} ({code:?})")]
    Refused { code: ErrorCode, text: String },
    #[error("believe our own certificate")]
    Certificate(#[source] CertificateError),
}
