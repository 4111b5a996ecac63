//! A virtual machine with one of Debian's kernels, for what this machine's own kernel has not: qemu in pure emulation, so that it
//! needs no privilege and no processor's help, with one processor and 512 MiB.
//!
//! The machine boots into a filesystem that is made here of a shell, the kernel's modules and the programs that are tested, runs one
//! script, and goes. What the script prints comes back over a serial line of its own, apart from what the kernel has to say. A machine
//! that does not come to its end is a failure with the tail of its console, never a silence.

mod initramfs;
mod kernel;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::command::need_tools;
use initramfs::Archive;

pub use kernel::Kernel;

/// What the first program says before anything else, and after everything.
const UP: &str = "guest: up";
const ENDED: &str = "guest: ended with ";
/// How much of the console a failure shows, in lines.
const TAIL: usize = 40;
/// A machine now and then stops before its first program, in the emulator's own hands; so often it is started.
const BOOTS: usize = 3;

/// What is to be run in a machine.
#[derive(Debug)]
pub struct Guest {
    kernel: Kernel,
    archive: Archive,
    arguments: Vec<String>,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// The script's exit code.
    pub code: i32,
    /// What it printed.
    pub text: String,
    /// What the kernel printed.
    pub console: String,
}

impl Guest {
    /// A machine with the kernel's `modules` loaded, each with what it stands on.
    pub fn with(kernel: &Kernel, modules: &[&str]) -> Self {
        need_tools(&["qemu-system-x86_64", "busybox", "ldd", "strip", "timeout"]);
        let mut archive = Archive::default();
        for folder in ["bin", "dev", "mnt", "modules", "proc", "run", "sys", "tmp"] {
            archive.folder(folder);
        }
        archive.file("bin/busybox", &read(&tool("busybox")), 0o755);
        archive.link("bin/sh", "busybox");
        let mut order = String::new();
        for (name, bytes) in kernel.modules(modules) {
            archive.file(&format!("modules/{name}"), &bytes, 0o644);
            order.push_str(&name);
            order.push('\n');
        }
        archive.file("modules/order", order.as_bytes(), 0o644);
        Self {
            kernel: kernel.clone(),
            archive,
            arguments: Vec::new(),
        }
    }

    /// Gives it a program, as `/bin/NAME`, with the shared libraries that it is linked with.
    pub fn program(&mut self, path: &Path, name: &str) -> &mut Self {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let stripped = scratch.path().join(name);
        crate::run(
            "strip",
            &["-o", &stripped.to_string_lossy(), &path.to_string_lossy()],
        );
        self.archive
            .file(&format!("bin/{name}"), &read(&stripped), 0o755);
        for library in libraries(path) {
            let place = library.to_string_lossy().into_owned();
            self.archive
                .file(place.trim_start_matches('/'), &read(&library), 0o755);
        }
        self
    }

    /// Gives it a file.
    pub fn file(&mut self, place: &str, bytes: &[u8]) -> &mut Self {
        self.archive.file(place, bytes, 0o755);
        self
    }

    /// Has it go on with the filesystem on `device`: with that as its root, `/sbin/init` is run, in the place of a script.
    pub fn root(&mut self, device: &str, kind: &str) -> &mut Self {
        let place = format!("{device} {kind}\n");
        self.archive.file("root", place.as_bytes(), 0o644);
        self
    }

    /// Adds to qemu's command line.
    pub fn arguments<'a>(&mut self, arguments: impl IntoIterator<Item = &'a str>) -> &mut Self {
        self.arguments
            .extend(arguments.into_iter().map(str::to_owned));
        self
    }

    /// Boots it, runs `script` (busybox's shell, as root) and tells what came of it. Stops the test where the machine does not come to
    /// its end within `seconds`.
    pub fn run(&mut self, script: &str, seconds: u32) -> Report {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let mut archive = self.archive.clone();
        archive.file("main", script.as_bytes(), 0o755);
        archive.file("init", INIT.as_bytes(), 0o755);
        let initramfs = folder.path().join("initramfs");
        fs::write(&initramfs, archive.finish()).expect("a written initramfs");
        for boot in 1..=BOOTS {
            let (report, began, how) = self.boot(&folder, &initramfs, seconds);
            match report {
                Some(report) => return report,
                None if !began && boot < BOOTS && !how.contains("time is up") => {}
                None => panic!(
                    "a guest with Linux {} did not come to its end: {how}\n--- what it printed\n{}\n--- the end of its console\n{}",
                    self.kernel.version(),
                    results(&folder),
                    tail(&console(&folder))
                ),
            }
        }
        unreachable!("the last boot is answered or panics")
    }

    /// The report, whether its first program began, and how the machine ended.
    fn boot(
        &self,
        folder: &TempDir,
        initramfs: &Path,
        seconds: u32,
    ) -> (Option<Report>, bool, String) {
        let file = |name: &str| format!("file:{}", folder.path().join(name).display());
        let output = Command::new("timeout")
            .args(["--kill-after=5", &seconds.to_string(), "qemu-system-x86_64"])
            .args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-M", "q35"])
            // Shared, so that a process outside can serve its devices.
            .args(["-m", "512", "-machine", "memory-backend=memory"])
            .args(["-object", "memory-backend-memfd,id=memory,size=512M,share=on"])
            .args(["-nodefaults", "-no-reboot", "-display", "none"])
            .args(["-serial", &file("console"), "-serial", &file("results")])
            .arg("-kernel")
            .arg(self.kernel.image())
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", APPEND])
            .args(&self.arguments)
            .output()
            .expect("timeout starts");
        let results = results(folder);
        let code = results
            .lines()
            .find_map(|line| line.strip_prefix(ENDED)?.trim().parse().ok());
        let how = match output.status.code() {
            Some(124 | 137) => format!("its time is up ({seconds} s)"),
            _ => format!(
                "qemu ended with {} and {:?}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ),
        };
        let report = code.map(|code| Report {
            code,
            text: results
                .lines()
                .filter(|line| !line.starts_with("guest: "))
                .fold(String::new(), |text, line| text + line + "\n"),
            console: console(folder),
        });
        (report, results.contains(UP), how)
    }
}

impl Report {
    /// Stops the test, and shows all that there is, unless the script succeeded.
    #[must_use]
    pub fn expect_success(self) -> Self {
        assert!(
            self.code == 0,
            "the guest's script ended with {}:\n{}\n--- the end of its console\n{}",
            self.code,
            self.text,
            tail(&self.console)
        );
        self
    }
}

/// The kernel's command line.
const APPEND: &str =
    "console=ttyS0 panic=-1 loglevel=5 mitigations=off nokaslr random.trust_cpu=on";

/// The first program: makes the machine one to work in, and says how its work ended.
const INIT: &str = r#"#!/bin/sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
stty -F /dev/ttyS1 raw
exec >/dev/ttyS1 2>&1 </dev/null
echo "guest: up"
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
ip link set lo up
while read -r module; do insmod "/modules/$module" || echo "no module $module"; done </modules/order
if [ -f /root ]; then
    read -r device kind </root
    mount -t "$kind" -o ro "$device" /mnt && mount --move /dev /mnt/dev && exec switch_root /mnt /sbin/init
fi
export HOME=/tmp TMPDIR=/tmp RUST_BACKTRACE=1
sh /main
echo "guest: ended with $?"
sync
poweroff -f
"#;

fn results(folder: &TempDir) -> String {
    lossy(&folder.path().join("results"))
}

fn console(folder: &TempDir) -> String {
    lossy(&folder.path().join("console"))
}

fn lossy(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\r', "")
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Where a tool of the distribution lies.
fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|path| path.exists())
        .expect("a tool that was looked for")
}

/// The shared libraries of a program, the loader among them.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let said = crate::run("ldd", &[&program.to_string_lossy()]);
    said.lines()
        .filter_map(|line| {
            let path = line.split_once("=>").map_or(line, |(_, path)| path);
            let path = path.split_whitespace().next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}
