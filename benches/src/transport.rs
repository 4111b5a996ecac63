//! A chunk from one process to another over loopback, by each transport that could carry it, side by side in one run.
//!
//! Raw TCP is what nobody can go below, raw TLS what nobody can go below with encryption. Ours is the code that agents
//! use: its framed streams alone, and a whole agent that wants, verifies, stores and hands on. What ours was chosen over
//! is measured beside it when the feature `peers` is on. Giver and taker are processes of their own, and the CPU time
//! of both is counted, as the kernel accounts it.

mod answers;
mod giver;
mod load;
mod node;
mod ours;
#[cfg(feature = "peers")]
mod peers;
mod raw;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment, Table};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::cost::median;
use giver::Giver;
pub use giver::{VERB as GIVER, give};
use load::{Load, Sample};

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carrier {
    /// One TCP connection, memory to memory.
    RawTcp,
    /// One TCP connection, and each chunk verified and kept in a store, as an agent must.
    RawTcpKept,
    /// TLS 1.3 with AES-128-GCM on one TCP connection, as rustls does it.
    RawTls,
    /// Our framed stream, memory to memory.
    Ours,
    /// Two agents: a chunk is wanted, asked for, read from a store, sent, verified, kept and handed to its reader.
    OursWhole,
    /// libp2p: TLS with AES first and yamux with frames of 256 KiB, one long stream.
    #[cfg(feature = "peers")]
    Yamux,
    /// libp2p: the same, a stream for each chunk.
    #[cfg(feature = "peers")]
    YamuxStreamEach,
    /// libp2p: its own TLS and yamux, request-response.
    #[cfg(feature = "peers")]
    RequestResponse,
    /// libp2p: QUIC, one long stream.
    #[cfg(feature = "peers")]
    Quic,
    /// libp2p: QUIC, request-response.
    #[cfg(feature = "peers")]
    QuicRequestResponse,
}

impl Carrier {
    /// What it is called on a command line and in figures.
    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Lengths of chunks.
const LENS: [usize; 3] = [256 << 10, 64 << 10, 4 << 10];
/// The length that agents cut at.
const USUAL_LEN: usize = 256 << 10;
/// Chunks in flight at once.
const IN_FLIGHT: [usize; 2] = [1, 32];
/// A round of one load is cut short after this time.
const ROUND: Duration = Duration::from_secs(2);

/// Chunks of one round: enough to know a 99th percentile by, few enough for a round to be short.
fn count(len: usize, in_flight: usize) -> usize {
    match (len, in_flight) {
        (USUAL_LEN.., 1) => 768,
        (USUAL_LEN.., _) => 1536,
        _ => 4096,
    }
}

/// Measures each of `carriers` (all, if there are none) `rounds` times by turns; the medians come back.
pub fn measure(carriers: &[Carrier], rounds: usize) -> Result<Value> {
    ensure!(rounds > 0, "at least one round");
    let carriers = if carriers.is_empty() {
        Carrier::value_variants()
    } else {
        carriers
    };
    let mut samples: BTreeMap<(Carrier, usize, usize), Vec<Sample>> = BTreeMap::new();
    let mut behind: BTreeMap<(Carrier, &str), Vec<f64>> = BTreeMap::new();
    for _ in 0..rounds {
        for carrier in carriers {
            for len in LENS {
                for in_flight in IN_FLIGHT {
                    let load = Load {
                        in_flight,
                        count: count(len, in_flight),
                        limit: ROUND,
                    };
                    let sample = one(*carrier, len, load)
                        .with_context(|| format!("measuring {} with {len}", carrier.name()))?;
                    samples
                        .entry((*carrier, len, in_flight))
                        .or_default()
                        .push(sample);
                }
            }
            for (name, micros) in demand_behind_bulk(*carrier)? {
                behind.entry((*carrier, name)).or_default().push(micros);
            }
        }
    }
    Ok(figures(rounds, &samples, behind))
}

fn runtime() -> Result<Runtime> {
    // As many threads as an agent has on two cores.
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.context("starting a runtime")
}

/// One round: a giver of its own, a connection that is warm, and the load.
fn one(carrier: Carrier, len: usize, load: Load) -> Result<Sample> {
    let mut giver = Giver::start(carrier, len)?;
    let runtime = runtime()?;
    let sample = runtime.block_on(async {
        match carrier {
            Carrier::RawTcp => load.put_on(raw::tcp(&giver).await?, &mut giver).await,
            Carrier::RawTcpKept => {
                let kept = raw::kept(&giver, len).await?;
                load.put_on(kept, &mut giver).await
            }
            Carrier::RawTls => load.put_on(raw::tls(&giver).await?, &mut giver).await,
            Carrier::Ours => {
                let stream = ours::Taker::start(&giver).await?.open().await?;
                load.put_on(stream, &mut giver).await
            }
            Carrier::OursWhole => {
                let node = node::Taker::start(&giver, len).await?;
                load.put_on(node, &mut giver).await
            }
            #[cfg(feature = "peers")]
            _ => peers::load(carrier, load, &mut giver).await,
        }
    });
    // Tasks of libp2p's that wait for nobody end with their runtime.
    runtime.shutdown_timeout(Duration::from_secs(1));
    sample
}

/// How long 64 KiB that a reader waits for take while bulk is under way between the same two, in microseconds.
fn demand_behind_bulk(carrier: Carrier) -> Result<Vec<(&'static str, f64)>> {
    let giver = Giver::start(carrier, USUAL_LEN)?;
    let runtime = runtime()?;
    let found = runtime.block_on(async {
        match carrier {
            Carrier::RawTcp => {
                let (one, other) = (raw::tcp(&giver).await?, raw::tcp(&giver).await?);
                load::behind_bulk(raw::tcp(&giver).await?, Some((one, other))).await
            }
            Carrier::RawTls => {
                let (one, other) = (raw::tls(&giver).await?, raw::tls(&giver).await?);
                load::behind_bulk(raw::tls(&giver).await?, Some((one, other))).await
            }
            Carrier::Ours => {
                let taker = ours::Taker::start(&giver).await?;
                let pair = (taker.open().await?, taker.open().await?);
                load::behind_bulk(taker.open().await?, Some(pair)).await
            }
            #[cfg(feature = "peers")]
            Carrier::Yamux | Carrier::Quic => peers::behind_bulk(carrier, &giver).await,
            _ => Ok(Vec::new()),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    found
}

fn figures(
    rounds: usize,
    samples: &BTreeMap<(Carrier, usize, usize), Vec<Sample>>,
    behind: BTreeMap<(Carrier, &str), Vec<f64>>,
) -> Value {
    let of = |samples: &[Sample], figure: fn(&Sample) -> f64| {
        let mut all: Vec<f64> = samples.iter().map(figure).collect();
        median(&mut all).unwrap_or_default()
    };
    let floor = |len, in_flight| {
        let raw = samples.get(&(Carrier::RawTcp, len, in_flight))?;
        Some(of(raw, |sample| sample.p50_us))
    };
    let chunks: Vec<Value> = samples
        .iter()
        .map(|(&(carrier, len, in_flight), samples)| {
            let p50 = of(samples, |sample| sample.p50_us);
            json!({
                "carrier": carrier,
                "chunk_bytes": len,
                "in_flight": in_flight,
                "p50_us": round(p50),
                "p99_us": round(of(samples, |sample| sample.p99_us)),
                "p50_over_raw_tcp": floor(len, in_flight).map(|floor| round(p50 / floor)),
                "mb_per_s": round(of(samples, |sample| sample.mb_per_s)),
                "cpu_s_per_gib_taker": round(of(samples, |sample| sample.taker_s_per_gib)),
                "cpu_s_per_gib_giver": round(of(samples, |sample| sample.giver_s_per_gib)),
                "cpu_s_per_gib": round(of(samples, |sample| {
                    sample.taker_s_per_gib + sample.giver_s_per_gib
                })),
            })
        })
        .collect();
    let behind: Vec<Value> = behind
        .into_iter()
        .map(|((carrier, name), mut micros)| {
            json!({"carrier": carrier, "bulk": name, "p50_us": median(&mut micros).map(round)})
        })
        .collect();
    json!({"rounds": rounds, "chunks": chunks, "demand_64k_behind_bulk": behind})
}

fn round(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

/// The figures for people.
pub fn table(figures: &Value) -> String {
    let mut text = String::new();
    for (title, name, columns) in [
        (
            "a chunk",
            "chunks",
            [
                "carrier",
                "chunk_bytes",
                "in_flight",
                "p50_us",
                "p99_us",
                "p50_over_raw_tcp",
                "mb_per_s",
                "cpu_s_per_gib_taker",
                "cpu_s_per_gib_giver",
                "cpu_s_per_gib",
            ]
            .as_slice(),
        ),
        (
            "64 KiB for a reader, beside 16 chunks of bulk",
            "demand_64k_behind_bulk",
            &["carrier", "bulk", "p50_us"],
        ),
    ] {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(columns);
        for row in figures
            .get(name)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            table.add_row(columns.iter().map(|column| match row.get(*column) {
                Some(Value::String(text)) => Cell::new(text),
                Some(Value::Null) | None => Cell::new(""),
                Some(number) => Cell::new(number).set_alignment(CellAlignment::Right),
            }));
        }
        text.push_str(title);
        text.push('\n');
        text.push_str(&table.to_string());
        text.push_str("\n\n");
    }
    text
}
