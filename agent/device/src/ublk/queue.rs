//! A device's one queue: a thread that takes requests from the driver and gives them back, and threads that read for them.
//!
//! The driver takes commands of one thread alone, so the readers hand it what they have done and ring a bell.

#![expect(
    unsafe_code,
    reason = "io_uring takes commands whose buffers the caller must keep, and the driver describes requests in memory that it shares"
)]

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

use io_uring::{IoUring, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::block_read::{BlockRead, read_or_errno};
use crate::crew::{Crew, locked};
use crate::errno::{Errno, Refusal, refusal};

use super::abi::{self, DESCRIPTION_LEN, Description, SECTOR_LEN};

/// In the place of a request's number: the bell.
const BELL: u64 = u64::MAX;

/// What the thread of the queue and those who read share.
pub(super) struct Shared {
    content: Arc<dyn BlockRead>,
    /// The device's character device, by which data go to the driver, until this process leaves: as long as it is open here, the driver
    /// gives the device to no successor, and whoever deletes it waits.
    device: Mutex<Option<Arc<File>>>,
    bell: OwnedFd,
    state: Mutex<State>,
}

/// The thread of a queue, and in the end what it had.
///
/// A queue's ring is closed only once its thread is gone. Closing it cancels what the driver was asked for, and a request that the driver
/// has in hand just then is still given to a thread that lives, in a ring that nobody looks into any more: it is never answered nor given
/// to a successor, and the driver waits for it with the device locked (Linux 6.12). From a thread that is gone it comes back.
pub(super) struct Taker(JoinHandle<Option<Held>>);

/// What keeps a queue open towards the driver.
pub(super) struct Held {
    _ring: IoUring,
    _descriptions: Descriptions,
    _device: Arc<File>,
}

#[derive(Default)]
struct State {
    /// Requests that are done, each with its result.
    done: Vec<(u16, i32)>,
    is_leaving: bool,
}

/// The driver's descriptions of requests, one a place, as they are shared with this process.
struct Descriptions {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory is read by copies alone, from whichever thread holds this.
unsafe impl Send for Descriptions {}

impl Descriptions {
    fn map(device: &File, depth: u16) -> io::Result<Self> {
        let len = (usize::from(depth) * DESCRIPTION_LEN).next_multiple_of(4096);
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: no address is asked for, so that nothing else is mapped over; the driver checks all the rest.
        let start = unsafe { mmap(ptr::null_mut(), len, ProtFlags::READ, flags, device, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    fn get(&self, tag: u16) -> Description {
        let at = usize::from(tag) * DESCRIPTION_LEN;
        let mut bytes = [0; DESCRIPTION_LEN];
        if at + DESCRIPTION_LEN <= self.len {
            // SAFETY: the place lies inside the mapping, as was looked at just now.
            let place = unsafe { self.start.add(at) };
            // SAFETY: the source is as long, `bytes` is this function's own, and the driver writes a place only before it says that there
            // is a request in it.
            unsafe {
                ptr::copy_nonoverlapping(place.as_ptr(), bytes.as_mut_ptr(), DESCRIPTION_LEN);
            }
        }
        Description::parse(bytes)
    }
}

impl Drop for Descriptions {
    fn drop(&mut self) {
        // SAFETY: this very mapping was made by `map`, and nothing borrows it.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        if let Err(error) = unmapped {
            tracing::warn!(%error, "a queue's descriptions stay mapped");
        }
    }
}

/// Begins to take the requests of the device whose character device is `device`, and to read for them with `worker_count` threads.
pub(super) fn begin(
    device: File,
    depth: u16,
    content: Arc<dyn BlockRead>,
    worker_count: usize,
    crew: &Crew,
) -> io::Result<(Arc<Shared>, Taker)> {
    let descriptions = Descriptions::map(&device, depth)?;
    let device = Arc::new(device);
    let shared = Arc::new(Shared {
        content,
        device: Mutex::new(Some(Arc::clone(&device))),
        bell: eventfd(0, EventfdFlags::CLOEXEC)?,
        state: Mutex::default(),
    });
    let (sender, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    for number in 0..worker_count.max(1) {
        let (shared, receiver) = (Arc::clone(&shared), Arc::clone(&receiver));
        crew.spawn(format!("ublk-{number}"), move || {
            read_for(&shared, &receiver);
        })?;
    }
    let in_thread = Arc::clone(&shared);
    let thread = Builder::new()
        .name("ublk-queue".to_owned())
        .spawn(move || {
            // Made on this thread, which is the one whose commands the driver takes.
            let outcome = Queue::new(&in_thread, device, descriptions, sender, depth);
            let (outcome, held) = match outcome {
                Ok(mut queue) => (queue.run(), Some(queue.into_held())),
                Err(error) => (Err(error), None),
            };
            if let Err(error) = outcome {
                tracing::error!(
                    error = &error as &dyn Error,
                    "a ublk device is not served any more"
                );
            }
            held
        })?;
    Ok((shared, Taker(thread)))
}

impl Taker {
    /// Waits until the thread is gone, which has been told to leave.
    pub(super) fn join(self) -> Option<Held> {
        self.0.join().unwrap_or_else(|_| {
            tracing::error!("the thread of a ublk queue panicked");
            None
        })
    }
}

impl Shared {
    /// Has the thread of the queue end; what is not done is left to a successor.
    pub(super) fn leave(&self) {
        locked(&self.state).is_leaving = true;
        self.ring();
    }

    /// Closes the device, also where somebody still reads for it.
    pub(super) fn close(&self) {
        locked(&self.device).take();
    }

    fn ring(&self) {
        if let Err(error) = rustix::io::write(&self.bell, &u64::from(true).to_le_bytes()) {
            tracing::warn!(%error, "cannot ring a queue's bell");
        }
    }

    fn finish(&self, tag: u16, result: i32) {
        locked(&self.state).done.push((tag, result));
        self.ring();
    }

    /// Reads for a request; nothing when that is left to a successor.
    fn read(&self, tag: u16, wanted: Description, buffer: &mut Vec<u8>) -> Option<i32> {
        let failed = |errno: Errno| Some(errno.code().saturating_neg());
        let len = u64::from(wanted.sector_count).saturating_mul(SECTOR_LEN);
        match wanted.operation {
            0 if len <= u64::from(abi::REQUEST_LEN_MAX) => {}
            2 => return Some(0), // a flush: nothing is ever written
            0 => return failed(Errno::Invalid),
            1 => return failed(Errno::NotPermitted),
            _ => return failed(Errno::NotSupported),
        }
        buffer.resize(usize::try_from(len).unwrap_or_default(), 0);
        let offset = wanted.start.saturating_mul(SECTOR_LEN);
        match read_or_errno(self.content.as_ref(), offset, buffer) {
            Ok(()) => {}
            Err(Errno::ShutDown) => return None,
            Err(errno) => return failed(errno),
        }
        let device = locked(&self.device).clone()?;
        match device.write_all_at(buffer, abi::data_at(tag)) {
            Ok(()) => Some(i32::try_from(len).unwrap_or(i32::MAX)),
            Err(error) => {
                // The driver takes no more of it: the device goes.
                tracing::debug!(%error, tag, "a ublk request is left");
                None
            }
        }
    }
}

fn read_for(shared: &Shared, requests: &Mutex<Receiver<(u16, Description)>>) {
    let mut buffer = Vec::new();
    loop {
        let next = locked(requests).recv();
        let Ok((tag, wanted)) = next else { return };
        if let Some(result) = shared.read(tag, wanted, &mut buffer) {
            shared.finish(tag, result);
        }
    }
}

/// The queue as its thread has it.
struct Queue<'a> {
    shared: &'a Shared,
    ring: IoUring,
    device: Arc<File>,
    descriptions: Descriptions,
    sender: Sender<(u16, Description)>,
    /// Places that the driver has not ended.
    open_count: u16,
}

impl<'a> Queue<'a> {
    fn new(
        shared: &'a Shared,
        device: Arc<File>,
        descriptions: Descriptions,
        sender: Sender<(u16, Description)>,
        depth: u16,
    ) -> io::Result<Self> {
        let mut queue = Self {
            shared,
            ring: IoUring::builder().build(u32::from(depth) * 2)?,
            device,
            descriptions,
            sender,
            open_count: depth,
        };
        for tag in 0..depth {
            queue.command(abi::FETCH, tag, -1)?;
        }
        queue.wait_for_bell()?;
        Ok(queue)
    }

    fn run(&mut self) -> io::Result<()> {
        while self.open_count > 0 {
            match self.ring.submit_and_wait(1) {
                Err(error) if refusal(&error) != Refusal::Interrupted => return Err(error),
                Ok(_) | Err(_) => {}
            }
            let came: Vec<(u64, i32)> = self
                .ring
                .completion()
                .map(|entry| (entry.user_data(), entry.result()))
                .collect();
            for (number, result) in came {
                match u16::try_from(number) {
                    Err(_) => {
                        if self.answer_bell()? {
                            return Ok(());
                        }
                    }
                    Ok(tag) if result == 0 => {
                        let wanted = self.descriptions.get(tag);
                        // Those who read are there for as long as this.
                        let _ = self.sender.send((tag, wanted));
                    }
                    // The driver has ended this place: the device goes.
                    Ok(_) => self.open_count -= 1,
                }
            }
        }
        Ok(())
    }

    fn into_held(self) -> Held {
        Held {
            _ring: self.ring,
            _descriptions: self.descriptions,
            _device: self.device,
        }
    }

    /// Gives back what is done; whether to leave.
    fn answer_bell(&mut self) -> io::Result<bool> {
        rustix::io::read(&self.shared.bell, &mut [0; 8])?;
        let (done, is_leaving) = {
            let mut state = locked(&self.shared.state);
            (std::mem::take(&mut state.done), state.is_leaving)
        };
        for (tag, result) in done {
            self.command(abi::COMMIT_AND_FETCH, tag, result)?;
        }
        self.wait_for_bell()?;
        if is_leaving {
            self.ring.submit()?;
        }
        Ok(is_leaving)
    }

    fn command(&mut self, command: u32, tag: u16, result: i32) -> io::Result<()> {
        let device = types::Fd(self.device.as_raw_fd());
        let entry = opcode::UringCmd16::new(device, command)
            .cmd(abi::request(tag, result))
            .build()
            .user_data(tag.into());
        self.push(&entry)
    }

    fn wait_for_bell(&mut self) -> io::Result<()> {
        let bell = types::Fd(self.shared.bell.as_raw_fd());
        let readable = u32::from(libc::POLLIN.unsigned_abs());
        let entry = opcode::PollAdd::new(bell, readable).build().user_data(BELL);
        self.push(&entry)
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: none of these commands names a buffer of this process; their descriptors are `shared`'s and `self`'s, which
        // are open as long as anything is pushed.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(io::Error::other)
    }
}
