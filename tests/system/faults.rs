//! What a container's reader sees when parts of ours die, stop and come back: a pause, and nothing else.
//!
//! The readers check every byte, and past the page cache: each file's pages are dropped before it is read. The image is small and made here,
//! since what matters is how often it is read, not what is in it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tranship_tests::layout::{self, Stored};
use tranship_tests::registry::DockerRegistry;
use tranship_tests::{Agent, AgentOptions, Cluster, tranship};

/// Readers at one time.
const READER_COUNT: usize = 4;
/// Files in the image, and their bytes: no whole number of anything.
pub(crate) const FILE_COUNT: usize = 64;
const FILE_LEN: usize = 300_001;
/// Progress that readers must make between one fault and the next.
const STRIDE_LEN: u64 = 4 << 20;

/// Readers of a mounted image, until they are told to stop.
pub(crate) struct Readers {
    stop: Arc<AtomicBool>,
    read_len: Arc<AtomicU64>,
    threads: Vec<JoinHandle<io::Result<Duration>>>,
}

impl Readers {
    pub(crate) fn start(mounted: &Path) -> Self {
        let (stop, read_len) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let threads = (0..READER_COUNT)
            .map(|number| {
                let own: Vec<(PathBuf, Vec<u8>)> = (number..FILE_COUNT)
                    .step_by(READER_COUNT)
                    .map(|file| (mounted.join(name(file)), content(file)))
                    .collect();
                let (stop, read_len) = (Arc::clone(&stop), Arc::clone(&read_len));
                thread::spawn(move || read_on(&own, &stop, &read_len))
            })
            .collect();
        Self {
            stop,
            read_len,
            threads,
        }
    }

    /// Waits until the readers have read some more, all together.
    pub(crate) fn wait_for_progress(&self) {
        self.wait_for(STRIDE_LEN);
    }

    /// The same, for so many bytes.
    pub(crate) fn wait_for(&self, len: u64) {
        let goal = self.read_len.load(Ordering::Relaxed) + len;
        let begun = Instant::now();
        while self.read_len.load(Ordering::Relaxed) < goal {
            assert!(begun.elapsed() < Duration::from_mins(1), "readers hang");
            assert!(
                !self.threads.iter().any(JoinHandle::is_finished),
                "a reader has ended"
            );
            thread::yield_now();
        }
    }

    /// Ends the reading; gives the longest time that one read took. Fails on an error or a wrong byte.
    pub(crate) fn finish(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let longest = self
            .threads
            .into_iter()
            .map(|thread| thread.join().expect("right bytes").expect("no error"))
            .max();
        longest.unwrap_or_default()
    }
}

fn read_on(
    files: &[(PathBuf, Vec<u8>)],
    stop: &AtomicBool,
    read_len: &AtomicU64,
) -> io::Result<Duration> {
    let mut longest = Duration::ZERO;
    let mut buf = vec![0; 64 << 10];
    loop {
        for (path, bytes) in files {
            let file = File::open(path)?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
            for (place, expected) in bytes.chunks(buf.len()).enumerate() {
                if stop.load(Ordering::Relaxed) {
                    return Ok(longest);
                }
                let part = &mut buf[..expected.len()];
                let begun = Instant::now();
                file.read_exact_at(part, place as u64 * (64 << 10))?;
                longest = longest.max(begun.elapsed());
                assert!(part == expected, "{} differs", path.display());
                read_len.fetch_add(expected.len() as u64, Ordering::Relaxed);
            }
        }
    }
}

pub(crate) fn name(file: usize) -> String {
    format!("file-{file}")
}

/// Bytes that tell where they are from and do not compress.
pub(crate) fn content(file: usize) -> Vec<u8> {
    let mut state = file as u64 + 1;
    let mut bytes = Vec::with_capacity(FILE_LEN + 8);
    while bytes.len() < FILE_LEN {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        bytes.extend_from_slice(&(state >> 16).to_le_bytes());
    }
    bytes.truncate(FILE_LEN);
    bytes
}

/// Converts an image of those files into `registry`; its reference there.
fn convert_image(registry: &DockerRegistry) -> String {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("layer.tar");
    let mut tar = tar::Builder::new(File::create(&path).expect("a tar"));
    for file in 0..FILE_COUNT {
        let mut header = tar::Header::new_ustar();
        header.set_size(FILE_LEN as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name(file), content(file).as_slice())
            .expect("a file in the tar");
    }
    tar.finish().expect("a tar");
    let layout = folder.path().join("layout");
    layout::write(&layout, "v1", &[(&path, Stored::Plain)]);
    let source = format!("oci:{}:v1", layout.display());
    let target = format!("docker://{}/test/faults:v1", registry.host());
    tranship(&["convert", &source, &target]);
    target
}

/// An image mounted by one agent.
pub(crate) struct Scene {
    cluster: Cluster,
    pub(crate) target: TempDir,
    pub(crate) reference: String,
    pub(crate) registry: DockerRegistry,
}

impl Scene {
    pub(crate) fn set(front_end: &str, extra: &str) -> Self {
        let registry = DockerRegistry::start();
        let reference = convert_image(&registry);
        let mut cluster = Cluster::empty();
        cluster.start_agent(&AgentOptions {
            extra: extra.to_owned(),
            ..AgentOptions::default()
        });
        let target = tempfile::tempdir().expect("a mount point");
        let scene = Self {
            cluster,
            target,
            reference,
            registry,
        };
        let (socket, path) = (scene.cluster.agents[0].socket(), scene.target_path());
        tranship(&[
            "mount",
            "--agent",
            &socket,
            "--front-end",
            front_end,
            &scene.reference,
            &path,
        ]);
        scene
    }

    fn target_path(&self) -> String {
        self.target.path().to_string_lossy().into_owned()
    }

    pub(crate) fn readers(&self) -> Readers {
        Readers::start(self.target.path())
    }

    pub(crate) fn agent(&mut self) -> &mut Agent {
        &mut self.cluster.agents[0]
    }

    /// The process of the one device.
    fn process(&mut self) -> Pid {
        let begun = Instant::now();
        loop {
            let devices = self.agent().call("GET", "/v1/devices", "");
            let process = devices[0]["process"].as_i64();
            if let Some(pid) = process.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                return pid;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "the device has no process: {devices}\n{}",
                self.agent().log()
            );
            thread::yield_now();
        }
    }

    /// The process id of the agent's keeper.
    fn keeper(&self) -> Pid {
        let socket = self.cluster.agents[0]
            .folder()
            .join("state/run/keeper.sock");
        let socket = socket.to_string_lossy().into_owned();
        let begun = Instant::now();
        loop {
            for entry in fs::read_dir("/proc").expect("/proc").flatten() {
                let Some(pid) = entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse().ok())
                else {
                    continue;
                };
                let mut command = String::new();
                // It may be gone by now.
                let read = File::open(entry.path().join("cmdline"))
                    .and_then(|mut file| file.read_to_string(&mut command));
                if read.is_ok() && command.contains("--stay") && command.contains(&socket) {
                    return Pid::from_raw(pid).expect("a process id");
                }
            }
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "there is no keeper"
            );
            thread::yield_now();
        }
    }

    /// Kills the keeper and waits until there is another that holds everything again.
    fn kill_keeper(&self) {
        let before = self.keeper();
        kill_process(before, Signal::KILL).expect("a keeper that is killed");
        let count = || {
            self.cluster.agents[0]
                .log()
                .matches("there is a new one")
                .count()
        };
        let known = count();
        let begun = Instant::now();
        while count() == known {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "no new keeper came"
            );
            thread::yield_now();
        }
        assert_ne!(self.keeper(), before);
    }

    fn end(self) {
        self.end_with(|| ());
    }

    /// Takes everything down, has `look` look while the agent is there, and looks at its log.
    pub(crate) fn end_with(mut self, look: impl FnOnce()) {
        let (socket, path) = (self.agent().socket(), self.target_path());
        tranship(&["umount", "--agent", &socket, &path]);
        tranship(&["detach", "--agent", &socket, &self.reference]);
        look();
        let log = self.agent().log();
        for sign in ["made anew", "fails", "is stale"] {
            assert!(!log.contains(sign), "the agent logged:\n{log}");
        }
    }
}

#[test]
fn readers_notice_no_death_of_agent_or_keeper() {
    for front_end in ["fuse-loop", "erofs-file"] {
        let mut scene = Scene::set(front_end, "");
        let readers = scene.readers();
        readers.wait_for_progress();
        for _ in 0..3 {
            scene.agent().restart();
            readers.wait_for_progress();
            scene.kill_keeper();
            readers.wait_for_progress();
        }
        let longest = readers.finish();
        println!("{front_end}: 3 agents and 3 keepers killed, 0 errors, longest read {longest:?}");
        scene.end();
    }
}

#[test]
fn readers_notice_no_death_of_a_device_process_and_no_absence_of_the_agent() {
    for front_end in ["fuse-loop", "erofs-file"] {
        let mut scene = Scene::set(front_end, "[device]\nprocesses = true\n");
        let readers = scene.readers();
        // More than twice all files: everything is here.
        readers.wait_for(48 << 20);
        for _ in 0..3 {
            let process = scene.process();
            kill_process(process, Signal::KILL).expect("a device process that is killed");
            readers.wait_for_progress();
            assert_ne!(scene.process(), process);
            scene.kill_keeper();
            readers.wait_for_progress();
            scene.agent().kill();
            // What is here is read without an agent.
            readers.wait_for_progress();
            scene.agent().restart();
            readers.wait_for_progress();
        }
        let longest = readers.finish();
        println!(
            "{front_end}: 3 device processes, keepers and agents killed, 0 errors, longest read {longest:?}"
        );
        scene.end();
    }
}

#[test]
fn readers_notice_no_upgrade_of_the_agent() {
    for front_end in ["fuse-loop", "erofs-file"] {
        let mut scene = Scene::set(front_end, "[device]\ndetach_on_stop = false\n");
        let readers = scene.readers();
        for _ in 0..3 {
            readers.wait_for_progress();
            scene.agent().stop();
            scene.agent().restart();
        }
        readers.wait_for_progress();
        let longest = readers.finish();
        println!("{front_end}: 3 upgrades of the agent, 0 errors, longest read {longest:?}");
        scene.end();
    }
}

#[test]
fn readers_notice_no_process_that_stands_still_for_a_while() {
    let mut scene = Scene::set("fuse-loop", "");
    let readers = scene.readers();
    readers.wait_for_progress();
    let stopped = [scene.keeper(), scene.agent().pid()];
    for pid in stopped {
        kill_process(pid, Signal::STOP).expect("a process that is stopped");
        thread::sleep(Duration::from_secs(5));
        kill_process(pid, Signal::CONT).expect("a process that goes on");
        readers.wait_for_progress();
    }
    let longest = readers.finish();
    println!("keeper and agent stopped for 5 s each, 0 errors, longest read {longest:?}");
    scene.end();
}
