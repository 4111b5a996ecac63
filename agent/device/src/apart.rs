//! Programs that are no part of whoever starts them: keeper and device processes outlive the agent, and what the agent may take of memory
//! is not theirs, nor the other way round.
//!
//! Where systemd runs, each is a scope of its own in `tranship.slice`, so that stopping or killing the agent's unit leaves it alone.
//! Elsewhere it has a process group of its own, and init adopts it when its starter is gone.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Is there exactly where systemd is the first process (`sd_booted(3)`).
const SYSTEMD: &str = "/run/systemd/system";
/// Scopes end with the machine, not before what stands on their devices.
const SCOPE: [&str; 7] = [
    "--scope",
    "--quiet",
    "--collect",
    "--slice=tranship.slice",
    "--property=DefaultDependencies=no",
    "--property=Description=tranship: devices",
    "--",
];

/// Where a program is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A scope of systemd's.
    Scope,
    /// A process group.
    Group,
}

impl Place {
    /// The one for this machine.
    pub fn here() -> Self {
        if Path::new(SYSTEMD).is_dir() {
            Self::Scope
        } else {
            Self::Group
        }
    }

    /// The one to try when this one has failed.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Group => Self::here(),
            Self::Scope => Self::Group,
        }
    }

    /// A command that runs `program` there, with a working directory and an output that tie it to nobody. Arguments may follow.
    pub fn command(self, program: &Path) -> Command {
        let mut command = match self {
            Self::Group => Command::new(program),
            Self::Scope => {
                // It registers itself and becomes the program: number, input and locks stay.
                let mut command = Command::new("systemd-run");
                command.args(SCOPE).arg(program);
                command
            }
        };
        // Whoever reads the output of the process that starts this one waits for its end, and must not wait for this one's.
        command
            .current_dir("/")
            .stdout(Stdio::null())
            .process_group(0);
        command
    }
}

/// Starts this program again with `args`, on the same standard input: the new one is nobody's child when this one has ended.
pub fn detach_self(args: &[&str]) -> io::Result<()> {
    let program = std::env::current_exe()?;
    // It is not waited for: this process ends now, and init is a better parent. It is in its place already.
    Place::Group
        .command(&program)
        .stderr(Stdio::null())
        .args(args)
        .spawn()
        .map(drop)
}
