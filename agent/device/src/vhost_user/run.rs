//! A ring at work: threads that take the guest's requests, read, and give them back.
//!
//! As on an NBD connection, one thread at a time waits for the next request and answers it while another waits, so that a read that the
//! network holds up holds up nobody. The guest's memory is touched under the ring's lock alone, and only while the ring is at work: a
//! ring that was stopped leaves what its threads still read undone, with its note, for whoever serves next.

#![expect(
    clippy::host_endian_bytes,
    reason = "the kernel counts events in the machine's byte order"
)]

use std::error::Error;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::block_read::{BlockRead, read_or_errno};
use crate::crew::{Crew, locked};
use crate::errno::{Errno, Refusal, refusal};

use super::block::{self, Status, Wish};
use super::memory::GuestMemory;
use super::ring::{Chain, Ring, RingError};

/// Longest part of a read that is held here at once, in bytes.
const PART_LEN: usize = 1 << 20;

/// What all rings of a server share.
pub(super) struct Disk {
    pub(super) content: Arc<dyn BlockRead>,
    pub(super) name: String,
    pub(super) worker_count_max: usize,
    pub(super) crew: Crew,
}

/// A ring at work.
pub(super) struct Run {
    disk: Arc<Disk>,
    kick: OwnedFd,
    /// Rung to call the threads away.
    bell: OwnedFd,
    state: Mutex<State>,
    /// Something was given back.
    idle: Condvar,
}

struct State {
    ring: Ring,
    memory: Arc<GuestMemory>,
    call: Option<OwnedFd>,
    is_stopped: bool,
    /// Requests that are read for at the moment.
    busy_count: usize,
    worker_count: usize,
    waiting_count: usize,
}

/// What came of waiting for a request.
enum Next {
    Chain(Chain),
    End,
}

impl Run {
    /// Begins to serve `ring`, whose guest rings `kick` and is told by `call`.
    pub(super) fn begin(
        disk: &Arc<Disk>,
        ring: Ring,
        memory: Arc<GuestMemory>,
        kick: OwnedFd,
        call: Option<OwnedFd>,
    ) -> io::Result<Arc<Self>> {
        let run = Arc::new(Self {
            disk: Arc::clone(disk),
            kick,
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            state: Mutex::new(State {
                ring,
                memory,
                call,
                is_stopped: false,
                busy_count: 0,
                worker_count: 1,
                waiting_count: 0,
            }),
            idle: Condvar::new(),
        });
        start_worker(&run)?;
        Ok(run)
    }

    /// Uses another descriptor to tell the guest, from now on.
    pub(super) fn set_call(&self, call: Option<OwnedFd>) {
        locked(&self.state).call = call;
    }

    /// Uses another view of the guest's memory, from now on.
    pub(super) fn set_memory(&self, memory: Arc<GuestMemory>) {
        locked(&self.state).memory = memory;
    }

    /// Takes no further request, waits up to `patience` for those in progress, and leaves alone what is not done by then. Gives the number
    /// of the next request.
    pub(super) fn stop(&self, patience: Duration) -> u16 {
        // Seen under the lock by whoever would take another.
        if let Err(error) = rustix::io::write(&self.bell, &1_u64.to_ne_bytes()) {
            tracing::warn!(%error, "cannot call a ring's threads away");
        }
        let (mut state, _) = self
            .idle
            .wait_timeout_while(locked(&self.state), patience, |state| state.busy_count > 0)
            .unwrap_or_else(PoisonError::into_inner);
        state.is_stopped = true;
        state.ring.base()
    }

    fn work(self: &Arc<Self>) {
        let mut buffer = Vec::new();
        while let Next::Chain(chain) = self.next() {
            self.see_to_successor();
            self.answer(&chain, &mut buffer);
        }
        locked(&self.state).worker_count -= 1;
    }

    /// Waits for a request.
    fn next(&self) -> Next {
        loop {
            {
                let mut state = locked(&self.state);
                if state.is_stopped || is_rung(&self.bell) {
                    return Next::End;
                }
                let State { ring, memory, .. } = &mut *state;
                match ring.take(memory.as_ref()) {
                    Ok(Some(chain)) => {
                        state.busy_count += 1;
                        return Next::Chain(chain);
                    }
                    Ok(None) if state.waiting_count > 0 => {
                        // Another waits already; more than one would all wake for each request.
                        return Next::End;
                    }
                    Ok(None) => state.waiting_count += 1,
                    Err(error) => {
                        give_up(&mut state, error);
                        return Next::End;
                    }
                }
            }
            let waited = self.wait_for_kick();
            locked(&self.state).waiting_count -= 1;
            if let Err(error) = waited {
                tracing::error!(error = &error as &dyn Error, "cannot wait for a guest");
                return Next::End;
            }
        }
    }

    fn wait_for_kick(&self) -> io::Result<()> {
        let mut waits = [
            PollFd::new(&self.kick, PollFlags::IN),
            PollFd::new(&self.bell, PollFlags::IN),
        ];
        match poll(&mut waits, None).map_err(io::Error::from) {
            Ok(_) => {}
            Err(error) if refusal(&error) == Refusal::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        let [kick, _] = &waits;
        if kick.revents().is_empty() {
            return Ok(());
        }
        if !kick.revents().contains(PollFlags::IN) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // How often it was rung does not matter: everything that is up is taken.
        rustix::io::read(&self.kick, &mut [0; 8])?;
        Ok(())
    }

    /// Sees to it that somebody waits for the next request while this thread reads.
    fn see_to_successor(self: &Arc<Self>) {
        {
            let mut state = locked(&self.state);
            if state.waiting_count > 0 || state.worker_count >= self.disk.worker_count_max {
                return;
            }
            state.worker_count += 1;
        }
        if let Err(error) = start_worker(self) {
            // Those that are there serve on.
            locked(&self.state).worker_count -= 1;
            tracing::warn!(error = &error as &dyn Error, "cannot start a ring's thread");
        }
    }

    fn answer(&self, chain: &Chain, buffer: &mut Vec<u8>) {
        let wish = block::wish(locked(&self.state).memory.as_ref(), chain);
        let status = match wish {
            Wish::Nothing(status) => Some(status),
            Wish::Name => self
                .fill(chain, 0, &block::name(&self.disk.name))
                .then_some(Status::Done),
            Wish::Read { offset, len } => self.read(chain, offset, len, buffer),
        };
        let mut state = locked(&self.state);
        state.busy_count -= 1;
        self.idle.notify_all();
        if let Some(status) = status
            && !state.is_stopped
        {
            finish(&mut state, chain, status);
        }
    }

    /// Reads for a request; nothing when that is left to whoever serves next.
    fn read(&self, chain: &Chain, offset: u64, len: u64, buffer: &mut Vec<u8>) -> Option<Status> {
        let sectors = self.disk.content.len() / block::SECTOR_LEN;
        let end = offset.checked_add(len);
        if end.is_none_or(|end| end > sectors * block::SECTOR_LEN) {
            return Some(Status::Failed);
        }
        let mut done = 0;
        while done < len {
            let left = usize::try_from(len - done).unwrap_or(usize::MAX);
            buffer.resize(left.min(PART_LEN), 0);
            match read_or_errno(self.disk.content.as_ref(), offset + done, buffer) {
                Ok(()) => {}
                Err(Errno::ShutDown) => return None,
                Err(errno) => return Some(block::status_of(Err(errno))),
            }
            if !self.fill(chain, done, buffer) {
                return None;
            }
            done += buffer.len() as u64;
        }
        Some(Status::Done)
    }

    /// Copies bytes into the guest's memory, unless the ring was stopped.
    fn fill(&self, chain: &Chain, at: u64, bytes: &[u8]) -> bool {
        let state = locked(&self.state);
        if state.is_stopped {
            return false;
        }
        // What has no room is the guest's own fault, and told by nothing: it gets what there is room for.
        block::copy_in(state.memory.as_ref(), &chain.writable, at, bytes);
        true
    }
}

fn is_rung(bell: &OwnedFd) -> bool {
    let mut waits = [PollFd::new(bell, PollFlags::IN)];
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut waits, Some(&now)).is_ok_and(|count| count > 0)
}

/// Starts a thread that takes requests.
fn start_worker(run: &Arc<Run>) -> io::Result<()> {
    let in_thread = Arc::clone(run);
    run.disk
        .crew
        .spawn("vhost-ring".to_owned(), move || in_thread.work())
}

/// Gives a request back, and tells the guest if it wants to know.
fn finish(state: &mut State, chain: &Chain, status: Status) {
    let len = block::writable_len(chain);
    let Some(status_at) = len.checked_sub(1) else {
        return give_up(state, RingError::Chain);
    };
    let memory = Arc::clone(&state.memory);
    let written = block::copy_in(
        memory.as_ref(),
        &chain.writable,
        status_at,
        &[status.code()],
    );
    if !written {
        return give_up(state, RingError::Outside);
    }
    let written_len = u32::try_from(len).unwrap_or(u32::MAX);
    match state
        .ring
        .give_back(memory.as_ref(), chain.head, written_len)
    {
        Ok(false) => {}
        Ok(true) => {
            if let Some(call) = &state.call
                && let Err(error) = rustix::io::write(call, &1_u64.to_ne_bytes())
            {
                tracing::debug!(%error, "a guest cannot be told");
            }
        }
        Err(error) => give_up(state, error),
    }
}

/// Ends a ring whose guest says what it must not.
fn give_up(state: &mut State, error: RingError) {
    tracing::warn!(error = &error as &dyn Error, "a guest's ring is given up");
    state.is_stopped = true;
}
