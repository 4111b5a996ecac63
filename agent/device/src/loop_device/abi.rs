//! The loop driver's ioctls: `linux/loop.h`, as far as it is needed.

#![expect(
    unsafe_code,
    reason = "the loop driver is spoken to by ioctl, which no safe interface offers"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

const LOOP_CLR_FD: libc::Ioctl = 0x4C01;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;
const LOOP_CHANGE_FD: libc::Ioctl = 0x4C06;
const LOOP_SET_DIRECT_IO: libc::Ioctl = 0x4C08;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;

/// `LO_FLAGS_READ_ONLY`
pub(super) const READ_ONLY: u32 = 1;
/// `LO_FLAGS_AUTOCLEAR`
pub(super) const AUTO_CLEAR: u32 = 4;
/// `LO_FLAGS_DIRECT_IO`
pub(super) const DIRECT_IO: u32 = 16;

/// `struct loop_info64`
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`
#[repr(C)]
#[derive(Clone, Copy)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Info>() == 232);
const _: () = assert!(size_of::<Config>() == 304);

const NO_INFO: Info = Info {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// The number of a loop device that nobody uses at this moment; made if there is none.
pub(super) fn free_number(control: &impl AsFd) -> io::Result<u32> {
    let control = control.as_fd().as_raw_fd();
    // SAFETY: this ioctl takes no argument, and `control` is open for the duration of the call.
    let number = unsafe { libc::ioctl(control, LOOP_CTL_GET_FREE) };
    checked(number)
}

/// Attaches `backing` to the unused loop device `device`.
pub(super) fn configure(device: &impl AsFd, backing: &impl AsFd, flags: u32) -> io::Result<()> {
    let device = device.as_fd().as_raw_fd();
    let fd = u32::try_from(backing.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let config = Config {
        fd,
        block_size: 0, // 512 bytes: the unit in which the content's length is kept
        info: Info { flags, ..NO_INFO },
        reserved: [0; 8],
    };
    // SAFETY: this ioctl reads one `struct loop_config`, which `Config` is by layout (its size is checked above), and
    // `config` outlives the call; both descriptors are open for its duration.
    let answer = unsafe { libc::ioctl(device, LOOP_CONFIGURE, &raw const config) };
    checked(answer).map(drop)
}

/// Number and flags of the attached `device`; fails with `ENXIO` when it is not attached.
pub(super) fn status(device: &impl AsFd) -> io::Result<(u32, u32)> {
    let device = device.as_fd().as_raw_fd();
    let mut info = NO_INFO;
    // SAFETY: this ioctl writes one `struct loop_info64`, which `Info` is by layout (its size is checked above and any
    // bytes are a valid one), and `info` is borrowed by nobody else.
    let answer = unsafe { libc::ioctl(device, LOOP_GET_STATUS64, &raw mut info) };
    checked(answer).map(|_| (info.number, info.flags))
}

/// Puts `backing`, of the same length, in the place of the file under the read-only `device`.
pub(super) fn change_backing(device: &impl AsFd, backing: &impl AsFd) -> io::Result<()> {
    let device = device.as_fd().as_raw_fd();
    let backing = backing.as_fd().as_raw_fd();
    // SAFETY: this ioctl takes a descriptor by value; both are open for the duration of the call.
    let answer = unsafe { libc::ioctl(device, LOOP_CHANGE_FD, backing) };
    checked(answer).map(drop)
}

/// Has `device` read past the page cache of the file below, from now on.
pub(super) fn ask_direct_io(device: &impl AsFd) -> io::Result<()> {
    let device = device.as_fd().as_raw_fd();
    let wanted: libc::c_ulong = 1;
    // SAFETY: this ioctl takes a number by value, and `device` is open for the duration of the call.
    let answer = unsafe { libc::ioctl(device, LOOP_SET_DIRECT_IO, wanted) };
    checked(answer).map(drop)
}

/// Detaches `device`, now or when its last user closes it.
pub(super) fn clear(device: &impl AsFd) -> io::Result<()> {
    let device = device.as_fd().as_raw_fd();
    // SAFETY: this ioctl takes no argument, and `device` is open for the duration of the call.
    let answer = unsafe { libc::ioctl(device, LOOP_CLR_FD) };
    checked(answer).map(drop)
}

fn checked(answer: libc::c_int) -> io::Result<u32> {
    u32::try_from(answer).map_err(|_| io::Error::last_os_error())
}
