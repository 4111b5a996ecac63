//! The ublk driver's commands and structures as bytes: `linux/ublk_cmd.h`, as far as it is needed.

#![expect(
    clippy::host_endian_bytes,
    reason = "the driver speaks in the machine's byte order"
)]

/// Where commands about devices go.
pub(super) const CONTROL: &str = "/dev/ublk-control";
/// Length of a sector, in bytes.
pub(super) const SECTOR_LEN: u64 = 512;
/// Longest request, in bytes.
pub(super) const REQUEST_LEN_MAX: u32 = 1 << 20;

/// Commands about devices.
pub(super) mod command {
    const fn both_ways(number: u32) -> u32 {
        0xc020_7500 | number
    }

    pub(in crate::ublk) const GET_INFO: u32 = 0x8020_7502;
    pub(in crate::ublk) const ADD: u32 = both_ways(0x04);
    pub(in crate::ublk) const DELETE: u32 = both_ways(0x05);
    pub(in crate::ublk) const START: u32 = both_ways(0x06);
    pub(in crate::ublk) const STOP: u32 = both_ways(0x07);
    pub(in crate::ublk) const SET_PARAMETERS: u32 = both_ways(0x08);
    pub(in crate::ublk) const START_RECOVERY: u32 = both_ways(0x10);
    pub(in crate::ublk) const END_RECOVERY: u32 = both_ways(0x11);
}

/// Commands about requests.
pub(super) const FETCH: u32 = 0xc010_7520;
pub(super) const COMMIT_AND_FETCH: u32 = 0xc010_7521;

/// What a device is asked to have: a process that dies is followed by another, to which requests that it had are given again; and data are
/// written by write(2), from any thread.
const USER_RECOVERY: u64 = 1 << 3;
const RECOVERY_REISSUES: u64 = 1 << 4;
const IOCTL_ENCODED: u64 = 1 << 6;
pub(super) const USER_COPY: u64 = 1 << 7;
pub(super) const FEATURES: u64 = USER_RECOVERY | RECOVERY_REISSUES | IOCTL_ENCODED | USER_COPY;

/// State of a device that a process serves.
pub(super) const LIVE: u16 = 1;
/// State of a device whose process is gone.
pub(super) const QUIESCED: u16 = 2;

/// Length of a request's description, and of all of a queue's.
pub(super) const DESCRIPTION_LEN: usize = 24;

/// Where in the character device a request's data are.
pub(super) fn data_at(tag: u16) -> u64 {
    0x8000_0000 + (u64::from(tag) << 25)
}

/// A command about a device: `struct ublksrv_ctrl_cmd`, at the beginning of 80 bytes.
pub(super) fn control(device: u32, buffer: u64, len: u16, data: u64) -> [u8; 80] {
    let mut bytes = [0; 80];
    let mut put = |at: usize, field: &[u8]| {
        if let Some(place) = bytes.get_mut(at..at + field.len()) {
            place.copy_from_slice(field);
        }
    };
    put(0, &device.to_ne_bytes());
    put(4, &u16::MAX.to_ne_bytes()); // no queue in particular
    put(6, &len.to_ne_bytes());
    put(8, &buffer.to_ne_bytes());
    put(16, &data.to_ne_bytes());
    bytes
}

/// `struct ublksrv_ctrl_dev_info`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Info(pub(super) [u8; 64]);

impl Info {
    /// Device `number` with one queue of `depth` places.
    pub(super) fn wanted(number: u32, depth: u16) -> Self {
        let mut bytes = [0; 64];
        let mut put = |at: usize, field: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + field.len()) {
                place.copy_from_slice(field);
            }
        };
        put(0, &1_u16.to_ne_bytes());
        put(2, &depth.to_ne_bytes());
        put(8, &REQUEST_LEN_MAX.to_ne_bytes());
        put(12, &number.to_ne_bytes());
        put(24, &FEATURES.to_ne_bytes());
        Self(bytes)
    }

    pub(super) fn depth(&self) -> u16 {
        u16::from_ne_bytes(self.field(2))
    }

    pub(super) fn state(&self) -> u16 {
        u16::from_ne_bytes(self.field(4))
    }

    /// The process that said it serves the device.
    pub(super) fn process(&self) -> u32 {
        u32::from_ne_bytes(self.field(16))
    }

    pub(super) fn features(&self) -> u64 {
        u64::from_ne_bytes(self.field(24))
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        let field = self.0.get(at..at + N);
        field
            .and_then(|field| field.try_into().ok())
            .unwrap_or([0; N])
    }
}

/// `struct ublk_params` with nothing but what is basic: a read-only disk of that many sectors, in blocks of 512 bytes.
pub(super) fn parameters(sector_count: u64) -> Vec<u8> {
    let mut bytes = 40_u32.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&1_u32.to_ne_bytes()); // basic
    bytes.extend_from_slice(&1_u32.to_ne_bytes()); // read-only
    bytes.extend_from_slice(&[9, 12, 12, 9]); // logical, physical, best, least
    bytes.extend_from_slice(&(REQUEST_LEN_MAX / 512).to_ne_bytes());
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    bytes.extend_from_slice(&sector_count.to_ne_bytes());
    bytes.extend_from_slice(&0_u64.to_ne_bytes());
    bytes
}

/// What a request wants: `struct ublksrv_io_desc`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Description {
    /// 0 for a read, 2 for a flush.
    pub(super) operation: u8,
    pub(super) sector_count: u32,
    pub(super) start: u64,
}

impl Description {
    pub(super) fn parse(bytes: [u8; DESCRIPTION_LEN]) -> Self {
        let (operation, rest) = bytes.split_first().unwrap_or((&255, &[]));
        let number = |at: usize, len: usize| rest.get(at..at + len).unwrap_or_default();
        let count = number(3, 4).try_into().map_or(0, u32::from_ne_bytes);
        let start = number(7, 8).try_into().map_or(0, u64::from_ne_bytes);
        Self {
            operation: *operation,
            sector_count: count,
            start,
        }
    }
}

/// A command about the request `tag`: `struct ublksrv_io_cmd`
pub(super) fn request(tag: u16, result: i32) -> [u8; 16] {
    let mut bytes = [0; 16];
    let mut put = |at: usize, field: &[u8]| {
        if let Some(place) = bytes.get_mut(at..at + field.len()) {
            place.copy_from_slice(field);
        }
    };
    put(2, &tag.to_ne_bytes());
    put(4, &result.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_every_field_in_its_place() {
        let bytes = control(7, 0x1122, 64, 99);
        assert_eq!(bytes[..8], [7, 0, 0, 0, 0xff, 0xff, 64, 0]);
        assert_eq!(bytes[8..16], 0x1122_u64.to_ne_bytes());
        assert_eq!(bytes[16..24], 99_u64.to_ne_bytes());
        let info = Info::wanted(3, 128);
        assert_eq!((info.depth(), info.state()), (128, 0));
        assert_eq!(info.features(), FEATURES);
        let parameters = parameters(8);
        assert_eq!(parameters.len(), 40);
        assert_eq!(parameters[24..32], 8_u64.to_ne_bytes());
        assert_eq!(request(5, -5)[..8], [0, 0, 5, 0, 0xfb, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn a_request_is_taken_apart() {
        let mut bytes = [0; DESCRIPTION_LEN];
        bytes[4] = 8;
        bytes[8] = 16;
        let description = Description::parse(bytes);
        assert_eq!(description.operation, 0);
        assert_eq!((description.sector_count, description.start), (8, 16));
    }
}
