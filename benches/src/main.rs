//! `tranship-bench`: figures by one command each, as JSON.

#![expect(clippy::print_stdout, reason = "the figures are this program's output")]

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use tranship_bench::{chunks, convert, format, reading};

/// Measures tranship beside what it is compared with.
#[derive(Debug, Parser)]
#[command(name = "tranship-bench", version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// All figures of the format: conversion and reading.
    Format {
        /// The directory or image to convert; without it, files of this machine.
        #[arg(long, value_name = "DIR|REF")]
        input: Option<OsString>,
        /// How often each is done; the medians are printed.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// Form of the figures
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// What is measured, in a process of its own.
    #[command(name = format::AS_TRANSHIP, hide = true, disable_help_flag = true)]
    Tranship {
        /// As a shell gives them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// What cold starts fetch, and how long they wait by a model, over sizes of chunks.
    Chunks {
        /// The root's tar, not compressed.
        tar: PathBuf,
        /// Logs of `benches/trace` over the device that the tar is converted to.
        #[arg(required = true)]
        traces: Vec<PathBuf>,
        /// How often hashing is measured; the medians are printed.
        #[arg(long, default_value_t = 5)]
        runs: usize,
    },
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

/// How figures are printed.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    /// One document.
    #[default]
    Json,
    /// A name and a figure a line.
    Lines,
}

fn main() -> Result<ExitCode> {
    let figures = match Arguments::parse().what {
        What::Convert { runs: 0, .. } => bail!("--runs must be at least 1"),
        What::Chunks { tar, traces, runs } => chunks::measure(&tar, &traces, runs.max(1))?,
        What::Reading { input, runs } => reading::measure(&input, runs)?,
        What::Convert { tars, runs } => convert::measure(&tars, runs)?,
        What::Format {
            input,
            runs,
            output,
        } => {
            let figures = format::measure(input.as_deref(), runs)?;
            if let (Output::Lines, Some(figures)) = (output, figures.as_object()) {
                for (name, figure) in figures {
                    println!("{name}\t{figure}");
                }
                return Ok(ExitCode::SUCCESS);
            }
            figures
        }
        What::Tranship { arguments } => {
            let (exit, cost) = format::as_tranship(arguments)?;
            println!("{cost}");
            return Ok(exit);
        }
    };
    println!("{figures:#}");
    Ok(ExitCode::SUCCESS)
}
