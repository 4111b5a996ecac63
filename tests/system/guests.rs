//! What needs another kernel, or another machine: the device suite on Debian's two kernels, virtual machines whose root is an image that
//! an agent serves, and an agent on kernels that have less.

mod agent;
mod faults;
mod reboot;

use std::fs::{self, File};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use tranship_tests::command::binary_dir;
use tranship_tests::layout::{self, Stored};
use tranship_tests::registry::DockerRegistry;
use tranship_tests::{Agent, AgentOptions, Cluster, Guest, Kernel, run, tranship};

/// What the device suite and agents need of a kernel.
const DEVICE_MODULES: [&str; 6] = ["fuse", "loop", "erofs", "overlay", "nbd", "ublk_drv"];
/// What a machine with a disk and a network needs.
const DISK_MODULES: [&str; 4] = ["virtio_pci", "virtio_blk", "erofs", "overlay"];
const NETWORK_MODULES: [&str; 2] = ["virtio_pci", "virtio_net"];
const FILE_COUNT: usize = 48;
const FILE_LEN: usize = 1 << 20;
/// Files of the root that are read: not every second one, for what is read ahead of one is the next.
const READ_COUNT: usize = 20;

/// The device suite's program: the newest that cargo has built.
fn device_suite() -> PathBuf {
    let entries = fs::read_dir(binary_dir().join("deps")).expect("cargo's folder");
    let programs = entries.flatten().filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.strip_prefix("device-")
            .is_some_and(|rest| !rest.contains('.'))
    });
    programs
        .max_by_key(|entry| entry.metadata().and_then(|data| data.modified()).ok())
        .expect("a device suite: cargo test --workspace --no-run --test device")
        .path()
}

/// Runs what of the device suite is about the kernel.
fn run_device_suite(kernel: &Kernel) -> String {
    let mut guest = Guest::with(kernel, &DEVICE_MODULES);
    guest.program(&device_suite(), "device");
    let script = "device --test-threads=1 --nocapture --skip nbd_server --skip vhost_user --skip keeper --skip mounts 2>&1";
    guest.run(script, 200).expect_success().text
}

#[test]
fn the_device_suite_passes_on_linux_6_1() {
    // A successor of a FUSE server finds noted what this kernel does not send again.
    let said = run_device_suite(&Kernel::linux_6_1());
    println!("{said}");
    assert!(said.contains("crash::readers_of_a_file_survive_the_death_of_its_server ... ok"));
    assert!(!said.contains("there is no NBD driver here"), "{said}");
    assert!(said.contains("readers waited"), "{said}");
}

#[test]
fn the_device_suite_passes_on_linux_6_12() {
    let said = run_device_suite(&Kernel::linux_6_12());
    println!("{said}");
    assert!(!said.contains("left out"), "{said}");
    assert!(said.contains("readers waited"), "{said}");
    assert!(said.contains("readers of ublk waited"), "{said}");
}

/// A root of a shell and of files that tell where they are from.
struct Root {
    registry: DockerRegistry,
    reference: String,
    len: u64,
}

impl Root {
    fn make() -> Self {
        let registry = DockerRegistry::start();
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("layer.tar");
        let mut tar = tar::Builder::new(File::create(&path).expect("a tar"));
        for dir in ["bin", "data", "dev", "proc", "sbin", "sys", "tmp"] {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            header.set_mode(0o755);
            tar.append_data(&mut header, dir, &b""[..])
                .expect("a folder");
        }
        let shell = fs::read("/bin/busybox").expect("busybox");
        let mut put = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o755);
            tar.append_data(&mut header, name, bytes)
                .expect("a file in the tar");
        };
        put("bin/busybox", &shell);
        put("sbin/init", INIT.as_bytes());
        for file in 0..FILE_COUNT {
            put(&format!("data/{file:02}"), &content(file));
        }
        tar.finish().expect("a tar");
        let layout = folder.path().join("layout");
        layout::write(&layout, "v1", &[(&path, Stored::Plain)]);
        let reference = format!("docker://{}/test/root:v1", registry.host());
        let source = format!("oci:{}:v1", layout.display());
        tranship(&["convert", &source, &reference]);
        Self {
            registry,
            reference,
            len: (FILE_COUNT * FILE_LEN) as u64,
        }
    }
}

/// The first program of the root: says what it is, reads the first files, and goes.
const INIT: &str = r#"#!/bin/busybox sh
exec >/dev/ttyS1 2>&1 </dev/null
b=/bin/busybox
$b mount -t proc proc /proc
$b grep ' / ' /proc/mounts
for file in /data/[01]*; do $b sha256sum $file; done
echo x >/data/00 || echo "read-only"
echo "guest: ended with 0"
$b poweroff -f
"#;

/// Bytes that tell where they are from and do not compress.
fn content(file: usize) -> Vec<u8> {
    let mut state = file as u64 + 1;
    let mut bytes = Vec::with_capacity(FILE_LEN);
    while bytes.len() < FILE_LEN {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        bytes.extend_from_slice(&(state >> 16).to_le_bytes());
    }
    bytes
}

/// What the root prints of its files.
fn expected_sums() -> Vec<String> {
    let folder = tempfile::tempdir().expect("a scratch folder");
    (0..READ_COUNT)
        .map(|file| {
            let path = folder.path().join("file");
            fs::write(&path, content(file)).expect("a file");
            let said = run("sha256sum", &[&path.to_string_lossy()]);
            let sum = said.split(' ').next().expect("a sum");
            format!("{sum}  /data/{file:02}")
        })
        .collect()
}

/// The arguments that `attach` prints, for a machine that has memory of its own to share.
fn printed_arguments(agent: &Agent, front_end: &str, reference: &str) -> Vec<String> {
    let printed = tranship(&[
        "attach",
        "--agent",
        &agent.socket(),
        "--front-end",
        front_end,
        reference,
    ]);
    let line = printed.lines().nth(1).expect("arguments for qemu");
    // Memory is what each user brings; the guests here have theirs.
    let disk = line.split(" -object ").next().expect("the disk's part");
    disk.split_whitespace().map(str::to_owned).collect()
}

/// Boots from the image, kills the agent in the middle, and starts it again.
fn boot_from(root: &Root, front_end: &str) {
    let mut cluster = Cluster::empty();
    cluster.start_agent(&AgentOptions::default());
    let arguments = printed_arguments(&cluster.agents[0], front_end, &root.reference);
    let before = root.registry.sent_len();
    let kernel = Kernel::linux_6_12();
    let report = thread::scope(|scope| {
        let booting = scope.spawn(|| {
            Guest::with(&kernel, &DISK_MODULES)
                .root("/dev/vda", "erofs")
                .arguments(arguments.iter().map(String::as_str))
                .run("", 120)
        });
        let begun = Instant::now();
        while root.registry.sent_len() < before + root.len / 6 && !booting.is_finished() {
            assert!(begun.elapsed() < Duration::from_mins(2), "nothing is read");
            thread::yield_now();
        }
        cluster.agents[0].kill();
        cluster.agents[0].restart();
        booting.join().expect("a guest")
    });
    let said = report.expect_success().text;
    assert!(said.contains("/dev/vda / erofs ro"), "{said}");
    assert!(said.contains("read-only"), "{said}");
    let sums: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("  /data/"))
        .collect();
    assert_eq!(sums, expected_sums());
    let fetched = root.registry.sent_len() - before;
    assert!(
        fetched < root.len * 9 / 10,
        "{READ_COUNT} of {FILE_COUNT} files were read, and {fetched} of {} bytes fetched: that is not lazy",
        root.len
    );
}

#[test]
fn virtual_machines_boot_from_their_sockets_and_survive_the_agent() {
    let root = Root::make();
    for front_end in ["vhost-user-blk", "nbd"] {
        boot_from(&root, front_end);
    }
}

#[test]
fn a_guest_that_panics_or_hangs_is_a_failure_that_says_so() {
    let kernel = Kernel::linux_6_1();
    let failure = |script: &'static str| {
        let kernel = kernel.clone();
        let run = thread::spawn(move || Guest::with(&kernel, &[]).run(script, 25));
        let panic = run.join().expect_err("no report");
        panic.downcast_ref::<String>().expect("a text").clone()
    };
    let said = failure("echo something; echo c >/proc/sysrq-trigger");
    assert!(said.contains("sysrq_handle_crash"), "{said}");
    assert!(said.contains("something"), "{said}");
    let said = failure("echo begun; sleep 1000");
    assert!(said.contains("its time is up (25 s)"), "{said}");
    let report = Guest::with(&kernel, &[]).run("false", 60);
    assert_eq!(report.code, 1);
}
