//! One front end at the other end of a connection: what it has said so far, and its rings.
//!
//! Messages are answered one after the other, by one thread; reads go on beside that. What makes no sense ends the connection: a front end
//! that connects again begins anew.

#![expect(
    clippy::host_endian_bytes,
    reason = "both sides are on one machine and speak in its byte order"
)]

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::block;
use super::in_flight::{InFlightRing, ring_notes_len};
use super::memory::GuestMemory;
use super::protocol::{
    HEADER_LEN, Header, InFlight, PROTOCOL_FEATURES, Places, Request, config_reply, pair,
    protocol_feature,
};
use super::ring::Ring;
use super::run::{Disk, Run};
use super::stream::{receive, send};
use crate::mapping::Mapping;

/// Most rings of a disk: guests have one a processor, and go without the rest.
pub(super) const RING_COUNT: u16 = 16;
/// Longest ring.
const RING_LEN_MAX: u32 = 32768;
/// How long a front end that stops a ring waits for reads in progress. It waits with the whole virtual machine.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

const OUR_PROTOCOL_FEATURES: u64 = protocol_feature::MULTI_QUEUE
    | protocol_feature::REPLY_ACK
    | protocol_feature::CONFIG
    | protocol_feature::IN_FLIGHT;

/// Why a connection ends before the front end closes it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    /// The connection broke, or memory could not be mapped.
    #[error("the connection broke, or what came over it is of no use")]
    Broken(#[from] io::Error),
    /// The front end does not speak the protocol.
    #[error("the front end does not speak vhost-user: {0}")]
    Malformed(&'static str),
}

/// A ring as the front end describes it, bit by bit.
#[derive(Default)]
struct Setup {
    len: u32,
    base: u16,
    places: Option<Places>,
    kick: Option<OwnedFd>,
    call: Option<OwnedFd>,
    is_enabled: bool,
    run: Option<Arc<Run>>,
}

/// A front end.
pub(super) struct Connection<'a> {
    stream: &'a UnixStream,
    disk: Arc<Disk>,
    features: u64,
    protocol_features: u64,
    memory: Option<Arc<GuestMemory>>,
    /// And for how many places each ring has room in them.
    notes: Option<(Arc<Mapping>, u16)>,
    rings: Vec<Setup>,
}

impl<'a> Connection<'a> {
    pub(super) fn new(stream: &'a UnixStream, disk: Arc<Disk>) -> Self {
        Self {
            stream,
            disk,
            features: 0,
            protocol_features: 0,
            memory: None,
            notes: None,
            rings: (0..RING_COUNT).map(|_| Setup::default()).collect(),
        }
    }

    /// Answers until the front end leaves.
    pub(super) fn run(mut self) -> Result<(), ConnectionError> {
        let outcome = loop {
            match self.next() {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        for ring in &mut self.rings {
            if let Some(run) = ring.run.take() {
                run.stop(Duration::ZERO);
            }
        }
        outcome
    }

    /// Answers one message; false when there is none any more.
    fn next(&mut self) -> Result<bool, ConnectionError> {
        let mut head = [0; HEADER_LEN];
        let Some(fds) = receive(self.stream, &mut head)? else {
            return Ok(false);
        };
        let header = Header::parse(&head).ok_or(ConnectionError::Malformed("no header"))?;
        let mut payload = vec![0; header.len];
        let mut stream = self.stream;
        stream.read_exact(&mut payload)?;
        let request = Request::parse(header.kind, &payload)
            .ok_or(ConnectionError::Malformed("a message that makes no sense"))?;
        let answer = self.answer(request, fds)?;
        let is_acknowledged = self.protocol_features & protocol_feature::REPLY_ACK != 0;
        match answer {
            Answer::None if is_acknowledged && header.needs_reply() => {
                stream.write_all(&header.reply(&0_u64.to_ne_bytes()))?;
            }
            Answer::None => {}
            Answer::Bytes(bytes) => stream.write_all(&header.reply(&bytes))?,
            Answer::With(bytes, fd) => send(self.stream, &header.reply(&bytes), &fd)?,
        }
        Ok(true)
    }

    fn answer(
        &mut self,
        request: Request,
        mut fds: Vec<OwnedFd>,
    ) -> Result<Answer, ConnectionError> {
        match request {
            Request::GetFeatures => return Ok(Answer::of(block::FEATURES | PROTOCOL_FEATURES)),
            Request::SetFeatures(features) => {
                if features & !(block::FEATURES | PROTOCOL_FEATURES) != 0 {
                    return Err(ConnectionError::Malformed("features that were not offered"));
                }
                self.features = features;
            }
            Request::GetProtocolFeatures => return Ok(Answer::of(OUR_PROTOCOL_FEATURES)),
            Request::SetProtocolFeatures(features) => {
                self.protocol_features = features & OUR_PROTOCOL_FEATURES;
            }
            Request::GetRingCount => return Ok(Answer::of(RING_COUNT.into())),
            Request::GetConfig { offset, len } => {
                let device_len = self.disk.content.len();
                let bytes = block::config(device_len, RING_COUNT, offset, len);
                return Ok(Answer::Bytes(config_reply(offset, &bytes)));
            }
            Request::SetMemory(regions) => {
                let memory = Arc::new(GuestMemory::map(regions, fds)?);
                for run in self.rings.iter().filter_map(|ring| ring.run.as_ref()) {
                    run.set_memory(Arc::clone(&memory));
                }
                self.memory = Some(memory);
            }
            Request::SetRingLen { ring, len } => {
                if len > RING_LEN_MAX {
                    return Err(ConnectionError::Malformed("a ring that is too long"));
                }
                self.ring(ring)?.len = len;
            }
            Request::SetRingPlaces { ring, places } => self.ring(ring)?.places = Some(places),
            Request::SetRingBase { ring, base } => {
                self.ring(ring)?.base = u16::try_from(base & 0xffff).unwrap_or_default();
            }
            Request::GetRingBase { ring: number } => {
                let ring = self.ring(number)?;
                ring.stop();
                ring.kick = None;
                let base = ring.base;
                return Ok(Answer::Bytes(pair(number, base.into())));
            }
            Request::SetKick {
                ring: number,
                has_fd,
            } => {
                let without = self.features & PROTOCOL_FEATURES == 0;
                let ring = self.ring(number)?;
                ring.stop();
                ring.kick = has_fd.then(|| fds.pop()).flatten();
                // A front end without protocol features has no other word for it.
                ring.is_enabled |= without;
                self.begin(number)?;
            }
            Request::SetCall { ring, has_fd } => {
                let call = has_fd.then(|| fds.pop()).flatten();
                let ring = self.ring(ring)?;
                if let Some(run) = &ring.run {
                    run.set_call(clone_of(call.as_ref())?);
                }
                ring.call = call;
            }
            Request::EnableRing {
                ring: number,
                enable,
            } => {
                let ring = self.ring(number)?;
                ring.is_enabled = enable;
                if enable {
                    self.begin(number)?;
                } else {
                    ring.stop();
                }
            }
            Request::GetInFlight(wanted) => return make_notes(wanted),
            Request::SetInFlight(notes) => {
                let file = fds.pop().ok_or(ConnectionError::Malformed("no notes"))?;
                let mapping = Mapping::new(file, notes.offset, notes.len)?;
                self.notes = Some((Arc::new(mapping), notes.ring_len));
            }
            Request::SetOwner
            | Request::ResetOwner
            | Request::SetError
            | Request::SetConfig
            | Request::Unknown(_) => {}
        }
        Ok(Answer::None)
    }

    fn ring(&mut self, number: u32) -> Result<&mut Setup, ConnectionError> {
        usize::try_from(number)
            .ok()
            .and_then(|number| self.rings.get_mut(number))
            .ok_or(ConnectionError::Malformed("a ring that is not there"))
    }

    /// Begins to serve a ring once all of it is known.
    fn begin(&mut self, number: u32) -> Result<(), ConnectionError> {
        let (Some(memory), notes) = (self.memory.clone(), self.notes.clone()) else {
            return Ok(());
        };
        let disk = Arc::clone(&self.disk);
        let setup = self.ring(number)?;
        let (Some(kick), Some(places)) = (&setup.kick, setup.places) else {
            return Ok(());
        };
        if !setup.is_enabled || setup.run.is_some() {
            return Ok(());
        }
        let at = |user| {
            let address = memory.guest_address(user);
            address.ok_or(ConnectionError::Malformed("a ring outside of the memory"))
        };
        let at = (
            at(places.descriptors)?,
            at(places.available)?,
            at(places.used)?,
        );
        let notes = notes.zip(u16::try_from(setup.len).ok());
        let notes = notes
            .and_then(|((notes, room), len)| InFlightRing::new(&notes, number.into(), room, len));
        let ring = Ring::new(memory.as_ref(), at, setup.len, setup.base, notes);
        let ring = ring.map_err(|error| {
            tracing::debug!(error = &error as &dyn std::error::Error, "no ring");
            ConnectionError::Malformed("a ring that cannot be")
        })?;
        let (kick, call) = (kick.try_clone()?, clone_of(setup.call.as_ref())?);
        setup.run = Some(Run::begin(&disk, ring, memory, kick, call)?);
        Ok(())
    }
}

impl Setup {
    fn stop(&mut self) {
        if let Some(run) = self.run.take() {
            self.base = run.stop(STOP_PATIENCE);
        }
    }
}

/// What a message is answered with.
enum Answer {
    None,
    Bytes(Vec<u8>),
    With(Vec<u8>, OwnedFd),
}

impl Answer {
    fn of(number: u64) -> Self {
        Self::Bytes(number.to_ne_bytes().to_vec())
    }
}

fn clone_of(fd: Option<&OwnedFd>) -> io::Result<Option<OwnedFd>> {
    fd.map(OwnedFd::try_clone).transpose()
}

/// Makes the memory for notes, which the front end keeps.
fn make_notes(wanted: InFlight) -> Result<Answer, ConnectionError> {
    if wanted.ring_count > RING_COUNT {
        return Err(ConnectionError::Malformed("more rings than there are"));
    }
    let len = ring_notes_len(wanted.ring_len).saturating_mul(wanted.ring_count.max(1).into());
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create("tranship-in-flight", flags).map_err(io::Error::from)?;
    ftruncate(&file, len).map_err(io::Error::from)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&file, seals).map_err(io::Error::from)?;
    let made = InFlight {
        len,
        offset: 0,
        ..wanted
    };
    Ok(Answer::With(made.to_bytes(), file))
}
