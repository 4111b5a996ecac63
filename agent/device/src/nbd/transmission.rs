//! Requests and replies, once an export is chosen.
//!
//! Several threads share a connection: one at a time reads the next request, then answers it while another reads on. So a
//! read that waits for the network does not hold up those behind it, and a connection that asks for one thing at a time
//! needs two threads and no queue.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, Scope, scope};

use crate::block_read::{BlockRead, BlockReadError, read_or_errno, runs_of};
use crate::crew::locked;
use crate::errno::Errno;

use super::buffers::{Buffers, PART_LEN};
use super::handshake::Agreed;
use super::protocol::{
    BASE_ALLOCATION_ID, Command, DO_NOT_FRAGMENT, HOLE_AND_ZERO, Message, PAYLOAD_LEN_MAX,
    REQUEST_LEN, REQUEST_ONE, Request, chunk, chunk_header, error_code, request, simple_header,
};

/// Most runs in one answer about zeroes; the client comes again for more.
const RUN_COUNT_MAX: usize = 4096;

/// A connection that has its export.
pub(super) struct Transmission<'a> {
    agreed: Agreed<'a>,
    stream: &'a UnixStream,
    buffers: &'a Buffers,
    worker_count_max: usize,
    worker_count: AtomicUsize,
    /// Threads that wait to read the next request.
    waiting_count: AtomicUsize,
    /// Held while a request is read.
    incoming: Mutex<Incoming<'a>>,
    /// Held while a reply, or a chunk of it, is written.
    outgoing: Mutex<()>,
    /// Whether the connection ends where a read fails because the device is stopping, so that a successor answers it.
    leaves_what_stops: bool,
}

struct Incoming<'a> {
    stream: BufReader<&'a UnixStream>,
    ended: bool,
}

impl<'a> Transmission<'a> {
    pub(super) fn new(
        agreed: Agreed<'a>,
        stream: &'a UnixStream,
        buffers: &'a Buffers,
        worker_count_max: usize,
    ) -> Self {
        Self {
            agreed,
            stream,
            buffers,
            worker_count_max,
            worker_count: AtomicUsize::new(1),
            waiting_count: AtomicUsize::new(0),
            incoming: Mutex::new(Incoming {
                stream: BufReader::new(stream),
                ended: false,
            }),
            outgoing: Mutex::new(()),
            leaves_what_stops: false,
        }
    }

    /// Leaves reads that fail because the device is stopping to whoever serves the client next.
    pub(super) fn leaving_what_stops(self) -> Self {
        Self {
            leaves_what_stops: true,
            ..self
        }
    }

    /// Answers until the client leaves or the connection breaks.
    pub(super) fn run(&self) {
        scope(|scope| self.work(scope));
    }

    fn work<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        while let Some(request) = self.next() {
            self.see_to_successor(scope);
            if let Err(error) = self.answer(request) {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "an NBD client is gone"
                );
                // So that the threads that wait for its next request notice.
                let _ = self.stream.shutdown(std::net::Shutdown::Both);
                break;
            }
        }
    }

    fn next(&self) -> Option<Request> {
        self.waiting_count.fetch_add(1, Ordering::SeqCst);
        let mut incoming = locked(&self.incoming);
        self.waiting_count.fetch_sub(1, Ordering::SeqCst);
        if incoming.ended {
            return None;
        }
        let next = incoming.next();
        if let Err(error) = &next {
            tracing::debug!(
                error = error as &dyn std::error::Error,
                "an NBD connection ends"
            );
        }
        let next = next.ok().flatten();
        incoming.ended = next.is_none();
        next
    }

    /// Sees to it that somebody reads the next request while this thread answers one.
    fn see_to_successor<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        let is_one_needed = self.waiting_count.load(Ordering::SeqCst) == 0
            && self.worker_count.load(Ordering::SeqCst) < self.worker_count_max;
        if !is_one_needed {
            return;
        }
        self.worker_count.fetch_add(1, Ordering::SeqCst);
        let started = Builder::new()
            .name("nbd-worker".to_owned())
            .spawn_scoped(scope, move || self.work(scope));
        if let Err(error) = started {
            // Those that are there serve on.
            self.worker_count.fetch_sub(1, Ordering::SeqCst);
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot start an NBD thread"
            );
        }
    }

    fn answer(&self, request: Request) -> io::Result<()> {
        match request.command {
            Command::Read => self.read(request),
            Command::BlockStatus => self.block_status(request),
            Command::Cache => self.cache(request),
            Command::Write | Command::Trim | Command::WriteZeroes => {
                self.simple(request, Err(Errno::NotPermitted))
            }
            // Nothing is ever written, so everything is on stable storage.
            Command::Flush => self.simple(request, Ok(())),
            Command::Disconnect | Command::Other => self.simple(request, Err(Errno::Invalid)),
        }
    }

    fn content(&self) -> &dyn BlockRead {
        self.agreed.export.content.as_ref()
    }

    /// Checks what every request for bytes must keep to.
    fn check(&self, request: Request, flags_allowed: u16) -> Result<(), Errno> {
        let device_len = self.content().len();
        BlockReadError::check_range(request.offset, request.len.into(), device_len)
            .map_err(|error| Errno::from(&error))?;
        if request.flags & !flags_allowed != 0 {
            return Err(Errno::Invalid);
        }
        Ok(())
    }

    fn read(&self, request: Request) -> io::Result<()> {
        let flags_allowed = if self.agreed.structured {
            DO_NOT_FRAGMENT
        } else {
            0
        };
        if let Err(errno) = self.check(request, flags_allowed) {
            return self.fail(request, errno, None);
        }
        if request.len > PAYLOAD_LEN_MAX {
            return self.fail(request, Errno::Overflow, None);
        }
        if !self.agreed.structured {
            return self.read_simple(request);
        }
        if request.len == 0 {
            return self.write(&chunk_header(chunk::NONE, true, request.cookie, 0));
        }
        let part_len = if request.flags & DO_NOT_FRAGMENT == 0 {
            PART_LEN
        } else {
            PAYLOAD_LEN_MAX as usize
        };
        self.read_in_parts(request, part_len)
    }

    /// A reply in chunks, so that no more than a part of it is held in memory and an error half way can be told.
    fn read_in_parts(&self, request: Request, part_len: usize) -> io::Result<()> {
        let mut offset = request.offset;
        let mut left = request.len as usize;
        let mut buffer = self.buffers.take(part_len.min(left));
        while left > 0 {
            let len = part_len.min(left);
            if let Err(errno) = read_or_errno(self.content(), offset, buffer.data(len)) {
                return self.fail(request, errno, Some(offset));
            }
            left -= len;
            let chunk_len = u32::try_from(len).unwrap_or(u32::MAX).saturating_add(8);
            let mut header = Message::default();
            header.bytes(&chunk_header(
                chunk::OFFSET_DATA,
                left == 0,
                request.cookie,
                chunk_len,
            ));
            header.u64(offset);
            self.write(buffer.with_header(&header.0, len))?;
            offset = offset.saturating_add(len as u64);
        }
        Ok(())
    }

    /// A reply in one piece, which must be wholly there before it begins: once begun there is no way to tell an error.
    fn read_simple(&self, request: Request) -> io::Result<()> {
        let len = request.len as usize;
        let mut buffer = self.buffers.take(len);
        match read_or_errno(self.content(), request.offset, buffer.data(len)) {
            Ok(()) => {}
            Err(Errno::ShutDown) if self.leaves_what_stops => {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            Err(errno) => return self.simple(request, Err(errno)),
        }
        self.write(buffer.with_header(&simple_header(request.cookie, Ok(())), len))
    }

    fn block_status(&self, request: Request) -> io::Result<()> {
        let checked = self.check(request, REQUEST_ONE);
        if !self.agreed.base_allocation || request.len == 0 || checked.is_err() {
            return self.fail(request, Errno::Invalid, None);
        }
        let count_max = if request.flags & REQUEST_ONE == 0 {
            RUN_COUNT_MAX
        } else {
            1
        };
        let mut body = Message::default();
        body.u32(BASE_ALLOCATION_ID);
        let runs = runs_of(self.content(), request.offset, request.len.into());
        for run in runs.into_iter().take(count_max) {
            body.u32(u32::try_from(run.len).unwrap_or(u32::MAX));
            body.u32(if run.zero { HOLE_AND_ZERO } else { 0 });
        }
        self.write_chunk(chunk::BLOCK_STATUS, request, &body)
    }

    /// Reads what the client is going to read, so that it is here then. No reply carries it, so any length will do.
    fn cache(&self, request: Request) -> io::Result<()> {
        if let Err(errno) = self.check(request, 0) {
            return self.simple(request, Err(errno));
        }
        let mut buffer = self.buffers.take(PART_LEN.min(request.len as usize));
        let end = request.offset.saturating_add(request.len.into());
        for offset in (request.offset..end).step_by(PART_LEN) {
            let left = usize::try_from(end.saturating_sub(offset)).unwrap_or(PART_LEN);
            let part = buffer.data(PART_LEN.min(left));
            if let Err(errno) = read_or_errno(self.content(), offset, part) {
                return self.simple(request, Err(errno));
            }
        }
        self.simple(request, Ok(()))
    }

    /// Tells that a request for bytes failed, and where, if that is known.
    fn fail(&self, request: Request, errno: Errno, at: Option<u64>) -> io::Result<()> {
        if !self.agreed.structured {
            return self.simple(request, Err(errno));
        }
        let mut body = Message::default();
        body.u32(error_code(errno));
        body.u16(0); // no message: the errors are told in this node's log
        let Some(at) = at else {
            return self.write_chunk(chunk::ERROR, request, &body);
        };
        body.u64(at);
        self.write_chunk(chunk::ERROR_OFFSET, request, &body)
    }

    fn simple(&self, request: Request, outcome: Result<(), Errno>) -> io::Result<()> {
        self.write(&simple_header(request.cookie, outcome))
    }

    /// Writes a chunk that ends its reply.
    fn write_chunk(&self, kind: u16, request: Request, body: &Message) -> io::Result<()> {
        let len = u32::try_from(body.0.len()).unwrap_or(u32::MAX);
        let mut message = Message::default();
        message.bytes(&chunk_header(kind, true, request.cookie, len));
        message.bytes(&body.0);
        self.write(&message.0)
    }

    fn write(&self, message: &[u8]) -> io::Result<()> {
        let _turn = locked(&self.outgoing);
        let mut stream = self.stream;
        stream.write_all(message)
    }
}

impl Incoming<'_> {
    /// The next request; nothing when the client says goodbye or does not speak the protocol.
    fn next(&mut self) -> io::Result<Option<Request>> {
        let mut message = [0; REQUEST_LEN];
        self.stream.read_exact(&mut message)?;
        let Some(request) = request(&message) else {
            tracing::debug!("an NBD client sends no requests");
            return Ok(None);
        };
        match request.command {
            Command::Disconnect => Ok(None),
            Command::Write if request.len > PAYLOAD_LEN_MAX => {
                tracing::debug!(request.len, "an NBD client sends too much");
                Ok(None)
            }
            Command::Write => {
                // The payload must be out of the way before the next request.
                let mut payload = self.stream.by_ref().take(request.len.into());
                let skipped = io::copy(&mut payload, &mut io::sink())?;
                Ok((skipped == u64::from(request.len)).then_some(request))
            }
            Command::Read
            | Command::Flush
            | Command::Trim
            | Command::Cache
            | Command::WriteZeroes
            | Command::BlockStatus
            | Command::Other => Ok(Some(request)),
        }
    }
}

#[cfg(test)]
mod tests;
