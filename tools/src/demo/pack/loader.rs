//! Which shared libraries a program loads: asked of the program's own loader, as `ldd` does, without needing `ldd`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PT_INTERP: u32 = 3;
/// A program header table larger than this is none.
const MOST_HEADERS: u16 = 256;

/// The libraries that the loader finds for `program`, with the loader itself; empty for a static program or a script.
pub(super) fn libraries(program: &Path, default_loader: Option<&Path>) -> Vec<PathBuf> {
    let own = interpreter_of(program);
    let Some(loader) = own.as_deref().or(default_loader) else {
        return Vec::new();
    };
    let output = Command::new(loader)
        .arg("--list")
        .arg(program)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let Ok(output) = output else {
        return Vec::new();
    };
    let mut found = paths_of(&String::from_utf8_lossy(&output.stdout));
    found.push(loader.to_path_buf());
    found
}

/// The paths in lines such as `libc.so.6 => /lib/libc.so.6 (0x…)`.
fn paths_of(listing: &str) -> Vec<PathBuf> {
    listing
        .lines()
        .filter_map(|line| {
            line.split_once("=> ")
                .map_or(line, |(_, target)| target)
                .split_ascii_whitespace()
                .next()
        })
        .filter(|path| path.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// The loader that an ELF program names.
pub(super) fn interpreter_of(program: &Path) -> Option<PathBuf> {
    let mut file = File::open(program).ok()?;
    let mut header = [0; 64];
    file.read_exact(&mut header).ok()?;
    let (table, entry_len, count) = program_headers(&header)?;
    for number in 0..u64::from(count) {
        let mut entry = [0; 56];
        file.seek(SeekFrom::Start(
            table.checked_add(number * u64::from(entry_len))?,
        ))
        .ok()?;
        file.read_exact(&mut entry).ok()?;
        if u32_at(&entry, 0)? == PT_INTERP {
            let (offset, len) = (u64_at(&entry, 8)?, u64_at(&entry, 32)?);
            let mut name = Vec::new();
            file.seek(SeekFrom::Start(offset)).ok()?;
            file.take(len.min(4096)).read_to_end(&mut name).ok()?;
            let name = name.split(|byte| *byte == 0).next()?;
            return Some(PathBuf::from(std::str::from_utf8(name).ok()?));
        }
    }
    None
}

/// Offset, entry length and count of the program headers of a 64-bit little-endian ELF file.
fn program_headers(header: &[u8]) -> Option<(u64, u16, u16)> {
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let count = u16_at(header, 56)?;
    Some((u64_at(header, 32)?, u16_at(header, 54)?, count)).filter(|_| count <= MOST_HEADERS)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_of_loaders_are_read() {
        let glibc = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\t/lib64/ld-linux.so.2 (0x1)\n";
        assert_eq!(
            paths_of(glibc),
            [
                PathBuf::from("/lib/x/libc.so.6"),
                PathBuf::from("/lib64/ld-linux.so.2")
            ]
        );
        assert!(paths_of("\tstatically linked\n").is_empty());
    }

    #[test]
    fn a_script_has_no_loader() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("x");
        std::fs::write(&script, "#!/bin/sh\n".repeat(20)).unwrap();
        assert_eq!(interpreter_of(&script), None);
        assert!(libraries(&script, None).is_empty());
    }

    #[test]
    fn this_program_loads_a_c_library() {
        let me = std::env::current_exe().unwrap();
        if interpreter_of(&me).is_some() {
            assert!(libraries(&me, None).iter().all(|path| path.exists()));
        }
    }
}
