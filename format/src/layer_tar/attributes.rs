//! The extended attributes of an entry, in the five ways in which tars say them.
//!
//! The plainest one wins: `SCHILY.xattr.NAME` holds name and bytes as they are, and is what container runtimes look at.
//! The others (a label of `SELinux`, access control lists as text, libarchive's escaped form) say something that the plain
//! one may lack, and fill in what it leaves out.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::acl;

/// Prefix of the keys that carry a name and a value as they are.
const PLAIN_PREFIX: &[u8] = b"SCHILY.xattr.";
/// Prefix of libarchive's own keys: the name percent-encoded, the value in base 64.
const ESCAPED_PREFIX: &[u8] = b"LIBARCHIVE.xattr.";
/// GNU tar's key for a label of `SELinux`.
const SELINUX: &[u8] = b"RHT.security.selinux";
/// Lists of access rights as text, and the attributes that hold them.
const ACCESS: &[u8] = b"SCHILY.acl.access";
const DEFAULT: &[u8] = b"SCHILY.acl.default";
const ACCESS_XATTR: &[u8] = b"system.posix_acl_access";
const DEFAULT_XATTR: &[u8] = b"system.posix_acl_default";

/// What the records of one PAX header say of an entry's extended attributes.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    plain: BTreeMap<Vec<u8>, Vec<u8>>,
    derived: BTreeMap<Vec<u8>, Vec<u8>>,
    access: Vec<u8>,
    default: Vec<u8>,
}

impl Attributes {
    /// Takes a record if it is about attributes; returns whether it is.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<bool, &'static str> {
        if let Some(name) = key.strip_prefix(PLAIN_PREFIX) {
            self.plain.insert(name.to_vec(), value.to_vec());
        } else if let Some(name) = key.strip_prefix(ESCAPED_PREFIX) {
            let name = percent_decoded(name).ok_or("an attribute's name is badly escaped")?;
            let value = base_64_decoded(value).ok_or("an attribute's value is not in base 64")?;
            self.derived.insert(name, value);
        } else {
            match key {
                SELINUX => {
                    // The kernel keeps labels with the NUL that ends them, and tars without.
                    let label = [value.strip_suffix(b"\0").unwrap_or(value), b"\0"].concat();
                    self.derived.insert(b"security.selinux".to_vec(), label);
                }
                ACCESS => self.access = value.to_vec(),
                DEFAULT => self.default = value.to_vec(),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// All attributes by whole name.
    pub(super) fn finish(self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, &'static str> {
        let mut all = self.derived;
        for (text, name) in [(self.access, ACCESS_XATTR), (self.default, DEFAULT_XATTR)] {
            // A text that the plain form replaces need not be one that we can read.
            if !self.plain.contains_key(name)
                && let Some(list) = acl::to_xattr(&text)?
            {
                all.insert(name.to_vec(), list);
            }
        }
        all.extend(self.plain);
        Ok(all)
    }
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let (digits, after) = rest.split_first_chunk::<2>()?;
            let value = digits.iter().try_fold(0, |value, digit| {
                char::from(*digit)
                    .to_digit(16)
                    .map(|digit| value * 16 + digit)
            })?;
            out.push(u8::try_from(value).ok()?);
            rest = after;
        } else {
            out.push(*byte);
        }
    }
    Some(out)
}

/// Libarchive leaves the padding out, and others may not.
fn base_64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let either =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&STANDARD, either).decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(records: &[(&str, &[u8])]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, &'static str> {
        let mut attributes = Attributes::default();
        for (key, value) in records {
            assert!(attributes.take(key.as_bytes(), value)?);
        }
        attributes.finish()
    }

    #[test]
    fn each_way_of_saying_an_attribute_is_read() {
        let found = all(&[
            ("SCHILY.xattr.user.a", b"1\0\n"),
            ("LIBARCHIVE.xattr.user.b%3d%FF", b"AP9h"),
            ("LIBARCHIVE.xattr.user.c", b"YQ"),
            ("LIBARCHIVE.xattr.user.d", b"YWI="),
            ("LIBARCHIVE.xattr.user.e", b""),
            ("RHT.security.selinux", b"system_u:object_r:bin_t:s0"),
            ("SCHILY.acl.access", b"user::rw-,group::r--,other::r--"),
        ])
        .unwrap();
        let expected: [(&[u8], &[u8]); 6] = [
            (b"security.selinux", b"system_u:object_r:bin_t:s0\0"),
            (b"user.a", b"1\0\n"),
            (b"user.b=\xff", b"\0\xffa"),
            (b"user.c", b"a"),
            (b"user.d", b"ab"),
            (b"user.e", b""),
        ];
        let found: Vec<(&[u8], &[u8])> = found.iter().map(|(k, v)| (&k[..], &v[..])).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_plain_form_wins_wherever_it_stands() {
        let plain: (&str, &[u8]) = ("SCHILY.xattr.system.posix_acl_access", b"as it is");
        let text: (&str, &[u8]) = ("SCHILY.acl.access", b"user::rw-,user:unknown:r--");
        let plain_b: (&str, &[u8]) = ("SCHILY.xattr.user.b", b"b");
        let escaped: (&str, &[u8]) = ("LIBARCHIVE.xattr.user.b", b"YQ");
        for records in [
            [plain, text, plain_b, escaped],
            [escaped, plain_b, text, plain],
        ] {
            let found = all(&records).unwrap();
            assert_eq!(found[ACCESS_XATTR], b"as it is");
            assert_eq!(found[&b"user.b"[..]], b"b");
        }
        assert!(all(&[text]).is_err());
    }

    #[test]
    fn what_is_badly_written_is_refused() {
        assert!(all(&[("LIBARCHIVE.xattr.user.%4", b"")]).is_err());
        assert!(all(&[("LIBARCHIVE.xattr.user.%zz", b"")]).is_err());
        assert!(all(&[("LIBARCHIVE.xattr.user.a", b"A")]).is_err());
        assert!(all(&[("LIBARCHIVE.xattr.user.a", b"A*==")]).is_err());
    }
}
