//! Commands about ublk devices, over an `io_uring` of their own.

#![expect(
    unsafe_code,
    reason = "io_uring takes commands whose buffers the caller must keep"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};

use crate::errno::{Refusal, refusal};

use super::abi::{self, Info, command};

/// The way to the driver.
pub(super) struct Control {
    device: File,
    ring: IoUring<Entry128, cqueue::Entry>,
}

impl Control {
    /// Opens the driver; "no entry" where it is not loaded.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            device: File::options().read(true).write(true).open(abi::CONTROL)?,
            ring: IoUring::builder().build(2)?,
        })
    }

    /// Makes device `number`, which nobody reads yet.
    pub(super) fn add(&mut self, number: u32, depth: u16) -> io::Result<Info> {
        let mut info = Info::wanted(number, depth);
        self.call(command::ADD, number, &mut info.0, 0)?;
        Ok(info)
    }

    /// What the driver knows of a device.
    pub(super) fn info(&mut self, number: u32) -> io::Result<Info> {
        let mut info = Info([0; 64]);
        self.call(command::GET_INFO, number, &mut info.0, 0)?;
        Ok(info)
    }

    pub(super) fn set_parameters(&mut self, number: u32, sector_count: u64) -> io::Result<()> {
        let mut parameters = abi::parameters(sector_count);
        self.call(command::SET_PARAMETERS, number, &mut parameters, 0)
    }

    /// Any command that takes a number or none.
    pub(super) fn tell(&mut self, command: u32, number: u32, data: u64) -> io::Result<()> {
        self.call(command, number, &mut [], data)
    }

    fn call(&mut self, command: u32, number: u32, buffer: &mut [u8], data: u64) -> io::Result<()> {
        let len = u16::try_from(buffer.len()).map_err(io::Error::other)?;
        let address = if buffer.is_empty() {
            0
        } else {
            buffer.as_mut_ptr() as u64
        };
        let bytes = abi::control(number, address, len, data);
        let entry = opcode::UringCmd80::new(types::Fd(self.device.as_raw_fd()), command)
            .cmd(bytes)
            .build();
        // SAFETY: the one buffer that the command names is borrowed until this function returns, which it does only after the command's
        // completion was seen; the descriptor is `self`'s.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(io::Error::other)?;
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if refusal(&error) != Refusal::Interrupted => return Err(error),
                Ok(_) | Err(_) => {}
            }
            if let Some(done) = self.ring.completion().next() {
                let result = done.result();
                return if result < 0 {
                    Err(io::Error::from_raw_os_error(result.saturating_neg()))
                } else {
                    Ok(())
                };
            }
        }
    }
}
