//! Envelopes of both kinds, none, and broken ones.

use super::*;

fn payload_of(blob: &[u8]) -> Result<ByteRange, DecodeError> {
    match payload(&blob) {
        Ok(range) => Ok(range),
        Err(EnvelopeError::Decode(error)) => Err(error),
        Err(EnvelopeError::Read(error)) => panic!("{error}"),
    }
}

#[test]
fn an_envelope_names_its_payload() {
    let blob = [header(1000).as_slice(), &[7; 2000]].concat();
    assert_eq!(payload_of(&blob), Ok(ByteRange::new(1536, 2536)));
}

#[test]
fn a_pax_record_counts_its_own_length() {
    for size in [0, 7, 99, 173_537, u64::MAX] {
        let record = pax_record(size);
        assert_eq!(record.split_once(' ').unwrap().0.parse(), Ok(record.len()));
        assert_eq!(pax_size(record.as_bytes()), Ok(Some(size)));
    }
    assert_eq!(pax_record(173_537), "15 size=173537\n");
}

#[test]
fn an_old_envelope_has_no_pax_record() {
    let blob = [file_header("overlaybd.commit", 600).as_slice(), &[7; 700]].concat();
    assert_eq!(payload_of(&blob), Ok(ByteRange::new(512, 1112)));
    assert!(matches!(
        payload_of(&blob[..1111]).unwrap_err().why,
        Fault::Truncated {
            need: 600,
            have: 599
        }
    ));
}

#[test]
fn what_is_no_tar_is_all_payload() {
    for blob in [&[0; 4096][..], &[0; 10], &[], b"LSMT"] {
        assert_eq!(payload_of(blob), Ok(ByteRange::new(0, blob.len() as u64)));
    }
    let mut unfinished = header(10).to_vec();
    unfinished[257..262].copy_from_slice(b"xxtar");
    assert_eq!(payload_of(&unfinished), Ok(ByteRange::new(0, 1536)));
}

#[test]
fn a_flipped_bit_in_a_header_makes_it_no_envelope_or_an_error() {
    let good = [header(1000).as_slice(), &[7; 2000]].concat();
    for bit in (0..512 * 8).chain(1024 * 8..1536 * 8) {
        let mut blob = good.clone();
        blob[bit / 8] ^= 1 << (bit % 8);
        // The checksum's own field may be written in other ways that mean the same.
        let in_checksum = (148..156).contains(&(bit / 8 % 512));
        assert!(
            in_checksum || payload_of(&blob) != Ok(ByteRange::new(1536, 2536)),
            "bit {bit}"
        );
    }
}

#[test]
fn malformed_records_are_refused() {
    let wrong = [
        "x",
        "8 size=1\n",
        "99999999999999999999 size=1\n",
        "12 size=abc\n",
        "0 size=1\n",
        "11 size=-1\n",
        "2 \n",
        "1 ",
    ];
    for records in wrong {
        assert!(pax_size(records.as_bytes()).is_err(), "{records:?}");
    }
    assert!(pax_size(&[0xff]).is_err());
}

#[test]
fn other_records_may_stand_beside_the_size() {
    assert_eq!(pax_size(b"9 path=x\n11 size=22\n\0\0"), Ok(Some(22)));
    assert_eq!(pax_size(b"9 size=1\n9 size=2\n"), Ok(Some(2)));
    assert_eq!(pax_size(b"9 path=x\n"), Ok(None));
    assert_eq!(pax_size(b""), Ok(None));
}

#[test]
fn sizes_may_be_binary() {
    let mut field = [0; 12];
    field[0] = 0x80;
    field[11] = 5;
    field[7] = 1;
    assert_eq!(number(&field), Some((1 << 32) + 5));
    assert_eq!(number(&[0xff; 12]), None);
    assert_eq!(number(b"        17  "), Some(15));
}
