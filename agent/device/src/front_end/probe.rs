//! Trying the front ends: a device of one block is really made with each.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::errno::{Refusal, refusal};
use crate::mount::{self, MountError};
use crate::{
    Export, FrontEnd, FuseFile, FuseOptions, KernelNbd, KernelNbdOptions, LoopDevice, Memory,
    NbdOptions, NbdServer, Ublk, UblkOptions, VhostUserOptions, VhostUserServer, ublk,
};

use super::Probed;

/// The least that a filesystem has, in bytes.
const BLOCK_LEN: usize = 4096;
const SUPERBLOCK_AT: usize = 1024;
/// Behind the superblock's 128 bytes.
const ROOT_AT: usize = 1152;
/// Inodes are named by their place, in units of 32 bytes.
const ROOT_NID: u16 = 36;
const FOLDER_MODE: u16 = 0o040_755;
const FOLDER_TYPE: u8 = 2;

/// Tries every front end, in the order of [`FrontEnd::ALL`]. `scratch` is an existing folder in which to mount something for
/// a moment.
pub fn probe(scratch: &Path) -> Vec<Probed> {
    let ground = Ground::new(scratch);
    FrontEnd::ALL
        .into_iter()
        .map(|front_end| {
            let tried = match &ground {
                Ok(ground) => ground.try_out(front_end),
                Err(obstacle) => Err(obstacle.clone()),
            };
            let obstacle = tried.err();
            tracing::debug!(%front_end, obstacle, "probed");
            Probed {
                front_end,
                obstacle,
            }
        })
        .collect()
}

/// A folder of its own to try things in.
struct Ground {
    dir: PathBuf,
}

impl Ground {
    fn new(scratch: &Path) -> Result<Self, String> {
        let id = rustix::process::getpid();
        let mut number = 0_u32;
        loop {
            let dir = scratch.join(format!("probe-{id}-{number}"));
            match fs::create_dir(&dir) {
                Ok(()) => return Ok(Self { dir }),
                Err(error) if refusal(&error) == Refusal::Exists && number < 1000 => number += 1,
                Err(error) => return Err(format!("cannot make {}: {error}", dir.display())),
            }
        }
    }

    fn folder(&self, name: &str) -> Result<PathBuf, String> {
        let folder = self.dir.join(name);
        fs::create_dir_all(&folder).map_err(|error| in_words(&error))?;
        Ok(folder)
    }

    fn try_out(&self, front_end: FrontEnd) -> Result<(), String> {
        match front_end {
            FrontEnd::ErofsFile => self.try_erofs_file(),
            FrontEnd::FuseLoop => self.try_fuse_loop(),
            FrontEnd::Ublk => try_ublk(),
            FrontEnd::KernelNbd => self.try_kernel_nbd(),
            FrontEnd::Nbd => self.try_nbd(),
            FrontEnd::VhostUserBlk => self.try_vhost_user(),
        }
    }

    fn fuse_file(&self) -> Result<FuseFile, String> {
        let content = Arc::new(Memory::new(smallest_filesystem()));
        let options = FuseOptions {
            worker_count: 2,
            ..FuseOptions::default()
        };
        FuseFile::mount(&self.folder("file")?, "device", content, options)
            .map_err(|error| in_words(&error))
    }

    fn try_erofs_file(&self) -> Result<(), String> {
        let file = self.fuse_file()?;
        let target = self.folder("mount")?;
        let mounted = mount::erofs_file(file.path(), &target);
        let unmounted = match mounted {
            Ok(_) => mount::unmount(&target).map_err(|error| in_words(&error)),
            Err(error) => Err(why_no_erofs_file(&error)),
        };
        let stopped = file.stop().map_err(|error| in_words(&error));
        unmounted.and(stopped)
    }

    fn try_fuse_loop(&self) -> Result<(), String> {
        let file = self.fuse_file()?;
        let tried = try_loop(file.path());
        let stopped = file.stop().map_err(|error| in_words(&error));
        tried.and(stopped)
    }

    fn try_kernel_nbd(&self) -> Result<(), String> {
        let identifier = self.dir.display().to_string();
        let content = Arc::new(Memory::new(smallest_filesystem()));
        let device = KernelNbd::attach(&identifier, content, KernelNbdOptions::default())
            .map_err(|error| in_words(&error))?;
        let read = has_the_bytes(device.path());
        let detached = device.detach().map_err(|error| in_words(&error));
        read.and(detached)
    }

    fn try_vhost_user(&self) -> Result<(), String> {
        let content = Arc::new(Memory::new(smallest_filesystem()));
        let options = VhostUserOptions::default();
        VhostUserServer::bind(&self.dir.join("socket"), "probe", content, options)
            .and_then(VhostUserServer::stop)
            .map_err(|error| in_words(&error))
    }

    fn try_nbd(&self) -> Result<(), String> {
        let export = Export {
            name: "probe".to_owned(),
            description: String::new(),
            content: Arc::new(Memory::new(smallest_filesystem())),
        };
        NbdServer::bind(
            &self.dir.join("socket"),
            vec![export],
            NbdOptions::default(),
        )
        .and_then(NbdServer::stop)
        .map_err(|error| in_words(&error))
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Folder by folder and only when empty: what is still mounted must not be reached into.
        for name in ["file", "mount", ""] {
            let _ = fs::remove_dir(self.dir.join(name));
        }
    }
}

fn try_loop(file: &Path) -> Result<(), String> {
    let device = LoopDevice::attach_read_only(file).map_err(|error| in_words(&error))?;
    let read = has_the_bytes(device.path());
    let detached = device.detach().map_err(|error| in_words(&error));
    read.and(detached)
}

fn try_ublk() -> Result<(), String> {
    let content = Arc::new(Memory::new(smallest_filesystem()));
    let options = UblkOptions {
        worker_count: 1,
        ..UblkOptions::default()
    };
    let device = Ublk::attach(ublk::free_number(), content, options);
    let device = device.map_err(|error| in_words(&error))?;
    let read = has_the_bytes(device.path());
    let detached = device.detach().map_err(|error| in_words(&error));
    read.and(detached)
}

fn has_the_bytes(device: &Path) -> Result<(), String> {
    match fs::read(device) {
        Ok(bytes) if bytes == smallest_filesystem() => Ok(()),
        Ok(_) => Err("the block device does not have the bytes that it was given".to_owned()),
        Err(error) => Err(in_words(&error)),
    }
}

fn why_no_erofs_file(error: &MountError) -> String {
    let because = match error {
        MountError::Mount { source, .. } => refusal(source),
        _ => Refusal::Other,
    };
    match because {
        Refusal::NotBlockDevice => {
            "this kernel mounts EROFS from block devices alone; from files needs Linux 6.12 with \
             CONFIG_EROFS_FS_BACKED_BY_FILE"
                .to_owned()
        }
        Refusal::Unknown => "this kernel does not know EROFS".to_owned(),
        _ => in_words(error),
    }
}

/// An error with its causes.
fn in_words(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    words
}

/// An EROFS filesystem of one block: an empty folder.
fn smallest_filesystem() -> Vec<u8> {
    let mut image = vec![0; BLOCK_LEN];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = image.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(SUPERBLOCK_AT, &0xe0f5_e1e2_u32.to_le_bytes());
    put(SUPERBLOCK_AT + 12, &[12]); // a block is 2^12 bytes
    put(SUPERBLOCK_AT + 14, &ROOT_NID.to_le_bytes());
    put(SUPERBLOCK_AT + 16, &1_u64.to_le_bytes()); // inodes
    put(SUPERBLOCK_AT + 36, &1_u32.to_le_bytes()); // blocks
    put(ROOT_AT, &(2_u16 << 1).to_le_bytes()); // compact, content behind the inode
    put(ROOT_AT + 4, &FOLDER_MODE.to_le_bytes());
    put(ROOT_AT + 6, &2_u16.to_le_bytes()); // links
    put(ROOT_AT + 8, &27_u32.to_le_bytes()); // length: two entries and their names
    for (place, name_at) in [(0, 24_u16), (1, 25)] {
        let entry_at = ROOT_AT + 32 + 12 * place;
        put(entry_at, &u64::from(ROOT_NID).to_le_bytes());
        put(entry_at + 8, &name_at.to_le_bytes());
        put(entry_at + 10, &[FOLDER_TYPE]);
    }
    put(ROOT_AT + 32 + 24, b"...");
    image
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn every_front_end_is_tried_and_nothing_is_left() {
        let scratch = tempfile::tempdir().unwrap();
        let probed = probe(scratch.path());
        for probed in &probed {
            println!("{}: {:?}", probed.front_end, probed.obstacle);
        }
        assert_eq!(probed.len(), FrontEnd::ALL.len());
        let sockets = [FrontEnd::Nbd, FrontEnd::VhostUserBlk];
        for probed in probed.iter().filter(|one| sockets.contains(&one.front_end)) {
            assert!(probed.is_available(), "needs no privilege");
        }
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
        let under_scratch = mount::entries()
            .unwrap()
            .into_iter()
            .filter(|entry| entry.target.starts_with(scratch.path()));
        assert_eq!(under_scratch.count(), 0);
    }

    #[test]
    fn a_folder_that_is_not_there_is_told_in_words() {
        for probed in probe(Path::new("/no/such/folder")) {
            assert!(probed.obstacle.unwrap().contains("/no/such/folder"));
        }
    }

    #[test]
    fn obstacles_are_told_in_words() {
        let mount_error = |code| MountError::Mount {
            kind: "erofs",
            what: "file".into(),
            target: "mount".into(),
            source: std::io::Error::from_raw_os_error(code),
        };
        let words = |code| why_no_erofs_file(&mount_error(code));
        assert!(words(15).contains("6.12"), "no block device");
        assert!(words(19).contains("does not know EROFS"), "no such device");
        assert!(words(1).ends_with("Operation not permitted (os error 1)"));
    }

    #[test]
    fn the_smallest_filesystem_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        fs::write(&image, smallest_filesystem()).unwrap();
        match Command::new("fsck.erofs").arg(&image).output() {
            Ok(checked) => assert!(checked.status.success(), "{checked:?}"),
            Err(error) => println!("left out: fsck.erofs: {error}"),
        }
    }
}
