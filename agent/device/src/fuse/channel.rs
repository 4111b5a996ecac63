//! The connection's descriptor: requests in, replies out, and a bell that calls readers away from it.
//!
//! Readers wait in epoll on the *same* descriptor. A cloned one would spread the load over queues, but its requests fail
//! when the process dies, where those of a descriptor that a keeper also holds wait for a successor. `EPOLLEXCLUSIVE` wakes
//! one reader a request, as a blocking read would, and unlike that leaves a way to stop without ending the connection.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::errno::{Errno, Refusal, refusal};

use super::abi;
use super::requests::Place;

/// Which of the two woke a waiter does not matter: it looks at both.
const ANY: epoll::EventData = epoll::EventData::new_u64(0);

/// A FUSE connection, as its server sees it.
#[derive(Debug)]
pub(super) struct Channel {
    fd: OwnedFd,
    bell: OwnedFd,
    /// Whether the bell was rung: seen by readers that are too busy to wait at it.
    rung: AtomicBool,
}

/// What a reader was given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A request of that many bytes.
    Request(usize),
    /// The connection is no more: unmounted or aborted.
    Ended,
    /// The bell was rung.
    CalledAway,
    /// Nothing came for as long as was to be waited.
    Idle,
}

impl Channel {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let flags = fcntl_getfl(&fd)?;
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self {
            fd,
            bell,
            rung: AtomicBool::new(false),
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Calls all readers away, now and for ever.
    pub(super) fn ring(&self) -> io::Result<()> {
        self.rung.store(true, Ordering::Release);
        rustix::io::write(&self.bell, &u64::from(true).to_le_bytes())?;
        Ok(())
    }

    /// Whether the readers were called away.
    pub(super) fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    /// A place to wait for requests, for one thread.
    pub(super) fn waiter(&self) -> io::Result<OwnedFd> {
        let waiter = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let requests = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
        epoll::add(&waiter, &self.fd, ANY, requests)?;
        epoll::add(&waiter, &self.bell, ANY, epoll::EventFlags::IN)?;
        Ok(waiter)
    }

    /// Waits for a request and puts it into `place`, for ever or for `patience`.
    pub(super) fn next(
        &self,
        waiter: &OwnedFd,
        place: &Place,
        patience: Option<Duration>,
    ) -> io::Result<Next> {
        let timeout = patience.map(|patience| Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: patience.subsec_nanos().into(),
        });
        let mut events: Vec<epoll::Event> = Vec::with_capacity(2);
        loop {
            if self.is_rung() {
                return Ok(Next::CalledAway);
            }
            // Asking before waiting saves the wait under load.
            match place.read(self.fd()) {
                Ok(len) => return Ok(Next::Request(len)),
                Err(error) => match refusal(&error) {
                    Refusal::WouldBlock => {}
                    // NoEntry: the request was taken back while it was being read.
                    Refusal::Interrupted | Refusal::NoEntry => continue,
                    Refusal::Unknown | Refusal::Ended => return Ok(Next::Ended),
                    _ => return Err(error),
                },
            }
            events.clear();
            let woken = epoll::wait(waiter, spare_capacity(&mut events), timeout.as_ref());
            match woken.map_err(io::Error::from) {
                Ok(0) => return Ok(Next::Idle),
                Ok(_) => {}
                Err(error) if refusal(&error) == Refusal::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Answers the request `unique`. That nobody waits for the answer any longer is not an error.
    pub(super) fn reply(&self, unique: u64, body: Result<&[u8], Errno>) -> io::Result<()> {
        let header = abi::reply_header(unique, body.map(<[u8]>::len));
        let parts = [
            IoSlice::new(&header),
            IoSlice::new(body.unwrap_or_default()),
        ];
        loop {
            let Err(error) = rustix::io::writev(&self.fd, &parts).map_err(io::Error::from) else {
                return Ok(());
            };
            match refusal(&error) {
                Refusal::Interrupted => {}
                Refusal::NoEntry | Refusal::Unknown | Refusal::Ended => return Ok(()),
                _ => return Err(error),
            }
        }
    }

    /// Has the kernel queue the requests again that were read and not answered.
    pub(super) fn resend(&self) -> io::Result<()> {
        rustix::io::write(&self.fd, &abi::resend_notice())?;
        Ok(())
    }
}
