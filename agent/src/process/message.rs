//! What a device process and the agent say to each other: frames on a unix stream, `length (4), kind (1), fields`, little-endian.
//!
//! ```text
//! to the agent     H hello: the oldest version (1), device   first, once
//!                  V versions: oldest (1), newest (1)        second, once
//!                  S serving                                 the process answers the kernel
//!                  W want: request (8), class (1), layer (2), chunk (4)
//!                  R reads: count (4), then for each: length (4), microseconds (4), done (1); then chunks touched: layer (2), chunk (4)
//! to the process   A agreed: version (1)                     the newest that both speak, if the process said V
//!                  K kept: request (8)                       the chunk is in the store now
//!                  B bytes: request (8), the chunk           it is not kept
//!                  F failed: request (8), why (1), words
//!                  P patience: milliseconds (8)              how long reads wait from now on, those that wait already among them
//!                  L leave                                   answer what is in progress and end
//! ```
//!
//! Either side may be of another release than the other, since a device process outlives an upgrade of the agent. Both speak the newest version
//! that both know, and until `A` comes the one of the hello: the first agents and processes had neither `V` nor `A`, speak version 1, and pass over
//! words that they do not know. An agent without a common version sends `L`, and puts a process of its own in the place. So frames, `H`, `V`, `S`, `A`
//! and `L` are the same in all versions.

use std::io::{self, Read};

use tranship_device::Speaks;

use super::AskError;

/// The versions that this code speaks.
pub(crate) const SPEAKS: Speaks = Speaks::only(1);
/// Longest frame: a chunk of 4 MiB and what stands before it.
pub(super) const FRAME_LEN_MAX: usize = (4 << 20) + 64;

/// A read that a device process answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadNote {
    pub(super) len: u32,
    pub(super) micros: u32,
    pub(super) done: bool,
}

/// Why a chunk is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Demand,
    Prefetch,
}

/// What a device process says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ToAgent {
    Hello {
        version: u8,
        device: String,
    },
    Versions(Speaks),
    Serving,
    Want {
        request: u64,
        class: Class,
        layer: u16,
        chunk: u32,
    },
    Reads {
        reads: Vec<ReadNote>,
        touched: Vec<(u16, u32)>,
    },
}

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ToProcess {
    Agreed { version: u8 },
    Kept { request: u64 },
    Bytes { request: u64, bytes: Vec<u8> },
    Failed { request: u64, error: AskError },
    Patience { millis: u64 },
    Leave,
}

impl ToAgent {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello { version, device } => frame(b'H', &[&[*version], device.as_bytes()]),
            Self::Versions(speaks) => frame(b'V', &[&[speaks.oldest, speaks.newest]]),
            Self::Serving => frame(b'S', &[]),
            Self::Want {
                request,
                class,
                layer,
                chunk,
            } => frame(
                b'W',
                &[
                    &request.to_le_bytes(),
                    &[u8::from(*class == Class::Prefetch)],
                    &layer.to_le_bytes(),
                    &chunk.to_le_bytes(),
                ],
            ),
            Self::Reads { reads, touched } => {
                let count = u32::try_from(reads.len()).unwrap_or(u32::MAX);
                let mut fields = count.to_le_bytes().to_vec();
                for read in reads {
                    fields.extend_from_slice(&read.len.to_le_bytes());
                    fields.extend_from_slice(&read.micros.to_le_bytes());
                    fields.push(read.done.into());
                }
                for (layer, chunk) in touched {
                    fields.extend_from_slice(&layer.to_le_bytes());
                    fields.extend_from_slice(&chunk.to_le_bytes());
                }
                frame(b'R', &[&fields])
            }
        }
    }

    /// Reads what stands behind a frame's length.
    pub(super) fn decode(frame: &[u8]) -> Option<Self> {
        let (kind, mut rest) = frame.split_first()?;
        let rest = &mut rest;
        Some(match kind {
            b'H' => Self::Hello {
                version: take::<1>(rest)?[0],
                device: std::str::from_utf8(rest).ok()?.to_owned(),
            },
            b'V' => {
                let [oldest, newest] = take(rest)?;
                Self::Versions(Speaks { oldest, newest })
            }
            b'S' => Self::Serving,
            b'W' => Self::Want {
                request: u64::from_le_bytes(take(rest)?),
                class: match take::<1>(rest)? {
                    [0] => Class::Demand,
                    _ => Class::Prefetch,
                },
                layer: u16::from_le_bytes(take(rest)?),
                chunk: u32::from_le_bytes(take(rest)?),
            },
            b'R' => {
                let count = u32::from_le_bytes(take(rest)?);
                let mut reads = Vec::new();
                for _ in 0..count {
                    reads.push(ReadNote {
                        len: u32::from_le_bytes(take(rest)?),
                        micros: u32::from_le_bytes(take(rest)?),
                        done: take::<1>(rest)? != [0],
                    });
                }
                let mut touched = Vec::new();
                while !rest.is_empty() {
                    let layer = u16::from_le_bytes(take(rest)?);
                    touched.push((layer, u32::from_le_bytes(take(rest)?)));
                }
                Self::Reads { reads, touched }
            }
            _ => return None,
        })
    }
}

impl ToProcess {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Agreed { version } => frame(b'A', &[&[*version]]),
            Self::Kept { request } => frame(b'K', &[&request.to_le_bytes()]),
            Self::Bytes { request, bytes } => frame(b'B', &[&request.to_le_bytes(), bytes]),
            Self::Failed { request, error } => {
                let (why, words) = match error {
                    AskError::TimedOut => (b't', ""),
                    AskError::Stopping => (b's', ""),
                    AskError::Refused { reason } => (b'r', reason.as_str()),
                };
                frame(b'F', &[&request.to_le_bytes(), &[why], words.as_bytes()])
            }
            Self::Patience { millis } => frame(b'P', &[&millis.to_le_bytes()]),
            Self::Leave => frame(b'L', &[]),
        }
    }

    /// Reads what stands behind a frame's length.
    pub(super) fn decode(frame: &[u8]) -> Option<Self> {
        let (kind, mut rest) = frame.split_first()?;
        let rest = &mut rest;
        Some(match kind {
            b'A' => {
                let [version] = take(rest)?;
                Self::Agreed { version }
            }
            b'K' => Self::Kept {
                request: u64::from_le_bytes(take(rest)?),
            },
            b'B' => Self::Bytes {
                request: u64::from_le_bytes(take(rest)?),
                bytes: rest.to_vec(),
            },
            b'F' => Self::Failed {
                request: u64::from_le_bytes(take(rest)?),
                error: match take::<1>(rest)? {
                    [b't'] => AskError::TimedOut,
                    [b's'] => AskError::Stopping,
                    _ => AskError::Refused {
                        reason: String::from_utf8_lossy(rest).into_owned(),
                    },
                },
            },
            b'P' => Self::Patience {
                millis: u64::from_le_bytes(take(rest)?),
            },
            b'L' => Self::Leave,
            _ => return None,
        })
    }
}

/// The length that a frame's first four bytes tell, if it is one that a frame may have.
pub(super) fn frame_len(head: [u8; 4]) -> io::Result<usize> {
    usize::try_from(u32::from_le_bytes(head))
        .ok()
        .filter(|len| (1..=FRAME_LEN_MAX).contains(len))
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "a frame of an impossible length",
            )
        })
}

/// Waits for a frame; what stands behind its length.
pub(super) fn read_frame(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let mut frame = vec![0; frame_len(head)?];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

fn frame(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
    let len: usize = fields.iter().map(|field| field.len()).sum();
    let mut bytes = Vec::with_capacity(len.saturating_add(5));
    bytes.extend_from_slice(
        &u32::try_from(len.saturating_add(1))
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    bytes.push(kind);
    for field in fields {
        bytes.extend_from_slice(field);
    }
    bytes
}

fn take<const LEN: usize>(rest: &mut &[u8]) -> Option<[u8; LEN]> {
    let (field, behind) = rest.split_first_chunk::<LEN>()?;
    *rest = behind;
    Some(*field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_were_sent() {
        let read = ReadNote {
            len: 4096,
            micros: 17,
            done: true,
        };
        for sent in [
            ToAgent::Hello {
                version: 1,
                device: "0123-fuse-loop".to_owned(),
            },
            ToAgent::Versions(Speaks {
                oldest: 1,
                newest: 3,
            }),
            ToAgent::Serving,
            ToAgent::Want {
                request: 7,
                class: Class::Prefetch,
                layer: 2,
                chunk: 9,
            },
            ToAgent::Reads {
                reads: vec![read, read],
                touched: vec![(0, 1), (2, 3)],
            },
        ] {
            let bytes = sent.encode();
            let frame = read_frame(&mut bytes.as_slice()).unwrap();
            assert_eq!(ToAgent::decode(&frame), Some(sent));
        }
        for sent in [
            ToProcess::Agreed { version: 3 },
            ToProcess::Kept { request: 1 },
            ToProcess::Bytes {
                request: 2,
                bytes: vec![1, 2, 3],
            },
            ToProcess::Failed {
                request: 3,
                error: AskError::Refused {
                    reason: "no".to_owned(),
                },
            },
            ToProcess::Patience { millis: 90_000 },
            ToProcess::Leave,
        ] {
            let bytes = sent.encode();
            let frame = read_frame(&mut bytes.as_slice()).unwrap();
            assert_eq!(ToProcess::decode(&frame), Some(sent));
        }
    }

    #[test]
    fn whatever_is_no_frame_is_refused() {
        assert!(read_frame(&mut [0; 4].as_slice()).is_err());
        assert!(read_frame(&mut [0xff; 64].as_slice()).is_err());
        for frame in [
            &b"W123"[..],
            b"X",
            b"R\xff\xff\xff\xff1",
            b"H",
            b"H\x01\xff",
            b"V\x01",
        ] {
            assert_eq!(ToAgent::decode(frame), None, "{frame:?}");
        }
        for frame in [&b"K123"[..], b"X", b"A", b"B", b"F12345678", b"P1"] {
            assert_eq!(ToProcess::decode(frame), None, "{frame:?}");
        }
    }
}
