//! `tranship-keeper`: holds what devices consist of while those who serve them come and go. A program of its own, so that it is
//! a few hundred kilobytes that have nothing to do, and a fault of anything else is none of its.
//!
//! The agent starts it with a listening socket as standard input; the socket's path is among the arguments only to tell keepers
//! apart in a list of processes. It ends when it has nothing to hold.

#![forbid(unsafe_code)]

use std::env;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use tranship_device::{apart, keeper};

/// Given to itself by the first of its two processes.
const STAY: &str = "--stay";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let outcome = match args.as_slice() {
        [flag, seconds, socket] if flag == "--patience" => {
            apart::detach_self(&[STAY, seconds, socket])
        }
        [flag, seconds, _] if flag == STAY => stay(seconds),
        _ => Err(io::Error::other("it is started by the agent")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(io::stderr(), "tranship-keeper: {error}");
            ExitCode::FAILURE
        }
    }
}

fn stay(seconds: &str) -> io::Result<()> {
    let seconds = seconds.parse().map_err(io::Error::other)?;
    let listener = io::stdin().as_fd().try_clone_to_owned()?;
    keeper::keep(listener, Duration::from_secs(seconds))
}
