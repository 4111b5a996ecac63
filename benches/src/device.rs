//! Devices beside a bare loop device over the same bytes, and beside other people's NBD server: how fast, how soon, and how long
//! a reader waits when the process that serves it dies or is upgraded.
//!
//! Both sides of a ratio are measured after each other in the same run, by the same reader, and the median of the runs' ratios is the
//! figure: what else the machine does takes part in both.

mod nbd;
mod reader;
mod scene;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use std::thread;
use std::time::{Duration, Instant};
use tranship_agent::control::{Client, DeviceInfo, FrontEndChoice, MountRequest};
use tranship_device::{LoopDevice, mount};

use self::reader::Files;
use self::scene::Scene;
use crate::cost::median;

/// Readers of the figures that have many.
const DEEP: u64 = 32;
/// What is measured of each of those that are killed and upgraded.
const PAUSES: usize = 3;
/// How long a process is left alone until it is idle, and then looked at.
const SETTLE: Duration = Duration::from_secs(2);

/// What is measured, and how often.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory whose files are the image; this machine's own without it.
    pub input: Option<PathBuf>,
    /// Bytes of this machine's own files that are taken.
    pub own_len: u64,
    /// How often each is done.
    pub runs: usize,
    /// Images that are attached at once; 0 leaves that out.
    pub crowd: usize,
}

/// Figures by name, each of several runs.
#[derive(Default)]
struct Figures(Vec<(&'static str, Vec<f64>)>);

impl Figures {
    fn note(&mut self, name: &'static str, figure: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => known.push(figure),
            None => self.0.push((name, vec![figure])),
        }
    }

    fn medians(self) -> Map<String, Value> {
        let medians = self.0.into_iter();
        medians
            .map(|(name, mut known)| (name.to_owned(), json!(median(&mut known))))
            .collect()
    }
}

/// Measures devices, as `options` say.
pub fn measure(options: &Options) -> Result<Value> {
    ensure!(options.runs > 0, "at least one run");
    let mut scene = Scene::set(options.input.as_deref(), options.own_len)?;
    scene.start(false)?;
    let mut figures = Figures::default();
    let device = scene.attach(FrontEndChoice::FuseLoop)?;
    scene.wait_for(&device.id, "wholly here", |device| {
        device.fill.present_len == device.fill.stored_len
    })?;
    let plain = scene.path("plain");
    copy_device(&device, &plain)?;
    let bare = Bare::mount(&scene, &plain)?;
    let lazy = scene.mount(&device, "lazy")?;
    let files = Files::find(&bare.target)?;
    from_file(
        &scene,
        &files,
        &bare.target,
        (&device, &lazy),
        options.runs,
        &mut figures,
    )?;
    nbd::measure(&scene, &plain, device.size, options.runs, &mut figures)?;
    attach_times(&scene, &device, options.runs, &mut figures)?;
    let lazy = scene.path("attached");
    idle(&scene, &device.id, &mut figures)?;
    pauses(&mut scene, &device.id, &files, &lazy, &mut figures)?;
    if options.crowd > 0 {
        figures.note("attach_100_s", crowd(&scene, options.crowd)?);
    }
    graduated(
        &mut scene,
        &device,
        &files,
        &bare.target,
        &lazy,
        options.runs,
        &mut figures,
    )?;
    drop(bare);
    scene.end()?;
    let mut report = figures.medians();
    report.insert("device_bytes".to_owned(), json!(device.size));
    report.insert("runs".to_owned(), json!(options.runs));
    report.insert("crowd".to_owned(), json!(options.crowd));
    if options.crowd == 0 {
        report.insert("attach_100_s".to_owned(), Value::Null);
    }
    Ok(Value::Object(report))
}

/// The same bytes on a loop device of nobody's, mounted.
struct Bare {
    target: PathBuf,
    /// Open for as long as the mount stands.
    _device: LoopDevice,
}

impl Bare {
    fn mount(scene: &Scene, plain: &Path) -> Result<Self> {
        let device = LoopDevice::attach_read_only(plain).context("attach a bare loop device")?;
        let target = scene.dir("bare")?;
        mount::erofs_device(device.path(), &target).context("mount the bare loop device")?;
        Ok(Self {
            target,
            _device: device,
        })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // The device goes with its last user.
        let _ = mount::unmount_lazily(&self.target);
    }
}

/// Copies what the device holds.
fn copy_device(device: &DeviceInfo, plain: &Path) -> Result<()> {
    let mut from = File::open(&device.path).context("open the device")?;
    let mut to = File::create(plain).context("make a plain file")?;
    let mut piece = vec![0; 1 << 20];
    loop {
        let len = from.read(&mut piece).context("read the device")?;
        let Some(part) = piece.get(..len).filter(|part| !part.is_empty()) else {
            break;
        };
        if part.iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Current(i64::try_from(len)?))
                .context("leave zeros out")?;
        } else {
            to.write_all(part).context("write a plain file")?;
        }
    }
    to.set_len(device.size).context("size a plain file")
}

/// Both front ends that are mounted, beside the bare loop device.
fn from_file(
    scene: &Scene,
    files: &Files,
    bare: &Path,
    (by_loop, lazy): (&DeviceInfo, &Path),
    runs: usize,
    figures: &mut Figures,
) -> Result<()> {
    let device = scene.attach(FrontEndChoice::ErofsFile)?;
    let from_file = scene.mount(&device, "from-file")?;
    for _ in 0..runs {
        let alone = files.sequential(bare)?;
        let before = scene.seconds(&by_loop.id)?;
        let ours = files.sequential(lazy)?;
        figures.note("fuse_loop_seq_cpu_s", scene.seconds(&by_loop.id)? - before);
        figures.note("bare_seq_mb_per_s", alone);
        figures.note("fuse_loop_seq_mb_per_s", ours);
        figures.note("fuse_loop_seq_ratio", ours / alone);
        let alone = files.random(bare, 1)?;
        figures.note("bare_random_per_s", alone);
        figures.note("fuse_loop_random_ratio", files.random(lazy, 1)? / alone);
        figures.note(
            "erofs_file_random_ratio",
            files.random(&from_file, 1)? / alone,
        );
        let alone = files.random(bare, DEEP)?;
        figures.note("bare_random_32_per_s", alone);
        figures.note(
            "erofs_file_random_32_ratio",
            files.random(&from_file, DEEP)? / alone,
        );
    }
    scene.call(scene.client().detach_by_force(&device.id))?;
    Ok(())
}

/// From the request to a mounted filesystem, when everything is here. The device is mounted at `attached` after it.
fn attach_times(
    scene: &Scene,
    device: &DeviceInfo,
    runs: usize,
    figures: &mut Figures,
) -> Result<()> {
    for run in 0..=runs {
        scene.call(scene.client().detach_by_force(&device.id))?;
        let begun = Instant::now();
        let again = scene.attach(FrontEndChoice::FuseLoop)?;
        scene.mount(&again, "attached")?;
        // The first one opens what the others find open.
        if run > 0 {
            figures.note("attach_ms", begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(())
}

/// What the process of a mounted device is when nobody reads: memory that it shares with none, and how often it wakes.
fn idle(scene: &Scene, id: &str, figures: &mut Figures) -> Result<()> {
    // A second device, so that programs are shared as they are where there are many.
    let other = scene.attach(FrontEndChoice::ErofsFile)?;
    scene.process(&other.id)?;
    let process = scene.process(id)?.to_string();
    thread::sleep(SETTLE);
    let before = crate::cost::wakeups_of(&process)?;
    thread::sleep(SETTLE);
    let wakeups = crate::cost::wakeups_of(&process)? - before;
    figures.note("idle_wakeups_per_s", wakeups / SETTLE.as_secs_f64());
    figures.note("idle_private_mib", crate::cost::private_mib_of(&process)?);
    scene
        .call(scene.client().detach_by_force(&other.id))
        .map(drop)
}

/// The longest read while the device's process or the agent is killed, or either is upgraded.
fn pauses(
    scene: &mut Scene,
    id: &str,
    files: &Files,
    lazy: &Path,
    figures: &mut Figures,
) -> Result<()> {
    for name in [
        "pause_kill_ms",
        "pause_upgrade_ms",
        "pause_agent_kill_ms",
        "pause_agent_upgrade_ms",
    ] {
        for _ in 0..PAUSES {
            let before = scene.process(id)?;
            let reading = files.read_on(lazy);
            reading.wait_for_progress()?;
            match name {
                "pause_kill_ms" => {
                    let pid = i32::try_from(before).ok().and_then(Pid::from_raw);
                    let pid = pid.context("a process id")?;
                    kill_process(pid, Signal::KILL).context("kill a device process")?;
                }
                "pause_agent_kill_ms" => scene.kill(),
                _ => {
                    if name == "pause_upgrade_ms" {
                        scene.place_program("tranship-device")?;
                    }
                    scene.stop()?;
                }
            }
            if name != "pause_kill_ms" {
                scene.start(false)?;
            }
            let is_another = matches!(name, "pause_kill_ms" | "pause_upgrade_ms");
            scene.wait_for(id, "answered again", |device| {
                device
                    .process
                    .is_some_and(|process| !is_another || process != before)
            })?;
            reading.wait_for_progress()?;
            figures.note(name, reading.end()?.as_secs_f64() * 1e3);
        }
    }
    Ok(())
}

/// The device on its plain file, beside the bare loop device.
fn graduated(
    scene: &mut Scene,
    device: &DeviceInfo,
    files: &Files,
    bare: &Path,
    lazy: &Path,
    runs: usize,
    figures: &mut Figures,
) -> Result<()> {
    scene.stop()?;
    scene.start(true)?;
    scene.wait_for(&device.id, "graduated", |device| device.graduated)?;
    for _ in 0..runs {
        let alone = files.sequential(bare)?;
        let before = scene.agent_seconds()?;
        let ours = files.sequential(lazy)?;
        figures.note("graduated_seq_agent_cpu_s", scene.agent_seconds()? - before);
        figures.note("graduated_seq_mb_per_s", ours);
        figures.note("graduated_seq_ratio", ours / alone);
    }
    Ok(())
}

/// Seconds until `count` images are attached and mounted that all are asked for at once, with their metadata here.
fn crowd(scene: &Scene, count: usize) -> Result<f64> {
    let names: Vec<String> = (0..count).map(|number| format!("small-{number}")).collect();
    for name in &names {
        // One file each that no other has.
        let dir = scene.dir(name)?;
        fs::write(dir.join("name"), name).context("write a small file")?;
        let work = scene.dir(&format!("{name}-work"))?;
        let source = crate::format::Source::make(Some(dir.as_os_str()), 0, &work)?;
        scene.publish(&source.reference, name)?;
    }
    let mut took = None;
    for _ in 0..2 {
        // The second time everything is here.
        let begun = Instant::now();
        let attaching = names.iter().map(|name| async move {
            let request = scene.request(name, FrontEndChoice::FuseLoop);
            let client: &Client = scene.client();
            let device = client.attach(&request).await?;
            let request = MountRequest {
                target: scene.path(&format!("{name}-mounted")),
                writable: false,
            };
            client.mount(&device.id, &request).await?;
            Ok(device.id)
        });
        let ids = scene.call(futures::future::try_join_all(attaching))?;
        took = Some(begun.elapsed().as_secs_f64());
        for id in ids {
            scene.call(scene.client().detach_by_force(&id))?;
        }
    }
    took.context("a crowd")
}
