//! What is said to the keeper, and what it says: one packet each.
//!
//! ```text
//! request   version, verb (K keep, G give, L let go, N name after, P program, E end), name     with a descriptor: K
//! reply     version, status, name                                           with a descriptor: to G
//! ```
//!
//! The keeper outlives upgrades of everybody else, so each side says its version with every packet: a keeper that does not know a
//! client's version says so, and the client may speak an older one.

/// The version that this code speaks.
pub(super) const VERSION: u8 = 1;
/// Longest name, in bytes.
pub(super) const NAME_LEN_MAX: usize = 200;
/// Longest packet, in bytes.
pub(super) const PACKET_LEN_MAX: usize = NAME_LEN_MAX + 2;

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// Hold this descriptor, in the place of an earlier one of that name.
    Keep(&'a str),
    /// A duplicate of that one.
    Give(&'a str),
    /// Close it.
    LetGo(&'a str),
    /// The first name behind that one, in the order of their bytes. The empty name comes before all.
    NameAfter(&'a str),
    /// Which file the keeper's program is.
    Program,
    /// Let go of everything and end: another has all of it.
    End,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// As asked.
    Done,
    /// Nothing is held under that name, or no name comes behind it.
    NotHeld,
    /// No more descriptors are taken.
    Full,
    /// Not a request, or its descriptor is missing.
    NotUnderstood,
    /// Another version than the reply's.
    OtherVersion,
}

const STATUSES: [(Status, u8); 5] = [
    (Status::Done, b'd'),
    (Status::NotHeld, b'n'),
    (Status::Full, b'f'),
    (Status::NotUnderstood, b'?'),
    (Status::OtherVersion, b'v'),
];

/// The part of a name that says to which device the descriptor belongs.
pub(super) fn device_of(name: &str) -> &str {
    name.split_once('/').map_or(name, |(device, _)| device)
}

pub(super) fn request(request: Request<'_>) -> Vec<u8> {
    let (verb, name) = match request {
        Request::Keep(name) => (b'K', name),
        Request::Give(name) => (b'G', name),
        Request::LetGo(name) => (b'L', name),
        Request::NameAfter(name) => (b'N', name),
        Request::Program => (b'P', ""),
        Request::End => (b'E', ""),
    };
    packet(verb, name)
}

pub(super) fn reply(status: Status, name: &str) -> Vec<u8> {
    let code = STATUSES
        .iter()
        .find(|(known, _)| *known == status)
        .map_or(b'?', |(_, code)| *code);
    packet(code, name)
}

fn packet(kind: u8, name: &str) -> Vec<u8> {
    let mut bytes = vec![VERSION, kind];
    bytes.extend_from_slice(name.as_bytes());
    bytes
}

/// Reads a request; on an error, the status to answer with.
pub(super) fn parse_request(bytes: &[u8]) -> Result<Request<'_>, Status> {
    let (version, verb, name) = parts(bytes).ok_or(Status::NotUnderstood)?;
    if version != VERSION {
        return Err(Status::OtherVersion);
    }
    match verb {
        b'N' => Ok(Request::NameAfter(name)),
        b'P' if name.is_empty() => Ok(Request::Program),
        b'E' if name.is_empty() => Ok(Request::End),
        _ if name.is_empty() => Err(Status::NotUnderstood),
        b'K' => Ok(Request::Keep(name)),
        b'G' => Ok(Request::Give(name)),
        b'L' => Ok(Request::LetGo(name)),
        _ => Err(Status::NotUnderstood),
    }
}

/// Reads a reply: the keeper's version, the status, the name.
pub(super) fn parse_reply(bytes: &[u8]) -> Option<(u8, Status, &str)> {
    let (version, code, name) = parts(bytes)?;
    let (status, _) = STATUSES.iter().find(|(_, known)| *known == code)?;
    Some((version, *status, name))
}

fn parts(bytes: &[u8]) -> Option<(u8, u8, &str)> {
    let (&[version, kind], name) = bytes.split_first_chunk::<2>()?;
    let name = std::str::from_utf8(name).ok()?;
    (name.len() <= NAME_LEN_MAX).then_some((version, kind, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_replies_come_back_as_they_were_sent() {
        for sent in [
            Request::Keep("a/fuse"),
            Request::Give("a/fuse"),
            Request::LetGo("a/loop"),
            Request::NameAfter(""),
            Request::Program,
            Request::End,
        ] {
            assert_eq!(parse_request(&request(sent)), Ok(sent));
        }
        for (status, _) in STATUSES {
            assert_eq!(
                parse_reply(&reply(status, "a/fuse")),
                Some((VERSION, status, "a/fuse"))
            );
        }
    }

    #[test]
    fn whatever_is_not_a_request_is_refused() {
        let long = [vec![VERSION, b'K'], vec![b'x'; NAME_LEN_MAX + 1]].concat();
        for (bytes, status) in [
            (&b""[..], Status::NotUnderstood),
            (b"\x01", Status::NotUnderstood),
            (b"\x01K", Status::NotUnderstood),
            (b"\x01Xname", Status::NotUnderstood),
            (b"\x01K\xff", Status::NotUnderstood),
            (&long, Status::NotUnderstood),
            (b"\x02Kname", Status::OtherVersion),
        ] {
            assert_eq!(parse_request(bytes), Err(status), "{bytes:?}");
        }
    }

    #[test]
    fn parts_of_one_device_are_told_by_their_names() {
        assert_eq!(device_of("0123-fuse-loop/fuse"), "0123-fuse-loop");
        assert_eq!(device_of("alone"), "alone");
    }
}
