//! What is mounted where, from the kernel's own table in `/proc/self/mountinfo`.
//!
//! The table is read instead of calling stat(2) on mount points, because stat on a FUSE mount whose server is gone hangs.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::MountError;

/// Where the kernel lists the mounts of this process's namespace.
const TABLE: &str = "/proc/self/mountinfo";

/// One mount of this process's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Major and minor number of the device; a major of 0 for filesystems without one.
    pub device: (u32, u32),
    /// Where it appears.
    pub target: PathBuf,
    /// Filesystem type, with its subtype: `erofs`, `fuse.tranship`.
    pub kind: String,
    /// What is mounted, as was said when mounting.
    pub source: PathBuf,
    /// Options of the filesystem, as the kernel shows them.
    pub options: String,
}

/// All mounts, in the order in which the kernel lists them: of those at one target, the last is the one that is seen.
pub fn entries() -> Result<Vec<MountEntry>, MountError> {
    let table = fs::read(TABLE).map_err(|source| MountError::MountInfo { source })?;
    Ok(table
        .split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect())
}

/// The uppermost mount at exactly `target`, which must be absolute and free of symbolic links.
pub fn entry_at(target: &Path) -> Result<Option<MountEntry>, MountError> {
    Ok(entries()?
        .into_iter()
        .rev()
        .find(|entry| entry.target == target))
}

/// Whether something is mounted at exactly `target`, which must be absolute and free of symbolic links.
pub fn is_mounted(target: &Path) -> Result<bool, MountError> {
    Ok(entry_at(target)?.is_some())
}

/// `36 35 98:0 /root /target rw,noatime master:1 - ext4 /dev/root rw,errors=continue`; any number of tags before ` - `.
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let target = path(fields.nth(1)?);
    let mut behind_tags = fields.skip_while(|field| *field != b"-").skip(1);
    Some(MountEntry {
        device: (major.parse().ok()?, minor.parse().ok()?),
        target,
        kind: String::from_utf8_lossy(&unescape(behind_tags.next()?)).into_owned(),
        source: path(behind_tags.next()?),
        options: String::from_utf8_lossy(behind_tags.next().unwrap_or_default()).into_owned(),
    })
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, behind)) = rest.split_first() {
        let code = (*byte == b'\\').then(|| octal(behind)).flatten();
        plain.push(code.unwrap_or(*byte));
        rest = if code.is_some() {
            behind.get(3..).unwrap_or_default()
        } else {
            behind
        };
    }
    plain
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits.get(..3)?).ok()?;
    let all_octal = digits.bytes().all(|digit| (b'0'..b'8').contains(&digit));
    all_octal
        .then(|| u8::from_str_radix(digits, 8).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line = b"95 29 0:52 / /run/a\\040b\\134c rw,nodev shared:3 master:1 - fuse.tranship tran\\011ship ro,user_id=0";
        assert_eq!(
            parse_line(line).unwrap(),
            MountEntry {
                device: (0, 52),
                target: "/run/a b\\c".into(),
                kind: "fuse.tranship".into(),
                source: "tran\tship".into(),
                options: "ro,user_id=0".into(),
            }
        );
    }

    #[test]
    fn lines_that_are_cut_short_are_left_out() {
        let line = b"95 29 0:52 / /run rw - fuse tranship ro";
        for len in 0..line.len() - "tranship ro".len() {
            assert_eq!(parse_line(&line[..len]), None, "{len}");
        }
    }

    #[test]
    fn backslashes_without_three_octal_digits_stay() {
        assert_eq!(unescape(b"a\\04"), b"a\\04");
        assert_eq!(unescape(b"a\\089"), b"a\\089");
        assert_eq!(unescape(b"\\777"), b"\\777");
        assert_eq!(unescape(b"\\134040"), b"\\040");
    }

    #[test]
    fn the_root_is_mounted_and_a_made_up_folder_is_not() {
        assert!(is_mounted(Path::new("/")).unwrap());
        assert!(!is_mounted(Path::new("/no/such/folder")).unwrap());
    }
}
