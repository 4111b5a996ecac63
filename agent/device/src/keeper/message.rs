//! What is said to the keeper, and what it says: one packet each.
//!
//! ```text
//! request   version, verb (K keep, G give, L let go, N name after, P program, E end, V version), name     with a descriptor: K
//! reply     version, status, name                                           with a descriptor: to G
//! ```
//!
//! The keeper outlives upgrades of everybody else, so each request says the version that it is in, and the reply to it is in the same. A keeper
//! that does not speak a request's version says which it does: status v, the newest as the reply's version, the oldest in figures as
//! its name (no name: the newest is all). The client then says its request again in the newest version that both speak.
//!
//! Where there is none, a keeper must still be replaced, and a descriptor still be held: else readers get errors. So packets have this form in
//! all versions, K, G, N, P and E mean in all versions what they mean in the base version, 1, and **every keeper understands these verbs
//! in the base version, whichever versions it speaks else**. They are not changed; what needs another meaning gets another verb.

use crate::speaks::Speaks;

/// The versions that this code speaks.
pub(super) const SPEAKS: Speaks = Speaks::only(1);
/// The version in which every keeper understands the verbs that a hand-over takes.
pub(super) const BASE: u8 = 1;
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
    /// Nothing, if this request's version is spoken. Keepers from before there was this verb do not understand it, and say so in that version.
    Version,
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
    /// The request's version is not among those that the reply tells.
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

impl Request<'_> {
    /// Whether every keeper understands it in the base version.
    pub(super) const fn is_of_base(self) -> bool {
        match self {
            Self::Keep(_) | Self::Give(_) | Self::NameAfter(_) | Self::Program | Self::End => true,
            // A keeper that is replaced lets go of all by ending.
            Self::LetGo(_) | Self::Version => false,
        }
    }
}

pub(super) fn request(version: u8, request: Request<'_>) -> Vec<u8> {
    let (verb, name) = match request {
        Request::Keep(name) => (b'K', name),
        Request::Give(name) => (b'G', name),
        Request::LetGo(name) => (b'L', name),
        Request::NameAfter(name) => (b'N', name),
        Request::Program => (b'P', ""),
        Request::End => (b'E', ""),
        Request::Version => (b'V', ""),
    };
    packet(version, verb, name)
}

/// A reply in the version of the request.
pub(super) fn reply(version: u8, status: Status, name: &str) -> Vec<u8> {
    let code = STATUSES
        .iter()
        .find(|(known, _)| *known == status)
        .map_or(b'?', |(_, code)| *code);
    packet(version, code, name)
}

/// The reply to a request of a version that a keeper does not speak, which speaks those.
pub(super) fn reply_of_other_version(speaks: Speaks) -> Vec<u8> {
    let oldest = speaks.oldest.to_string();
    reply(speaks.newest, Status::OtherVersion, &oldest)
}

/// The versions that such a reply tells, out of its version and its name.
pub(super) fn told_versions(version: u8, name: &str) -> Speaks {
    Speaks {
        // Keepers that speak one only do not say the oldest.
        oldest: name.parse().unwrap_or(version),
        newest: version,
    }
}

fn packet(version: u8, kind: u8, name: &str) -> Vec<u8> {
    let mut bytes = vec![version, kind];
    bytes.extend_from_slice(name.as_bytes());
    bytes
}

/// Reads a request for a keeper that speaks those versions, and tells the version of the reply; without a request, the status is the answer.
pub(super) fn parse_request(bytes: &[u8], speaks: Speaks) -> (u8, Result<Request<'_>, Status>) {
    let Some((version, verb, name)) = parts(bytes) else {
        return (BASE, Err(Status::NotUnderstood));
    };
    let request = parse_verb(verb, name);
    let is_base = version == BASE && request.is_ok_and(Request::is_of_base);
    if !speaks.includes(version) && !is_base {
        return (speaks.newest, Err(Status::OtherVersion));
    }
    (version, request)
}

fn parse_verb(verb: u8, name: &str) -> Result<Request<'_>, Status> {
    match verb {
        b'N' => Ok(Request::NameAfter(name)),
        b'P' if name.is_empty() => Ok(Request::Program),
        b'E' if name.is_empty() => Ok(Request::End),
        b'V' if name.is_empty() => Ok(Request::Version),
        _ if name.is_empty() => Err(Status::NotUnderstood),
        b'K' => Ok(Request::Keep(name)),
        b'G' => Ok(Request::Give(name)),
        b'L' => Ok(Request::LetGo(name)),
        _ => Err(Status::NotUnderstood),
    }
}

/// Reads a reply: its version, the status, the name.
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
            Request::Version,
        ] {
            let bytes = request(1, sent);
            assert_eq!(parse_request(&bytes, SPEAKS), (1, Ok(sent)));
        }
        for (status, _) in STATUSES {
            assert_eq!(
                parse_reply(&reply(1, status, "a/fuse")),
                Some((1, status, "a/fuse"))
            );
        }
    }

    #[test]
    fn whatever_is_not_a_request_is_refused() {
        let long = [vec![1, b'K'], vec![b'x'; NAME_LEN_MAX + 1]].concat();
        for (bytes, status) in [
            (&b""[..], Status::NotUnderstood),
            (b"\x01", Status::NotUnderstood),
            (b"\x01K", Status::NotUnderstood),
            (b"\x01Xname", Status::NotUnderstood),
            (b"\x01K\xff", Status::NotUnderstood),
            (&long, Status::NotUnderstood),
            (b"\x02Kname", Status::OtherVersion),
        ] {
            assert_eq!(parse_request(bytes, SPEAKS), (1, Err(status)), "{bytes:?}");
        }
    }

    #[test]
    fn verbs_of_the_base_are_understood_by_keepers_of_all_versions() {
        let later = Speaks {
            oldest: 3,
            newest: 4,
        };
        for (bytes, verb) in [
            (&b"\x01Ka/fuse"[..], Request::Keep("a/fuse")),
            (b"\x01Ga/fuse", Request::Give("a/fuse")),
            (b"\x01Na/fuse", Request::NameAfter("a/fuse")),
            (b"\x01P", Request::Program),
            (b"\x01E", Request::End),
        ] {
            assert_eq!(parse_request(bytes, later), (1, Ok(verb)));
            // In no other version that it does not speak.
            let other = [b"\x02", &bytes[1..]].concat();
            assert_eq!(
                parse_request(&other, later),
                (4, Err(Status::OtherVersion)),
                "{verb:?}"
            );
        }
        for bytes in [&b"\x01La/fuse"[..], b"\x01V", b"\x01Xa/fuse"] {
            assert_eq!(
                parse_request(bytes, later),
                (4, Err(Status::OtherVersion)),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn a_keeper_tells_which_versions_it_speaks() {
        let speaks = Speaks {
            oldest: 2,
            newest: 11,
        };
        let told = reply_of_other_version(speaks);
        assert_eq!(told, b"\x0bv2");
        let (version, status, name) = parse_reply(&told).unwrap();
        assert_eq!(status, Status::OtherVersion);
        assert_eq!(told_versions(version, name), speaks);
        // The first keepers' words.
        assert_eq!(told_versions(1, ""), Speaks::only(1));
    }

    #[test]
    fn parts_of_one_device_are_told_by_their_names() {
        assert_eq!(device_of("0123-fuse-loop/fuse"), "0123-fuse-loop");
        assert_eq!(device_of("alone"), "alone");
    }
}
