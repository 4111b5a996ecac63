//! Numbers as tar headers and PAX records write them.

use super::Timestamp;

/// A header field: octal digits between spaces and NULs, or, with the first bit set, a big-endian two's complement
/// number. An empty field is 0, as in every reader. `None` if it is neither or does not fit.
pub(super) fn field(bytes: &[u8]) -> Option<i64> {
    match bytes.first() {
        Some(first) if first & 0x80 != 0 => base_256(bytes),
        _ => octal(bytes),
    }
}

fn octal(bytes: &[u8]) -> Option<i64> {
    let is_filler = |byte: &u8| matches!(byte, 0 | b' ');
    let start = bytes.iter().position(|byte| !is_filler(byte));
    let digits = bytes.get(start.unwrap_or(bytes.len())..)?;
    let end = digits.iter().position(is_filler).unwrap_or(digits.len());
    digits
        .get(..end)?
        .iter()
        .try_fold(0_i64, |value, digit| match digit {
            b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
            _ => None,
        })
}

fn base_256(bytes: &[u8]) -> Option<i64> {
    let (first, rest) = bytes.split_first()?;
    // The first bit only says that this is base 256; the second one is the sign, which extends to the left.
    let start = if first & 0x40 == 0 {
        i64::from(first & 0x3f)
    } else {
        i64::from((first | 0x80).cast_signed())
    };
    rest.iter().try_fold(start, |value, byte| {
        value.checked_mul(256)?.checked_add(i64::from(*byte))
    })
}

/// Decimal digits and nothing else.
pub(super) fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// A time of a PAX record: seconds, possibly negative, possibly with a fraction of which nine digits are kept.
pub(super) fn time(bytes: &[u8]) -> Option<Timestamp> {
    let (negative, digits) = match bytes.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, bytes),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nine = fraction.iter().copied().chain([b'0'; 9]).take(9);
    let nanoseconds = nine.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => Timestamp {
            seconds,
            nanoseconds,
        },
        (true, 0) => Timestamp {
            seconds: -seconds,
            nanoseconds: 0,
        },
        // The fraction counts upwards from the second below.
        (true, nanoseconds) => Timestamp {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_numbers_are_octal_or_base_256() {
        assert_eq!(field(b"0000644\0"), Some(0o644));
        assert_eq!(field(b"   644 \0"), Some(0o644));
        assert_eq!(field(b"\0\0\0\0"), Some(0));
        assert_eq!(field(b"64x\0"), None);
        assert_eq!(field(b"77777777777\0"), Some(0o77_777_777_777));
        assert_eq!(field(b"\x80\0\0\0\0\x40\0\0"), Some(1 << 22));
        assert_eq!(field(b"\x80\0\0\0\0\0\0\x02\0\0\0\0"), Some(1 << 33));
        assert_eq!(
            field(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"),
            Some(-2)
        );
        assert_eq!(field(b"\x80\0\0\0\x80\0\0\0\0\0\0\0"), None);
    }

    #[test]
    fn pax_times_keep_nanoseconds_and_count_upwards() {
        let time_of = |seconds, nanoseconds| {
            Some(Timestamp {
                seconds,
                nanoseconds,
            })
        };
        assert_eq!(time(b"1700000000"), time_of(1_700_000_000, 0));
        assert_eq!(time(b"1.5"), time_of(1, 500_000_000));
        assert_eq!(time(b"1.1234567899"), time_of(1, 123_456_789));
        assert_eq!(time(b"1."), time_of(1, 0));
        assert_eq!(time(b"-1"), time_of(-1, 0));
        assert_eq!(time(b"-1.25"), time_of(-2, 750_000_000));
        assert_eq!(time(b"-0.25"), time_of(-1, 750_000_000));
        for bad in [
            &b""[..],
            b"-",
            b".5",
            b"1.x",
            b"+1",
            b"99999999999999999999",
        ] {
            assert_eq!(time(bad), None);
        }
    }
}
