//! The beginning of a connection: the client looks at what there is and chooses an export.

use std::io::{self, Read, Write};

use thiserror::Error;

use super::Export;
use super::protocol::{
    BASE_ALLOCATION, BASE_ALLOCATION_ID, FIXED_NEWSTYLE, Fields, GREETING, Message, NO_ZEROES,
    OPTION_MAGIC, PAYLOAD_LEN_MAX, PREFERRED_LEN, TEXT_LEN_MAX, answer, info, option, option_reply,
    transmission_flags,
};

/// Longest option listened to, in bytes: a name, and some queries about it.
const OPTION_LEN_MAX: u32 = 16 << 10;
/// Longest option that is skipped politely instead of hanging up, in bytes.
const SKIPPED_LEN_MAX: u32 = 1 << 20;
/// Options that a client may send before it has chosen. Real ones send five.
const OPTION_COUNT_MAX: usize = 1000;

/// What client and server agreed on.
#[derive(Debug)]
pub(crate) struct Agreed<'a> {
    pub(super) export: &'a Export,
    /// Whether reads are answered in chunks.
    pub(super) structured: bool,
    /// Whether the client may ask which bytes are zero.
    pub(super) base_allocation: bool,
}

/// Why a connection did not get as far as its first request.
#[derive(Debug, Error)]
pub(super) enum HandshakeError {
    /// The connection broke, or the client said nothing for too long.
    #[error("the connection broke")]
    Broken(#[from] io::Error),
    /// The client does not speak the protocol.
    #[error("the client does not speak NBD: {0}")]
    Malformed(&'static str),
    /// The client wants an export that is not there, in the old way that has no answer for it.
    #[error("the client wants an export that is not there")]
    NoSuchExport,
}

/// Finds an export; the empty name is the first one's.
fn find<'a>(exports: &'a [Export], name: &[u8]) -> Option<&'a Export> {
    if name.is_empty() {
        return exports.first();
    }
    exports.iter().find(|export| export.name.as_bytes() == name)
}

/// Speaks with the client until it has chosen an export, or leaves without (nothing).
pub(super) fn negotiate<'a>(
    stream: &mut (impl Read + Write),
    exports: &'a [Export],
) -> Result<Option<Agreed<'a>>, HandshakeError> {
    let mut hello = Message::default();
    hello.bytes(GREETING);
    hello.bytes(OPTION_MAGIC);
    hello.u16(FIXED_NEWSTYLE | NO_ZEROES);
    stream.write_all(&hello.0)?;
    let mut flags = [0; 4];
    stream.read_exact(&mut flags)?;
    let flags = Fields(&flags).u32().unwrap_or_default();
    if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
        return Err(HandshakeError::Malformed("unknown flags"));
    }
    let mut negotiation = Negotiation {
        stream,
        exports,
        no_zeroes: flags & u32::from(NO_ZEROES) != 0,
        structured: false,
        context_of: None,
    };
    for _ in 0..OPTION_COUNT_MAX {
        match negotiation.option()? {
            Step::Again => {}
            Step::Left => return Ok(None),
            Step::Chosen(agreed) => return Ok(Some(agreed)),
        }
    }
    Err(HandshakeError::Malformed("no end of options"))
}

/// What an option led to.
enum Step<'a> {
    Again,
    Left,
    Chosen(Agreed<'a>),
}

struct Negotiation<'a, 's, S> {
    stream: &'s mut S,
    exports: &'a [Export],
    no_zeroes: bool,
    structured: bool,
    /// Name of the export for which `base:allocation` was agreed on.
    context_of: Option<Vec<u8>>,
}

impl<'a, S: Read + Write> Negotiation<'a, '_, S> {
    fn option(&mut self) -> Result<Step<'a>, HandshakeError> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        let Some((OPTION_MAGIC, fields)) = head.split_first_chunk() else {
            return Err(HandshakeError::Malformed("an option without its magic"));
        };
        let mut fields = Fields(fields);
        let (Some(code), Some(len)) = (fields.u32(), fields.u32()) else {
            return Err(HandshakeError::Malformed("an option that is cut short"));
        };
        if len > OPTION_LEN_MAX {
            if len > SKIPPED_LEN_MAX || code == option::EXPORT_NAME {
                return Err(HandshakeError::Malformed("an option of absurd length"));
            }
            let mut data = Read::by_ref(self.stream).take(len.into());
            io::copy(&mut data, &mut io::sink())?;
            self.reply(code, answer::TOO_BIG, b"option too long")?;
            return Ok(Step::Again);
        }
        let mut data = vec![0; len as usize];
        self.stream.read_exact(&mut data)?;
        self.answer(code, &data)
    }

    fn answer(&mut self, code: u32, data: &[u8]) -> Result<Step<'a>, HandshakeError> {
        match code {
            option::EXPORT_NAME => return self.export_name(data).map(Step::Chosen),
            option::ABORT => {
                self.reply(code, answer::ACK, b"")?;
                return Ok(Step::Left);
            }
            option::LIST if data.is_empty() => self.list()?,
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                self.reply(code, answer::ACK, b"")?;
            }
            option::LIST | option::STRUCTURED_REPLY => {
                self.reply(code, answer::INVALID, b"this option has no data")?;
            }
            option::INFO | option::GO => {
                let chosen = self.info(code, data)?;
                if let (option::GO, Some(export)) = (code, chosen) {
                    return Ok(Step::Chosen(self.agreed(export)));
                }
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.context(code, data)?,
            _ => self.reply(code, answer::UNSUPPORTED, b"")?,
        }
        Ok(Step::Again)
    }

    fn reply(&mut self, code: u32, kind: u32, body: &[u8]) -> io::Result<()> {
        self.stream.write_all(&option_reply(code, kind, body))
    }

    fn agreed(&self, export: &'a Export) -> Agreed<'a> {
        let context_export = self
            .context_of
            .as_ref()
            .and_then(|name| find(self.exports, name));
        Agreed {
            export,
            structured: self.structured,
            base_allocation: context_export.is_some_and(|of| std::ptr::eq(of, export)),
        }
    }

    /// The old way to choose: no refusal but hanging up.
    fn export_name(&mut self, name: &[u8]) -> Result<Agreed<'a>, HandshakeError> {
        let export = find(self.exports, name).ok_or(HandshakeError::NoSuchExport)?;
        let mut reply = Message::default();
        reply.u64(export.content.len());
        reply.u16(transmission_flags(self.structured));
        if !self.no_zeroes {
            reply.bytes(&[0; 124]);
        }
        self.stream.write_all(&reply.0)?;
        Ok(self.agreed(export))
    }

    fn list(&mut self) -> io::Result<()> {
        for export in self.exports {
            let mut body = Message::default();
            body.text(export.name.as_bytes());
            body.bytes(export.description.as_bytes());
            self.reply(option::LIST, answer::SERVER, &body.0)?;
        }
        self.reply(option::LIST, answer::ACK, b"")
    }

    /// Tells about an export, and which one it is.
    fn info(&mut self, code: u32, data: &[u8]) -> io::Result<Option<&'a Export>> {
        let Some((name, wanted)) = info_query(data) else {
            self.reply(code, answer::INVALID, b"malformed query")?;
            return Ok(None);
        };
        let Some(export) = find(self.exports, name) else {
            self.reply(code, answer::UNKNOWN, b"no such export")?;
            return Ok(None);
        };
        let mut body = Message::default();
        body.u16(info::EXPORT);
        body.u64(export.content.len());
        body.u16(transmission_flags(self.structured));
        self.reply(code, answer::INFO, &body.0)?;
        if wanted.contains(&info::NAME) {
            let mut body = Message::default();
            body.u16(info::NAME);
            body.bytes(export.name.as_bytes());
            self.reply(code, answer::INFO, &body.0)?;
        }
        if wanted.contains(&info::DESCRIPTION) {
            let mut body = Message::default();
            body.u16(info::DESCRIPTION);
            body.bytes(export.description.as_bytes());
            self.reply(code, answer::INFO, &body.0)?;
        }
        if wanted.contains(&info::BLOCK_SIZE) {
            let mut body = Message::default();
            body.u16(info::BLOCK_SIZE);
            body.u32(1);
            body.u32(PREFERRED_LEN);
            body.u32(PAYLOAD_LEN_MAX);
            self.reply(code, answer::INFO, &body.0)?;
        }
        self.reply(code, answer::ACK, b"")?;
        Ok(Some(export))
    }

    fn context(&mut self, code: u32, data: &[u8]) -> io::Result<()> {
        let setting = code == option::SET_META_CONTEXT;
        if setting {
            // A failed attempt undoes an earlier one.
            self.context_of = None;
        }
        if !self.structured {
            return self.reply(code, answer::INVALID, b"structured replies come first");
        }
        let Some((name, queries)) = context_query(data) else {
            return self.reply(code, answer::INVALID, b"malformed query");
        };
        if find(self.exports, name).is_none() {
            return self.reply(code, answer::UNKNOWN, b"no such export");
        }
        let matches = if setting {
            queries.contains(&BASE_ALLOCATION)
        } else {
            queries.is_empty()
                || queries.contains(&BASE_ALLOCATION)
                || queries.contains(&&b"base:"[..])
        };
        if matches {
            let mut body = Message::default();
            body.u32(if setting { BASE_ALLOCATION_ID } else { 0 });
            body.bytes(BASE_ALLOCATION);
            self.reply(code, answer::META_CONTEXT, &body.0)?;
        }
        if setting && matches {
            self.context_of = Some(name.to_vec());
        }
        self.reply(code, answer::ACK, b"")
    }
}

/// A name, and what is wanted to know of it.
fn info_query(data: &[u8]) -> Option<(&[u8], Vec<u16>)> {
    let mut fields = Fields(data);
    let name = fields.text()?;
    let count = fields.u16()?;
    let wanted = (0..count).map(|_| fields.u16()).collect::<Option<_>>()?;
    fields.is_done().then_some((name, wanted))
}

/// A name, and queries for metadata contexts.
fn context_query(data: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let mut fields = Fields(data);
    let name = fields.text()?;
    let count = fields.u32()?;
    // Each query takes four bytes at least, so a wrong count ends at the message's end.
    let queries = (0..count).map(|_| fields.text()).collect::<Option<_>>()?;
    fields.is_done().then_some((name, queries))
}

/// Why an export cannot be offered.
pub(super) fn fault(exports: &[Export]) -> Option<(String, &'static str)> {
    if exports.is_empty() {
        return Some((String::new(), "there is nothing to export"));
    }
    for (place, export) in exports.iter().enumerate() {
        let why = if export.name.len() > TEXT_LEN_MAX || export.description.len() > TEXT_LEN_MAX {
            "its name or description is longer than 4096 bytes"
        } else if exports
            .iter()
            .take(place)
            .any(|other| other.name == export.name)
        {
            "another export has the same name"
        } else {
            continue;
        };
        return Some((export.name.clone(), why));
    }
    None
}

#[cfg(test)]
mod tests;
