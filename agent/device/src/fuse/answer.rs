//! What each request is answered: a folder with one read-only file, apart from descriptors and threads.

use std::sync::Arc;

use crate::block_read::{BlockRead, read_or_errno};
use crate::errno::Errno;

use super::abi::{self, Attributes, Call, FILE_NODE, Header, READ_LEN_MAX, ROOT_NODE};

const FOLDER_TYPE: u32 = 0o040_000;
const FILE_TYPE: u32 = 0o100_000;

/// The filesystem: one file.
pub(super) struct OneFile {
    pub(super) name: Vec<u8>,
    pub(super) content: Arc<dyn BlockRead>,
    pub(super) read_ahead_len: u32,
    /// Whether everybody may open the file, or its owner root alone.
    pub(super) for_all: bool,
}

/// What goes back to the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing: this kind of request is not answered.
    Silence,
    /// Success, with a body.
    Body(Vec<u8>),
    /// Success, with that many bytes of the data buffer.
    Data(usize),
    /// Failure.
    Failure(Errno),
}

impl Answer {
    /// Panics where the kernel would refuse this as a reply.
    pub(super) fn check(&self, unique: u64, data: &[u8]) {
        let body_len = match self {
            Self::Silence => return,
            Self::Body(body) => body.len(),
            Self::Data(len) => {
                assert!(*len <= data.len() && *len <= READ_LEN_MAX as usize);
                *len
            }
            Self::Failure(errno) => {
                assert!((1..512).contains(&errno.code()));
                0
            }
        };
        let header = abi::reply_header(unique, Ok(body_len));
        assert_eq!(abi::message_len(&header), Some(header.len() + body_len));
    }
}

impl OneFile {
    /// Answers the request in `message`, using `data` for the bytes read. A message that is not even a request has no
    /// number to answer under.
    pub(super) fn answer(&self, message: &[u8], data: &mut Vec<u8>) -> Option<(u64, Answer)> {
        let (header, body) = abi::header(message)?;
        let answer = match abi::call(header, body) {
            Some(call) => self.answer_call(header, call, data),
            None => Answer::Failure(Errno::Io),
        };
        Some((header.unique, answer))
    }

    fn answer_call(&self, header: Header, call: Call<'_>, data: &mut Vec<u8>) -> Answer {
        match call {
            Call::Init(offer) => {
                if !offer.is_served() {
                    return Answer::Failure(Errno::NotSupported);
                }
                tracing::debug!(resends = offer.resends(), "FUSE connection begins");
                let page_len = rustix::param::page_size();
                Answer::Body(offer.reply(self.read_ahead_len, page_len))
            }
            Call::Lookup { name } if header.node == ROOT_NODE && name == self.name => {
                Answer::Body(abi::entry_reply(self.file()))
            }
            Call::Lookup { .. } => Answer::Failure(Errno::NoEntry),
            Call::GetAttributes if header.node == ROOT_NODE => {
                Answer::Body(abi::attributes_reply(self.folder()))
            }
            Call::GetAttributes => Answer::Body(abi::attributes_reply(self.file())),
            Call::Open | Call::OpenFolder => Answer::Body(abi::open_reply()),
            Call::Read { offset, len } if header.node == FILE_NODE => self.read(offset, len, data),
            Call::Read { .. } => Answer::Failure(Errno::Invalid),
            Call::ReadFolder { offset, len } => Answer::Body(abi::folder_reply(
                &[
                    (ROOT_NODE, FOLDER_TYPE, b"."),
                    (ROOT_NODE, FOLDER_TYPE, b".."),
                    (FILE_NODE, FILE_TYPE, &self.name),
                ],
                offset,
                len,
            )),
            Call::FilesystemStatistics => Answer::Body(abi::statistics_reply(self.content.len())),
            Call::Release | Call::Access | Call::Destroy => Answer::Body(Vec::new()),
            Call::Forget => Answer::Silence,
            // The kernel takes this for "never ask again", which is meant for two kinds above all. FLUSH: a reader could not
            // be killed while it closes the file of a server that hangs. INTERRUPT: a read that a filesystem on top has
            // begun must not fail because one of its readers was sent a signal.
            Call::Other => Answer::Failure(Errno::NoSuchCall),
        }
    }

    /// Reads what lies inside the file; the kernel takes a short reply for its end.
    fn read(&self, offset: u64, len: u32, data: &mut Vec<u8>) -> Answer {
        if len > READ_LEN_MAX {
            return Answer::Failure(Errno::Invalid);
        }
        let there = self.content.len().saturating_sub(offset);
        let len = usize::try_from(there.min(u64::from(len))).unwrap_or_default();
        if len == 0 {
            return Answer::Data(0);
        }
        if data.len() < len {
            data.resize(len, 0);
        }
        let Some(buf) = data.get_mut(..len) else {
            return Answer::Failure(Errno::Io);
        };
        match read_or_errno(self.content.as_ref(), offset, buf) {
            Ok(()) => Answer::Data(len),
            Err(errno) => Answer::Failure(errno),
        }
    }

    fn file(&self) -> Attributes {
        Attributes {
            node: FILE_NODE,
            len: self.content.len(),
            mode: FILE_TYPE | if self.for_all { 0o444 } else { 0o400 },
        }
    }

    fn folder(&self) -> Attributes {
        Attributes {
            node: ROOT_NODE,
            len: 0,
            mode: FOLDER_TYPE | if self.for_all { 0o555 } else { 0o500 },
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::host_endian_bytes,
        reason = "the kernel speaks the machine's byte order"
    )]

    use super::*;
    use crate::block_read::BlockReadError;
    use crate::memory::Memory;

    struct Panics;

    impl BlockRead for Panics {
        fn len(&self) -> u64 {
            1 << 20
        }

        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<(), BlockReadError> {
            panic!("a bug above");
        }
    }

    fn one_file(content: Arc<dyn BlockRead>) -> OneFile {
        OneFile {
            name: b"device".to_vec(),
            content,
            read_ahead_len: 0,
            for_all: false,
        }
    }

    fn request(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        message.extend_from_slice(&u32::try_from(40 + body.len()).unwrap().to_ne_bytes());
        message.extend_from_slice(&opcode.to_ne_bytes());
        message.extend_from_slice(&7_u64.to_ne_bytes());
        message.extend_from_slice(&node.to_ne_bytes());
        message.extend_from_slice(&[0; 16]);
        message.extend_from_slice(body);
        message
    }

    fn read(offset: u64, len: u32) -> Vec<u8> {
        let mut body = vec![0; 40];
        body[8..16].copy_from_slice(&offset.to_ne_bytes());
        body[16..20].copy_from_slice(&len.to_ne_bytes());
        request(15, FILE_NODE, &body)
    }

    #[test]
    fn reads_are_cut_off_at_the_end_of_the_file() {
        let file = one_file(Arc::new(Memory::new((0..100).collect())));
        let mut data = Vec::new();
        let mut answer = |offset, len| file.answer(&read(offset, len), &mut data).unwrap().1;
        assert_eq!(answer(0, 4096), Answer::Data(100));
        assert_eq!(answer(90, 4), Answer::Data(4));
        assert_eq!(answer(100, 4096), Answer::Data(0));
        assert_eq!(answer(u64::MAX, 4096), Answer::Data(0));
        assert_eq!(answer(0, READ_LEN_MAX + 1), Answer::Failure(Errno::Invalid));
    }

    #[test]
    fn a_panic_while_reading_is_an_error_to_the_reader_alone() {
        let file = one_file(Arc::new(Panics));
        let answer = file.answer(&read(0, 4096), &mut Vec::new()).unwrap();
        assert_eq!(answer, (7, Answer::Failure(Errno::Io)));
    }

    #[test]
    fn requests_that_are_too_short_fail_and_others_are_declined_for_ever() {
        let file = one_file(Arc::new(Memory::default()));
        let answer = |message: &[u8]| file.answer(message, &mut Vec::new());
        let failure = |errno| Some((7, Answer::Failure(errno)));
        assert_eq!(answer(&request(15, FILE_NODE, b"")), failure(Errno::Io));
        assert_eq!(answer(&request(36, 0, b"")), failure(Errno::NoSuchCall));
        assert_eq!(answer(&request(25, 0, b"")), failure(Errno::NoSuchCall));
        assert_eq!(answer(&request(2, 0, b"")), Some((7, Answer::Silence)));
        assert_eq!(answer(b"not a request"), None);
    }

    #[test]
    fn only_the_one_name_exists() {
        let file = one_file(Arc::new(Memory::default()));
        let found = |node, name: &[u8]| {
            let answer = file.answer(&request(1, node, name), &mut Vec::new());
            matches!(answer, Some((7, Answer::Body(_))))
        };
        assert!(found(ROOT_NODE, b"device\0"));
        assert!(!found(ROOT_NODE, b"devic\0"));
        assert!(!found(ROOT_NODE, b"device2\0"));
        assert!(!found(FILE_NODE, b"device\0"));
    }
}
