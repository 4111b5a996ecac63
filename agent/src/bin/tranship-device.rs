//! `tranship-device`: answers the kernel for one attached image. A program of its own, because it has neither a network nor a
//! runtime: what it does not link it cannot trip over, and a node has as many of it as images.
//!
//! The agent starts it, and starts another when it dies. Its standard input is a file that stays locked for as long as it lives.

#![forbid(unsafe_code)]

use std::env;
use std::error::Error;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;

/// Writes the number of this process into the file that it has locked.
fn sign() -> io::Result<()> {
    let mut lock = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    lock.set_len(0)?;
    write!(lock, "{}", std::process::id())
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let (is_fresh, description) = match args.as_slice() {
        [verb, description] if verb == "begin" => (true, description),
        [verb, description] if verb == "go-on" => (false, description),
        _ => {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(io::stderr(), "tranship-device: it is started by the agent");
            return ExitCode::FAILURE;
        }
    };
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::WARN)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    if let Err(error) = sign() {
        tracing::warn!(%error, "this process cannot be found by its device");
    }
    match tranship_agent::process::serve(Path::new(description), is_fresh) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = &error as &dyn Error;
            tracing::error!(description, error, "a device cannot be served");
            ExitCode::FAILURE
        }
    }
}
