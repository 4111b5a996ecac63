//! A layer's name in its header.

use core::fmt;
use core::str::FromStr;

use crate::digest::Digest;

/// 128 bits that name a layer. Prints as overlaybd stores it: upper-case hex digits in groups of 8-4-4-4-12.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// All zeros: no name, which is what the bottom layer gives as its parent's.
    pub const NIL: Self = Self([0; 16]);

    /// The name whose 16 bytes are known.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The first 16 bytes of a digest. overlaybd's converter names a layer by its chain ID in this way.
    pub fn from_digest(digest: &Digest) -> Self {
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(digest.bytes()) {
            *to = *from;
        }
        Self(bytes)
    }
}

/// Where the hyphens stand, counted in bytes before them.
const GROUP_STARTS: [usize; 4] = [4, 6, 8, 10];

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, byte) in self.0.iter().enumerate() {
            if GROUP_STARTS.contains(&number) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not 32 hex digits in groups of 8-4-4-4-12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID of the form 8-4-4-4-12 hex digits")]
pub struct ParseUuidError;

impl FromStr for Uuid {
    type Err = ParseUuidError;

    fn from_str(text: &str) -> Result<Self, ParseUuidError> {
        let groups: Vec<&str> = text.split('-').collect();
        let digits = groups.concat();
        let well_formed = groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
            && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        if !well_formed {
            return Err(ParseUuidError);
        }
        let number = u128::from_str_radix(&digits, 16).map_err(|_| ParseUuidError)?;
        let mut bytes = [0; 16];
        for (position, byte) in bytes.iter_mut().rev().enumerate() {
            *byte = u8::try_from(number >> (8 * position) & 0xff).map_err(|_| ParseUuidError)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_prints_and_parses_as_overlaybd_stores_it() {
        let uuid =
            Uuid::from_bytes(*b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef");
        assert_eq!(uuid.to_string(), "01234567-89AB-CDEF-0123-456789ABCDEF");
        assert_eq!(uuid.to_string().parse(), Ok(uuid));
        assert_eq!(uuid.to_string().to_lowercase().parse(), Ok(uuid));
        assert_eq!(
            Uuid::from_digest(&Digest::of(b"")).to_string(),
            "E3B0C442-98FC-1C14-9AFB-F4C8996FB924"
        );
    }

    #[test]
    fn other_texts_are_not_uuids() {
        for text in [
            "",
            "0",
            "01234567-89AB-CDEF-0123-456789ABCDE",
            "0123456789ABCDEF0123456789ABCDEF",
            "g1234567-89AB-CDEF-0123-456789ABCDEF",
            "+1234567-89AB-CDEF-0123-456789ABCDEF",
        ] {
            assert_eq!(text.parse::<Uuid>(), Err(ParseUuidError), "{text}");
        }
    }
}
