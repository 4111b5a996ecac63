//! The FUSE file under a device, answered by this process or by one of its own.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tranship_device::{BlockRead, FuseConnection, FuseError, FuseFile, FuseMount};

use super::{FILE, FUSE_PART, FrontEndError, FrontEndOptions, REQUESTS_PART};
use crate::keeping::Keeping;
use crate::process::{self, Description, Supply, Watch};

/// How long a new process may take until it answers the kernel.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often to look whether a process has ended.
const LOOK: Duration = Duration::from_millis(5);

/// Who gives a device's bytes to the kernel.
#[derive(Clone)]
pub(crate) enum Server {
    /// This process.
    Here(Arc<dyn BlockRead>),
    /// A process of the device's own.
    Process(Box<Processes>),
}

/// What it takes to have a process for a device.
#[derive(Clone)]
pub(crate) struct Processes {
    pub(crate) keeping: Arc<Keeping>,
    pub(crate) supply: Arc<Supply>,
    pub(crate) runtime: Handle,
    pub(crate) description: Description,
}

/// A FUSE file and who answers it.
#[derive(Debug)]
pub(crate) enum Served {
    Here(FuseFile),
    Process(ByProcess),
}

/// A FUSE file that a device process answers.
#[derive(Debug)]
pub(crate) struct ByProcess {
    mount: FuseMount,
    watch: Watch,
    /// The device's directory.
    dir: PathBuf,
    grace: Duration,
}

impl Server {
    /// Mounts the file at `fuse_dir` and has it answered; `dir` is the device's directory.
    pub(crate) fn begin(
        self,
        dir: &Path,
        fuse_dir: &Path,
        options: FrontEndOptions,
    ) -> Result<Served, FrontEndError> {
        match self {
            Self::Here(content) => Ok(Served::Here(FuseFile::mount(
                fuse_dir,
                FILE,
                content,
                options.fuse(),
            )?)),
            Self::Process(processes) => {
                let mount = FuseMount::make(fuse_dir, FILE, options.fuse())?;
                processes.serve(mount, dir, options, true)
            }
        }
    }

    /// Has the file at `fuse_dir` answered whose connection is `live`, in the place of whoever did.
    pub(crate) fn take_over(
        self,
        dir: &Path,
        fuse_dir: &Path,
        live: FuseConnection,
        options: FrontEndOptions,
    ) -> Result<Served, FrontEndError> {
        match self {
            Self::Here(content) => {
                // It may be of a time at which devices had processes.
                process::kill(dir);
                process::forget(dir);
                Ok(Served::Here(FuseFile::take_over(
                    fuse_dir,
                    live,
                    FILE,
                    content,
                    options.fuse(),
                )?))
            }
            Self::Process(processes) => {
                let mount = FuseMount::take_over(fuse_dir, live, FILE)?;
                processes.serve(mount, dir, options, false)
            }
        }
    }
}

impl Processes {
    fn serve(
        &self,
        mount: FuseMount,
        dir: &Path,
        options: FrontEndOptions,
        is_fresh: bool,
    ) -> Result<Served, FrontEndError> {
        let device = &self.description.device;
        for (part, fd) in mount_parts(&mount) {
            self.keeping.keep(device, part, fd);
        }
        let begun = self
            .description
            .save(dir)
            .and_then(|()| Watch::begin(dir, is_fresh));
        let served = ByProcess {
            mount,
            watch: begun.map_err(|source| FrontEndError::Process { source })?,
            dir: dir.to_owned(),
            grace: options.stop_grace,
        };
        if !self
            .runtime
            .block_on(self.supply.wait_for_process(device, PATIENCE))
        {
            served.stop()?;
            return Err(FrontEndError::NoProcess { patience: PATIENCE });
        }
        // Of one that was there before, readers have at least what is here.
        if let Some(theirs) = self.supply.foreign(device).filter(|_| is_fresh) {
            served.stop()?;
            let ours = process::SPEAKS;
            return Err(FrontEndError::OtherProcess { ours, theirs });
        }
        served.mount.set_read_ahead(options.fuse().read_ahead_len);
        Ok(Served::Process(served))
    }
}

impl Served {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Here(file) => file.path(),
            Self::Process(served) => served.mount.path(),
        }
    }

    /// What a successor needs, each with its name.
    pub(crate) fn parts(&self) -> Vec<(&'static str, BorrowedFd<'_>)> {
        match self {
            Self::Here(file) => {
                let session = file.session();
                vec![
                    (REQUESTS_PART, session.requests()),
                    (FUSE_PART, session.fd()),
                ]
            }
            Self::Process(served) => mount_parts(&served.mount),
        }
    }

    /// From now on a read that fails here is left to the successor; a device process goes on as it is.
    pub(crate) fn retire(&self) {
        if let Self::Here(file) = self {
            file.session().retire();
        }
    }

    /// Takes the mount away, and sees to it that nobody is left who answered it.
    pub(crate) fn stop(self) -> Result<(), FuseError> {
        match self {
            Self::Here(file) => file.stop(),
            Self::Process(served) => served.stop(),
        }
    }

    /// Leaves the mount as it is. A device process goes on.
    pub(crate) fn leave(self) -> Result<(), FuseError> {
        match self {
            Self::Here(file) => file.leave().map(drop),
            Self::Process(_) => Ok(()),
        }
    }
}

fn mount_parts(mount: &FuseMount) -> Vec<(&'static str, BorrowedFd<'_>)> {
    // The connection comes last: whoever finds it finds the rest.
    let requests = mount.requests().map(|fd| (REQUESTS_PART, fd));
    requests
        .into_iter()
        .chain([(FUSE_PART, mount.fd())])
        .collect()
}

impl ByProcess {
    fn stop(self) -> Result<(), FuseError> {
        drop(self.watch);
        let outcome = self.mount.stop(self.grace);
        // It sees the connection's end and goes, unless all its threads wait for chunks.
        let begun = Instant::now();
        while process::is_alive(&self.dir) && begun.elapsed() < self.grace {
            thread::sleep(LOOK);
        }
        process::kill(&self.dir);
        process::forget(&self.dir);
        outcome
    }
}
