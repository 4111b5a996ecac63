//! How long until a container is *ready*: from nothing on the node to the first answer of a web application, lazily and by a full pull.
//!
//! Pull time says little: a lazy pull moves the work into the start. So both ways are measured to the same end, in the same containerd, with
//! the same image (the original, and the original with its conversion in one index) and over the same link: the registry stands on a host of
//! its own behind token buckets. Each run begins on a new node; then both ways are measured again with everything there.

mod start;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};
use tranship_tests::pods::pause_layout;
use tranship_tests::web::WebImage;
use tranship_tests::{need_tools, run, tranship};

use self::start::{Run, Way};
use crate::cost::median;
use crate::swarm::lab::{self, Lab, Link, Place};
use crate::swarm::origin::Registry;

/// The hosts.
const REGISTRY: &str = "registry";
const NODE: &str = "node";

/// What answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Application {
    /// A Python web application on Debian, an image of hundreds of megabytes.
    #[default]
    Python,
    /// A static program in a small image, which tests the measurement.
    Busybox,
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What the links of registry and node let through in each direction, in bits a second.
    pub link: u64,
    /// New nodes; the medians are printed.
    pub runs: usize,
    /// Warm starts on each node, each way.
    pub warm_runs: usize,
    /// What answers.
    pub application: Application,
}

/// Measures and gives the medians.
///
/// # Errors
/// When a part does not start, the application does not answer, or something is left over.
pub fn measure(options: &Options) -> Result<Value> {
    ensure!(
        options.runs > 0 && options.warm_runs > 0,
        "--runs and --warm-runs must be at least 1"
    );
    ensure!(
        rustix::process::geteuid().is_root(),
        "network namespaces and containers need root"
    );
    need_tools(&[
        "ip",
        "tc",
        "containerd",
        "ctr",
        "runc",
        "docker-registry",
        "skopeo",
    ]);
    lab::sweep_stale()?;
    let folder = tempfile::tempdir().context("make a scratch folder")?;
    let web = match options.application {
        Application::Python => WebImage::python(),
        Application::Busybox => WebImage::busybox(folder.path()),
    };
    let link = Link {
        up: options.link,
        down: options.link,
    };
    let places = [REGISTRY, NODE].map(|name| Place {
        name: name.to_owned(),
        zone: 0,
        link,
    });
    let lab = Lab::up(places.into(), None)?;
    let mut registry = Registry::start(&lab, REGISTRY, folder.path(), false)?;
    let namespace = lab.namespace(REGISTRY);
    lab::inside(&namespace, || publish(&web, registry.host(), folder.path()))?;
    let mut runs = Vec::new();
    for _ in 0..options.runs {
        let on_nodes = || start::on_new_nodes(&registry, &web, options.warm_runs);
        runs.push(lab::inside(&lab.namespace(NODE), on_nodes)?);
    }
    registry.kill()?;
    lab.down()?;
    Ok(report(options, &web, &runs))
}

/// Pushes the image as `plain`, with its conversion in one index as `both`, and what pods stand on.
fn publish(web: &WebImage, host: &str, folder: &Path) -> Result<()> {
    let plain = format!("docker://{}", start::reference(host, Way::Full));
    let pause = format!("docker://{}", start::pause(host));
    let below = pause_layout(folder);
    for (layout, target) in [(&web.layout, &plain), (&below, &pause)] {
        let source = format!("oci:{}:v1", layout.display());
        let copy = ["copy", "--insecure-policy", "--dest-tls-verify=false"];
        run("skopeo", &[&copy[..], &[&source, target]].concat());
    }
    let both = format!("docker://{}", start::reference(host, Way::Lazy));
    let folder = folder.to_str().context("a folder with a plain name")?;
    let convert = ["convert", "--plain-http", "--tmp-dir", folder];
    tranship(&[&convert[..], &["--mode", "index", &plain, &both]].concat());
    Ok(())
}

fn report(options: &Options, web: &WebImage, runs: &[Run]) -> Value {
    let middle =
        |figure: &dyn Fn(&Run) -> f64| median(&mut runs.iter().map(figure).collect::<Vec<_>>());
    let seconds = |part: fn(&Run) -> Duration| middle(&move |run: &Run| part(run).as_secs_f64());
    let speedup = |run: &Run| run.full.answered.as_secs_f64() / run.lazy.answered.as_secs_f64();
    let warm = |run: &Run| middle_of(&run.warm_lazy) / middle_of(&run.warm_full);
    let fetched = |of: fn(&Run) -> u64| {
        let mut all: Vec<u64> = runs.iter().map(of).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied()
    };
    let rounded = |figure: Option<f64>| figure.map(|figure| (figure * 1000.0).round() / 1000.0);
    let milliseconds =
        |part: fn(&Run) -> Duration| rounded(seconds(part).map(|seconds| seconds * 1000.0));
    json!({
        "cold_speedup": rounded(middle(&speedup)),
        "warm_ratio": rounded(middle(&warm)),
        "bytes_fetched": fetched(|run| run.lazy.fetched_len),
        "bytes_image": web.stored_len(),
        "bytes_full_pull": fetched(|run| run.full.fetched_len),
        "cold_lazy_s": rounded(seconds(|run| run.lazy.answered)),
        "cold_lazy_pulled_s": rounded(seconds(|run| run.lazy.pulled)),
        "cold_lazy_started_s": rounded(seconds(|run| run.lazy.started)),
        "cold_full_s": rounded(seconds(|run| run.full.answered)),
        "cold_full_pulled_s": rounded(seconds(|run| run.full.pulled)),
        "cold_full_started_s": rounded(seconds(|run| run.full.started)),
        "warm_lazy_s": rounded(middle(&|run: &Run| middle_of(&run.warm_lazy))),
        "warm_full_s": rounded(middle(&|run: &Run| middle_of(&run.warm_full))),
        "cold_pod_s": rounded(seconds(|run| run.pod.answered)),
        "cold_pod_pulled_s": rounded(seconds(|run| run.pod.pulled)),
        "cold_pod_bytes_fetched": fetched(|run| run.pod.fetched_len),
        "prepare_first_ms": milliseconds(|run| run.prepares.first),
        "prepare_ms": milliseconds(|run| run.prepares.next),
        "prepare_100_s": rounded(seconds(|run| run.prepares.crowd)),
        "link_bits_per_second": options.link,
        "runs": options.runs,
        "warm_runs": options.warm_runs,
    })
}

fn middle_of(all: &[Duration]) -> f64 {
    let mut all: Vec<f64> = all.iter().map(Duration::as_secs_f64).collect();
    median(&mut all).unwrap_or(f64::NAN)
}
