//! A systemd of one's own: the machine's, as the first process of namespaces and a control group that end with the value. In it the agent
//! runs by the unit that is shipped.
//!
//! Its root is the machine's, seen through an overlay, so that nothing it writes stays; the network and the kernel's devices are the
//! machine's own. Of units it knows those of `deploy/systemd` and the few targets that they name, so that it boots in less than a
//! second and starts nothing else. What happens in there is seen from here through `/proc/PID/root`, and in the control group.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::command::{binary_dir, need_tools, run};
use crate::leftovers;

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long it is not looked for again.
const BREATH: Duration = Duration::from_millis(5);
/// Where agents have their state if nothing else is set, and the folder here that it is.
const STATE: &str = "/var/lib/tranship";
/// Where they are called.
const SOCKET: &str = "/run/tranship/agent.sock";
/// Where this one logs, as there is no journal.
const LOG: &str = "agent.log";

/// A booted systemd.
#[derive(Debug)]
pub struct Systemd {
    /// Its parent, which ends when it does.
    outer: Child,
    first: Pid,
    cgroup: PathBuf,
    folder: TempDir,
    /// Loop devices of an agent that this machine has besides.
    others: Vec<String>,
}

/// A process in there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number here.
    pub pid: Pid,
    /// Its control group, as systemd knows it: `tranship.slice/run-1.scope`.
    pub group: String,
}

impl Systemd {
    /// Boots it, with the agent enabled and `settings` as its configuration file, and waits until the agent answers.
    pub fn boot(settings: &str) -> Self {
        need_tools(&["nsenter", "setpriv", "systemctl", "systemd-run", "unshare"]);
        let folder = tempfile::tempdir().expect("a scratch folder");
        write_files(folder.path(), settings);
        let cgroup = own_cgroup().join(format!("tranship-systemd-{}", std::process::id()));
        fs::create_dir(&cgroup).expect("a control group of its own");
        let log = fs::File::create(folder.path().join("boot.log")).expect("a log");
        let outer = Command::new("sh")
            .args(["-c", OUTSIDE])
            .arg(&cgroup)
            .args(["sh", "-c", INSIDE])
            .arg(folder.path())
            .arg(binary_dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("sh starts");
        let mut booting = Self {
            first: Pid::from_child(&outer),
            outer,
            cgroup,
            folder,
            others: leftovers::loops(Path::new(STATE)),
        };
        booting.first = booting.wait_for("a first process", || {
            let first = booting.processes("systemd");
            first.first().map(|process| process.pid)
        });
        booting.wait_for_agent();
        booting
    }

    /// A path in there, seen from here.
    pub fn path(&self, inside: &str) -> PathBuf {
        let root = format!("/proc/{}/root", self.first.as_raw_nonzero());
        Path::new(&root).join(inside.trim_start_matches('/'))
    }

    /// Runs a program in there and gives what it printed; stops the test where it fails.
    pub fn run(&self, args: &[&str]) -> String {
        let first = self.first.as_raw_nonzero().to_string();
        let enter = ["--target", &first, "--mount", "--pid", "--root", "--wd"];
        run("nsenter", &[&enter[..], &["--"], args].concat())
    }

    /// The processes of this name, by their numbers.
    pub fn processes(&self, name: &str) -> Vec<Process> {
        let mut found = Vec::new();
        each_group(&self.cgroup, &mut |group| {
            // It may be gone by now.
            let numbers = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            let pids = numbers
                .lines()
                .filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
            let inside = group.strip_prefix(&self.cgroup).unwrap_or(group);
            let named = pids.filter(|pid| is_named(*pid, name));
            found.extend(named.map(|pid| Process {
                pid,
                group: inside.to_string_lossy().into_owned(),
            }));
        });
        found.sort_by_key(|process| process.pid.as_raw_nonzero());
        found
    }

    /// The groups of keeper and device processes, by systemd's names.
    pub fn scopes(&self) -> Vec<String> {
        let mut found = Vec::new();
        each_group(&self.cgroup, &mut |group| {
            let name = group.strip_prefix(&self.cgroup).unwrap_or(group);
            if name.starts_with("tranship.slice") && name != Path::new("tranship.slice") {
                found.push(name.to_string_lossy().into_owned());
            }
        });
        found
    }

    /// Waits until there is an agent that takes calls.
    pub fn wait_for_agent(&self) {
        let socket = self.path(SOCKET);
        // The socket of one that has ended refuses.
        self.wait_for("an agent that answers", || {
            UnixStream::connect(&socket).ok().map(drop)
        });
    }

    /// Waits for what `look` gives, and stops the test where that does not come.
    pub fn wait_for<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "there is not {what}\n--- boot\n{}\n--- agent\n{}",
                self.said("boot.log"),
                self.said(LOG)
            );
            thread::park_timeout(BREATH);
        }
    }

    /// What the agents in there have logged.
    pub fn log(&self) -> String {
        self.said(LOG)
    }

    fn said(&self, log: &str) -> String {
        fs::read_to_string(self.folder.path().join(log)).unwrap_or_default()
    }

    /// What there still is of devices: mounts, loop devices, processes, files.
    pub fn devices_left(&self) -> Vec<String> {
        let table = format!("/proc/{}/mountinfo", self.first.as_raw_nonzero());
        let mut left = leftovers::mounts_in(Path::new(&table), Path::new(STATE));
        // The folder itself is one.
        left.retain(|line| line.split(' ').nth(4) != Some(STATE));
        left.extend(self.loops());
        let processes = self.processes("tranship-device");
        left.extend(processes.iter().map(|process| format!("{process:?}")));
        left.extend(leftovers::files(&self.folder.path().join("state")));
        left
    }

    fn loops(&self) -> Vec<String> {
        let mut loops = leftovers::loops(Path::new(STATE));
        loops.retain(|device| !self.others.contains(device));
        loops
    }

    /// Ends all that is in there, and looks whether anything is left of it.
    pub fn end(mut self) {
        self.take_down();
        assert!(!self.cgroup.exists(), "{} stays", self.cgroup.display());
        assert_eq!(self.loops(), Vec::<String>::new());
        let here = leftovers::mounts(self.folder.path());
        assert_eq!(here, Vec::<String>::new());
    }

    fn take_down(&mut self) {
        // It may have ended by itself. All others in there end with it, and are gone when its parent is.
        let _ = kill_process(self.first, Signal::KILL);
        drop(self.outer.wait());
        // A group goes when the last process that was in it has been buried.
        let begun = Instant::now();
        while self.cgroup.exists() && begun.elapsed() < PATIENCE {
            let mut groups = Vec::new();
            each_group(&self.cgroup, &mut |group| groups.push(group.to_owned()));
            for group in groups.iter().rev() {
                // The next look tells.
                let _ = fs::remove_dir(group);
            }
            thread::park_timeout(BREATH);
        }
    }
}

impl Drop for Systemd {
    #[expect(
        clippy::print_stderr,
        reason = "the test has failed, and shows what the agent printed"
    )]
    fn drop(&mut self) {
        if self.cgroup.exists() {
            if thread::panicking() {
                eprintln!("--- the agent under systemd\n{}", self.log());
            }
            self.take_down();
        }
    }
}

/// The units and settings that [`INSIDE`] puts where they belong.
fn write_files(folder: &Path, settings: &str) {
    let units = folder.join("units");
    let enabled = units.join("multi-user.target.wants");
    let drop_ins = units.join("tranship-agent.service.d");
    for dir in [
        &enabled,
        &drop_ins,
        &folder.join("state"),
        &folder.join("space"),
    ] {
        fs::create_dir_all(dir).expect("a folder");
    }
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    for unit in fs::read_dir(shipped).expect("the shipped units").flatten() {
        fs::copy(unit.path(), units.join(unit.file_name())).expect("a unit");
    }
    // What every service stands on; here nothing has to be done for it.
    for target in ["sysinit", "basic", "multi-user", "shutdown"] {
        let unit = "[Unit]\nDefaultDependencies=no\n";
        fs::write(units.join(format!("{target}.target")), unit).expect("a unit");
    }
    std::os::unix::fs::symlink(
        "../tranship-agent.service",
        enabled.join("tranship-agent.service"),
    )
    .expect("an enabled unit");
    let to_file = format!("[Service]\nStandardError=append:/{LOG}\n");
    fs::write(drop_ins.join("log.conf"), to_file).expect("a drop-in");
    fs::write(folder.join(LOG), "").expect("a log");
    fs::write(folder.join("agent.toml"), settings).expect("a configuration");
}

/// The folder of the group that this process is in, in the hierarchy that is the same for all controllers.
fn own_cgroup() -> PathBuf {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the table of mounts");
    let mount = table.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ")
            .then(|| mount.split(' ').nth(4))?
    });
    let mount = mount.expect("a mounted cgroup2, in which systemd keeps its units apart");
    let groups = fs::read_to_string("/proc/self/cgroup").expect("this process's groups");
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    Path::new(mount).join(own.expect("a group of this process"))
}

/// The group and all below it, each after the one that it is in.
fn each_group(group: &Path, see: &mut impl FnMut(&Path)) {
    see(group);
    // They come and go.
    for inside in fs::read_dir(group).into_iter().flatten().flatten() {
        if inside.file_type().is_ok_and(|kind| kind.is_dir()) {
            each_group(&inside.path(), see);
        }
    }
}

/// The kernel keeps fifteen letters of a name.
fn is_named(pid: Pid, name: &str) -> bool {
    let named = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
    named.is_ok_and(|named| named.trim_end() == &name[..name.len().min(15)])
}

/// Into the group, and from there into namespaces, of which that group is the root. What is in there dies with this test.
const OUTSIDE: &str = r#"
echo $$ >"$0/cgroup.procs"
exec setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --uts --ipc --cgroup "$@"
"#;

/// The first process makes its root and becomes systemd. The kernel's settings and the folder of devices are not for writing, and the
/// machine's console is out of its reach.
const INSIDE: &str = r#"
set -eu
folder=$0 programs=$1
mount -t tmpfs tmpfs "$folder/space"
mkdir "$folder/space/upper" "$folder/space/work" "$folder/space/root"
mount -t overlay -o "lowerdir=/,upperdir=$folder/space/upper,workdir=$folder/space/work" overlay "$folder/space/root"
cd "$folder/space/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --bind /dev dev
mount -o remount,bind,ro dev
mount --bind /dev/null dev/console
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p var/lib/tranship etc/tranship generators machine
cp -R "$folder/units" units
cp "$folder/agent.toml" etc/tranship/
mount --bind "$folder/state" var/lib/tranship
: >agent.log
mount --bind "$folder/agent.log" agent.log
for program in tranship tranship-agent tranship-keeper tranship-device; do
    : >"usr/bin/$program"
    mount --bind "$programs/$program" "usr/bin/$program"
done
pivot_root . machine
umount -l machine
exec env -i PATH=/usr/bin:/usr/sbin container=tranship SYSTEMD_UNIT_PATH=/units SYSTEMD_GENERATOR_PATH=/generators \
    /lib/systemd/systemd --unit=multi-user.target --log-target=null --show-status=no
"#;
