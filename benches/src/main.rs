//! `tranship-bench`: figures by one command each, as JSON.

#![expect(clippy::print_stdout, reason = "the figures are this program's output")]

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use tranship_bench::{convert, reading};

/// Measures tranship beside what it is compared with.
#[derive(Debug, Parser)]
#[command(name = "tranship-bench", version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Conversion of layer tars, beside bare zstd of the same bytes.
    Convert {
        /// The layers' tars, not compressed, bottom first.
        #[arg(required = true)]
        tars: Vec<PathBuf>,
        /// How often each is done; the medians are printed.
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// Look-ups, reads and opening in one process, beside bare decompression of the same blocks.
    Reading {
        /// The directory whose files are the device's bytes; the first 96 MiB of them are used.
        #[arg(long, default_value = "/usr")]
        input: PathBuf,
        /// How often each is done; the medians are printed.
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Convert { runs: 0, .. } => bail!("--runs must be at least 1"),
        What::Reading { input, runs } => println!("{:#}", reading::measure(&input, runs)?),
        What::Convert { tars, runs } => println!("{:#}", convert::measure(&tars, runs)?),
    }
    Ok(())
}
