//! `tranship-bench`: figures by one command each, as JSON.

#![expect(clippy::print_stdout, reason = "the figures are this program's output")]

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use tokio::signal::unix::{SignalKind, signal};
use tranship_bench::{
    chunks, compression, convert, device, format, readiness, reading, swarm, tracker, transport,
};

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
        /// The program nydus-image, to convert the same directory by turns.
        #[arg(long, value_name = "FILE")]
        nydus: Option<PathBuf>,
        /// How often each is done; the medians are printed.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// Form of the figures
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// A chunk from one process to another, by each transport that could carry it.
    Transport {
        /// What to measure; without it, everything that this was built with.
        #[arg(value_enum)]
        carriers: Vec<transport::Carrier>,
        /// How often each is measured, by turns; the medians are printed.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// Form of the figures
        #[arg(long, value_enum, default_value_t)]
        output: Form,
    },
    /// The giving end of `transport`, in a process of its own.
    #[command(name = transport::GIVER, hide = true)]
    TransportGiver {
        /// How it gives.
        #[arg(value_enum)]
        carrier: transport::Carrier,
        /// Bytes of a chunk.
        len: usize,
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
    /// What smaller layers would cost: the converter at higher levels, and zstd's own parameters over a sample of the same bytes.
    Compression {
        /// The directory or image to compress.
        #[arg(long, value_name = "DIR|REF")]
        input: OsString,
        /// Rounds; the medians of their ratios to level 3 are printed.
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
    /// The tracker while many nodes start one image: its decisions alone, then the service over real connections.
    Tracker {
        /// Nodes that start the image.
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
        /// Stripes of the image, 16 MiB each.
        #[arg(long, default_value_t = 16)]
        stripes: u32,
        /// Form of the figures
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// The tracker that is measured, in a process of its own.
    #[command(name = tracker::SERVICE, hide = true)]
    TrackerService {
        /// Its state.
        dir: PathBuf,
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
    /// Devices of a real agent beside a bare loop device and nbdkit over the same bytes. Needs root, docker-registry, nbdkit and
    /// libnbd-bin.
    Device {
        /// The directory whose files are the image; without it, files of this machine
        #[arg(long, value_name = "DIR")]
        input: Option<PathBuf>,
        /// MiB of this machine's own files that are taken
        #[arg(long, default_value_t = 512, value_name = "MIB")]
        own: u64,
        /// How often each is done; the medians are printed
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Images that are attached at once; 0 leaves that out
        #[arg(long, default_value_t = 100)]
        crowd: usize,
        /// Form of the figures
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// The time from nothing on a node to the first answer of a web application in containerd, lazily and by a full pull over the same
    /// link. Needs root, containerd, runc, iproute2, docker-registry and skopeo; the first time also debootstrap and some minutes.
    Readiness {
        /// What the links of registry and node let through
        #[arg(long, default_value = "200mbit", value_parser = swarm::parse_link)]
        link: u64,
        /// New nodes on which it is measured; the medians are printed
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// Warm starts on each of them, each way
        #[arg(long, default_value_t = 5)]
        warm_runs: usize,
        /// What answers
        #[arg(long, value_enum, default_value_t)]
        application: readiness::Application,
        /// Form of the figures
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// A registry, a tracker and agents on hosts of their own, which all start one image: the real programs behind links of
    /// known width, in network namespaces. Needs root, iproute2 and docker-registry.
    Swarm {
        /// Agents, each on a host of its own
        #[arg(long, default_value_t = 16)]
        hosts: usize,
        /// What each host's link lets through, up and down
        #[arg(long, default_value = "100mbit", value_parser = swarm::parse_link)]
        link: u64,
        /// What happens meanwhile; `--list` names the choices
        #[arg(long, default_value = "flash-crowd")]
        scenario: String,
        /// How often it is run; medians are printed
        #[arg(long, default_value_t = 1)]
        runs: usize,
        /// MiB that each host reads, of an image twice as long
        #[arg(long, default_value_t = 64, value_name = "MIB", value_parser = clap::value_parser!(u16).range(1..=1024))]
        working_set: u16,
        /// Form of the figures
        #[arg(long, value_enum, default_value_t = SwarmOutput::Table)]
        output: SwarmOutput,
        /// Print the names of scenarios and what happens in them
        #[arg(long)]
        list: bool,
    },
}

/// How figures of the swarm are printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SwarmOutput {
    /// One document, with every run and every host.
    Json,
    /// A figure a line, and a host a line.
    Table,
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

/// How figures of many rows are printed.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Form {
    /// One document.
    Json,
    /// Rows and columns.
    #[default]
    Table,
}

fn main() -> Result<ExitCode> {
    let figures = match Arguments::parse().what {
        What::Convert { runs: 0, .. } => bail!("--runs must be at least 1"),
        What::Chunks { tar, traces, runs } => chunks::measure(&tar, &traces, runs.max(1))?,
        What::Compression { input, runs } => compression::measure(&input, runs)?,
        What::Reading { input, runs } => reading::measure(&input, runs)?,
        What::Convert { tars, runs } => convert::measure(&tars, runs)?,
        What::Format {
            input,
            nydus,
            runs,
            output,
        } => {
            let figures = format::measure(input.as_deref(), nydus.as_deref(), runs)?;
            return Ok(print(output, &figures));
        }
        What::Device {
            input,
            own,
            runs,
            crowd,
            output,
        } => {
            let options = device::Options {
                input,
                own_len: own << 20,
                runs,
                crowd,
            };
            return Ok(print(output, &device::measure(&options)?));
        }
        What::Readiness {
            link,
            runs,
            warm_runs,
            application,
            output,
        } => {
            let figures = readiness::measure(&readiness::Options {
                link,
                runs,
                warm_runs,
                application,
            })?;
            return Ok(print(output, &figures));
        }
        What::Swarm {
            hosts, list: true, ..
        } => {
            for (name, about) in swarm::scenarios(hosts) {
                println!("{name:<18}{about}");
            }
            return Ok(ExitCode::SUCCESS);
        }
        What::Swarm {
            hosts,
            link,
            scenario,
            runs,
            working_set,
            output,
            ..
        } => {
            let options = swarm::Options {
                hosts,
                link,
                scenario,
                runs,
                work_len: usize::from(working_set) << 20,
            };
            return measure_swarm(&options, output);
        }
        What::Transport {
            carriers,
            runs,
            output,
        } => return measure_transport(&carriers, runs, output),
        What::Tracker {
            nodes,
            stripes,
            output,
        } => {
            let figures = tracker::measure(tracker::Load { nodes, stripes })?;
            return Ok(print(output, &figures));
        }
        What::TrackerService { dir } => {
            tracker::serve(&dir)?;
            return Ok(ExitCode::SUCCESS);
        }
        What::TransportGiver { carrier, len } => {
            transport::give(carrier, len)?;
            return Ok(ExitCode::SUCCESS);
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

fn measure_swarm(options: &swarm::Options, output: SwarmOutput) -> Result<ExitCode> {
    take_down_on_signals()?;
    let figures = swarm::measure(options)?;
    match output {
        SwarmOutput::Table => print!("{}", swarm::table(&figures)?),
        SwarmOutput::Json => println!("{figures:#}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn measure_transport(
    carriers: &[transport::Carrier],
    runs: usize,
    output: Form,
) -> Result<ExitCode> {
    let figures = transport::measure(carriers, runs)?;
    match output {
        Form::Table => print!("{}", transport::table(&figures)),
        Form::Json => println!("{figures:#}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(output: Output, figures: &serde_json::Value) -> ExitCode {
    match output {
        Output::Lines => {
            for (name, figure) in figures.as_object().into_iter().flatten() {
                println!("{name}\t{figure}");
            }
        }
        Output::Json => println!("{figures:#}"),
    }
    ExitCode::SUCCESS
}

/// A bench that is told to stop leaves no namespace and no process behind.
fn take_down_on_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start what waits for signals")?;
    let (mut interrupt, mut terminate) = runtime.block_on(async {
        let interrupt = signal(SignalKind::interrupt()).context("wait for SIGINT")?;
        let terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
        anyhow::Ok((interrupt, terminate))
    })?;
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        swarm::stop_now();
    });
    Ok(())
}
