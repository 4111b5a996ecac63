//! The keeper: a process that does nothing but hold descriptors for others, so that the kernel sees no end when those others die.
//!
//! A FUSE connection lives for as long as one duplicate of its descriptor is open, and a loop device that detaches itself for as
//! long as somebody has it open. Whoever serves a device gives the keeper a duplicate of each; a successor asks for them by name and
//! goes on. The keeper reads nothing from what it holds, so it can neither delay nor spoil a request, and it is small enough to be right.
//!
//! A name is `DEVICE/PART`. The descriptors of one device go together: when the kernel has ended one of them, none is of use.

mod client;
mod launch;
mod message;
mod packet;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SocketFlags, accept_with};

use crate::errno::{Refusal, refusal};
use crate::speaks::Speaks;

use message::{Request, Status};

pub use client::{KeeperClient, KeeperError, wait_for_end};
pub use launch::{connect_or_launch, identity, listen, replace};

/// Most descriptors held, and most clients at one time: far above what one machine has devices.
const HELD_MAX: usize = 4096;
const CLIENTS_MAX: usize = 1024;
/// How often to look whether what is held is still of use, while nobody is there who would say so.
const LONELY_LOOK: Duration = Duration::from_secs(1);
/// How long to wait for the first client.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// Holds descriptors for whoever connects to `listener` (see [`listen`]), until there is neither a client nor anything to hold.
///
/// After `patience` without any client everything is let go of: then nobody comes back, and readers that wait get errors instead of
/// waiting for ever.
pub fn keep(listener: OwnedFd, patience: Duration) -> io::Result<()> {
    keep_speaking(listener, patience, message::SPEAKS)
}

/// The same as a keeper that speaks those versions, as one of another release does.
pub fn keep_speaking(listener: OwnedFd, patience: Duration, speaks: Speaks) -> io::Result<()> {
    Keeper {
        speaks,
        listener,
        clients: Vec::new(),
        held: BTreeMap::new(),
        lonely_since: Instant::now(),
        patience,
        was_used: false,
        program: identity(Path::new("/proc/self/exe")).unwrap_or_default(),
        is_over: false,
    }
    .run()
}

struct Keeper {
    speaks: Speaks,
    listener: OwnedFd,
    clients: Vec<OwnedFd>,
    held: BTreeMap<String, OwnedFd>,
    /// When the last client went.
    lonely_since: Instant,
    patience: Duration,
    /// Whether there ever was a client.
    was_used: bool,
    /// Which file this program is, for those who look whether there is a newer one.
    program: String,
    /// Whether a client has said so.
    is_over: bool,
}

impl Keeper {
    fn run(mut self) -> io::Result<()> {
        loop {
            self.wait_and_serve()?;
            if self.is_over {
                return Ok(());
            }
            if !self.clients.is_empty() {
                continue;
            }
            let lonely = self.lonely_since.elapsed();
            if lonely >= self.patience && !self.held.is_empty() {
                self.held.clear();
            }
            self.let_go_of_the_dead();
            if self.held.is_empty() && (self.was_used || lonely >= FIRST_PATIENCE) {
                return Ok(());
            }
        }
    }

    /// Waits for clients and what they say, and answers it.
    fn wait_and_serve(&mut self) -> io::Result<()> {
        let timeout = self.clients.is_empty().then(|| timespec(LONELY_LOOK));
        let mut waits: Vec<PollFd<'_>> = Vec::with_capacity(self.clients.len() + 1);
        waits.push(PollFd::new(&self.listener, PollFlags::IN));
        waits.extend(
            self.clients
                .iter()
                .map(|client| PollFd::new(client, PollFlags::IN)),
        );
        match poll(&mut waits, timeout.as_ref()).map_err(io::Error::from) {
            Ok(_) => {}
            Err(error) if refusal(&error) == Refusal::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut ready = waits.iter().map(|wait| !wait.revents().is_empty());
        let has_new = ready.next().unwrap_or_default();
        let spoke: Vec<bool> = ready.collect();
        drop(waits);
        let mut spoke = spoke.into_iter();
        let clients = std::mem::take(&mut self.clients);
        for client in clients {
            if !spoke.next().unwrap_or_default() || self.serve(&client) {
                self.clients.push(client);
            } else {
                self.lonely_since = Instant::now();
            }
        }
        if has_new {
            self.welcome();
        }
        Ok(())
    }

    fn welcome(&mut self) {
        match accept_with(&self.listener, SocketFlags::CLOEXEC) {
            Ok(client) if self.clients.len() < CLIENTS_MAX => {
                self.was_used = true;
                self.clients.push(client);
            }
            // Too many, or gone already: it is closed, and sees that.
            Ok(_) | Err(_) => {}
        }
    }

    /// Answers what a client has said; whether it is still there.
    fn serve(&mut self, client: &OwnedFd) -> bool {
        let Ok(Some((message, fd))) = packet::receive(client.as_fd()) else {
            return false;
        };
        let (version, request) = message::parse_request(&message, self.speaks);
        let (reply, given) = match request {
            Ok(request) => {
                let (status, text, given) = self.answer(request, fd);
                (message::reply(version, status, text), given)
            }
            Err(Status::OtherVersion) => (message::reply_of_other_version(self.speaks), None),
            Err(status) => (message::reply(version, status, ""), None),
        };
        // One that does not take its answers is not waited for: the others would wait with it.
        packet::send(client.as_fd(), &reply, given).is_ok()
    }

    fn answer(
        &mut self,
        request: Request<'_>,
        fd: Option<OwnedFd>,
    ) -> (Status, &str, Option<BorrowedFd<'_>>) {
        match (request, fd) {
            (Request::Keep(name), Some(fd)) => {
                if self.held.len() >= HELD_MAX && !self.held.contains_key(name) {
                    return (Status::Full, "", None);
                }
                self.held.insert(name.to_owned(), fd);
                (Status::Done, "", None)
            }
            (Request::Give(name), None) => match self.held.get(name) {
                Some(fd) => (Status::Done, "", Some(fd.as_fd())),
                None => (Status::NotHeld, "", None),
            },
            (Request::LetGo(name), None) => match self.held.remove(name) {
                Some(_) => (Status::Done, "", None),
                None => (Status::NotHeld, "", None),
            },
            (Request::Program, None) => (Status::Done, &self.program, None),
            (Request::End, None) => {
                self.held.clear();
                self.is_over = true;
                (Status::Done, "", None)
            }
            (Request::Version, None) => (Status::Done, "", None),
            (Request::NameAfter(name), None) => {
                let after = (std::ops::Bound::Excluded(name), std::ops::Bound::Unbounded);
                match self.held.range::<str, _>(after).next() {
                    Some((next, _)) => (Status::Done, next, None),
                    None => (Status::NotHeld, "", None),
                }
            }
            _ => (Status::NotUnderstood, "", None),
        }
    }

    /// Lets go of devices of which the kernel has ended a descriptor.
    ///
    /// They are not waited on: that would wake this process with every request. A poll that may not wait costs the others nothing.
    fn let_go_of_the_dead(&mut self) {
        let mut looks: Vec<PollFd<'_>> = self
            .held
            .values()
            .map(|fd| PollFd::new(fd, PollFlags::empty()))
            .collect();
        if poll(&mut looks, Some(&timespec(Duration::ZERO))).is_err() {
            return;
        }
        let dead: Vec<String> = self
            .held
            .keys()
            .zip(&looks)
            .filter(|(_, look)| look.revents().intersects(PollFlags::ERR | PollFlags::HUP))
            .map(|(name, _)| message::device_of(name).to_owned())
            .collect();
        self.held
            .retain(|name, _| !dead.iter().any(|device| device == message::device_of(name)));
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
