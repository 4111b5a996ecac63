//! Faults of agents on kernels that have less, or other, than this machine's: what is chosen there, and what readers notice.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use tranship_tests::registry::DockerRegistry;
use tranship_tests::{Agent, AgentOptions, Cluster, Guest, Kernel};

use super::agent::{script, with_agent};
use super::{DISK_MODULES, printed_arguments};
use crate::faults::in_guest::SHELL;
use crate::faults::matrix::{HEAD, rounds, rounds_of};
use crate::faults::{convert, damage};

/// A disk for the store: enough for all of the image, and soon full.
const SMALL_DISK: &str = "mount -t tmpfs -o size=48m store /tmp/store";
/// What is answered between two faults, in bytes.
const STEP_LEN: f64 = 4_194_304.0;

/// What happens to a device with the front end `$1`; processes die more often than anything else happens.
const FAULTS: &str = r#"
deaths=ROUNDS
often() { for round in $(seq ROUNDS); do "$@"; go; done; }
seldom() { for round in $(seq SELDOM); do "$@"; go; done; }
agent_killed() { kill -9 $pid; wait $pid || true; agent; }
agent_still() { kill -STOP $pid; sleep STILL; kill -CONT $pid; }
agent_upgraded() { kill $pid; wait $pid; agent; }
holder() {
    for place in /proc/[0-9]*; do
        { read -r comm <$place/comm; } 2>/dev/null || continue
        case $comm in tranship-*) ;; *) continue ;; esac
        if tr '\0' ' ' 2>/dev/null <$place/cmdline | grep -q -- "$1"; then echo ${place#/proc/}; return; fi
    done
}
keeper_killed() { old=$(holder --stay); kill -9 $old; until new=$(holder --stay) && [ -n "$new" ] && [ $new != $old ]; do usleep 50000; done; usleep 300000; }
process_killed() { old=$(holder tranship-device); kill -9 $old; until new=$(holder tranship-device) && [ -n "$new" ] && [ $new != $old ]; do usleep 50000; done; }
truncated() { for file in $(find /tmp/store -name data); do truncate -s 1000000 $file; done; }
rotten() { for file in $(find /tmp/store -name data); do for at in 30 300 1000 2000; do dd if=/dev/urandom of=$file bs=4096 seek=$at count=1 conv=notrunc 2>/dev/null; done; done; }
emptied() { for file in $(find /tmp/store -name data); do : >$file; done; }
full() { emptied; if dd if=/dev/zero of=/tmp/store/junk bs=1M 2>/dev/null; then echo "the disk is not full"; exit 1; fi; go; rm /tmp/store/junk; }
deleted() { find /tmp/store -name data -exec rm {} +; go; agent_killed; }
away() { ip link set eth0 down; emptied; sleep 3; ip link set eth0 up; ip route add default via 10.0.2.2; }
all_killed() {
    turn=$(($(od -An -N1 -tu1 /dev/urandom) % 3))
    for time in 1 2 3; do
        case $turn in 0) agent_killed ;; 1) process_killed ;; 2) keeper_killed ;; esac
        turn=$(((turn + 1) % 3))
        usleep $(($(od -An -N2 -tu2 /dev/urandom) * 8))
    done
}
detached() { call detach --force $image; call mount --front-end $name $image /mnt; }
faults() {
    name=$1
    call mount --front-end $name $image /mnt
    grep /mnt /proc/mounts
    begin $name
    often agent_killed; row "kill -9 of the agent"
    if [ $2 = fuse ]; then
        often process_killed; row "kill -9 of the device process"
        often keeper_killed; row "kill -9 of the keeper"
        often all_killed; row "kill -9 of all in turn, by chance"
    fi
    seldom agent_still; row "agent stands still"
    seldom agent_upgraded; row "upgrade of the agent"
    seldom truncated; row "store file truncated"
    seldom rotten; row "store file rots"
    seldom full; row "disk full"
    seldom away; row "registry away for 3 s"
    # Last of these: the agent that starts then looks at what its store holds.
    seldom deleted; row "store file deleted"
    seldom detached; row "detach while reading"
    over
    echo "the readers of $name have ended"
    call umount /mnt
    echo "$name is no longer mounted"
    call detach $image
    tranship devices --orphans --agent /tmp/agent.sock
    [ ! -s /sys/block/nbd0/backend ] && [ ! -e /dev/ublkb0 ] && echo "nothing is left of $name"
}
"#;

/// Runs an agent in a guest with that kernel, and `body` with it.
fn run_agent(kernel: &Kernel, body: &str) -> String {
    let registry = DockerRegistry::start();
    convert(&registry);
    let mut guest = with_agent(kernel, &[]);
    with_readers(&mut guest);
    let rounds = rounds();
    let faults = FAULTS
        .replace("ROUNDS", &rounds.to_string())
        .replace("SELDOM", &rounds_of("others").to_string())
        .replace("STILL", if rounds == 1 { "2" } else { "5" });
    let script = script(
        &registry,
        "/tmp",
        SMALL_DISK,
        &[SHELL, &faults, body].concat(),
    );
    let said = guest.run(&script, 300 + rounds * 180).expect_success();
    println!("{HEAD}\n{}", said.text);
    said.text
}

/// Puts this program into a guest, for its readers.
fn with_readers(guest: &mut Guest) {
    let own = std::env::current_exe().expect("the path of this program");
    guest.program(&own, "system");
}

#[test]
fn an_agent_on_linux_6_1_takes_what_that_kernel_has() {
    let said = run_agent(
        &Kernel::linux_6_1(),
        "call mount $image /mnt\ngrep /mnt /proc/mounts\n\
         tranship attach --agent /tmp/agent.sock --front-end erofs-file $image 2>&1 && exit 1\n\
         call umount /mnt\ncall detach $image\nfaults fuse-loop fuse\nfaults kernel-nbd other\n",
    );
    assert!(said.contains("/dev/loop0 /mnt erofs ro"), "{said}");
    assert!(said.contains("needs Linux 6.12"), "{said}");
    assert!(said.contains("/dev/nbd0 /mnt erofs ro"), "{said}");
    assert!(said.contains("nothing is left of fuse-loop"), "{said}");
    assert!(said.contains("nothing is left of kernel-nbd"), "{said}");
}

#[test]
fn an_agent_on_linux_6_12_takes_what_that_kernel_has() {
    let said = run_agent(
        &Kernel::linux_6_12(),
        "call mount $image /mnt\ngrep /mnt /proc/mounts\n\
         call umount /mnt\ncall detach $image\nfaults kernel-nbd other\nfaults ublk other\n",
    );
    assert!(said.contains("/fuse/device /mnt erofs ro"), "{said}");
    assert!(said.contains("/dev/nbd0 /mnt erofs ro"), "{said}");
    assert!(said.contains("/dev/ublkb0 /mnt erofs ro"), "{said}");
    assert!(said.contains("nothing is left of kernel-nbd"), "{said}");
    assert!(said.contains("nothing is left of ublk"), "{said}");
}

/// Mounts the disk that it was given, and reads for a while.
const READ_DISK: &str = r#"
set -e
deaths=ROUNDS
mount -t erofs -o ro /dev/vda /mnt
begin vhost-user-blk
for round in $(seq ROUNDS); do for part in 1 2 3 4 5 6; do go; done; done
row "seven faults in turn"
over
umount /mnt
"#;

/// Waits until an agent has answered as much as all readers together go on by, or nobody asks any more.
fn answer_more(agent: &Agent, is_over: impl Fn() -> bool) {
    let answered = || agent.counter("tranship_device_read_bytes", "");
    let (before, begun) = (answered(), Instant::now());
    while answered() < before + STEP_LEN && !is_over() {
        assert!(
            begun.elapsed() < Duration::from_mins(2),
            "the machine asks little of the agent: {}",
            agent.log()
        );
        thread::yield_now();
    }
}

/// What happens to the agent of a virtual machine's disk, to its store, and to where it has it from: seven things, one after the other.
fn befall(agent: &mut Agent, registry: &DockerRegistry, count: u32) {
    let store = agent.folder().join("store");
    match count % 7 {
        0 => {
            agent.kill();
            agent.restart();
        }
        1 => {
            kill_process(agent.pid(), Signal::STOP).expect("a process that is stopped");
            thread::sleep(Duration::from_secs(1));
            kill_process(agent.pid(), Signal::CONT).expect("a process that goes on");
        }
        2 => {
            agent.stop();
            agent.restart();
        }
        3 => damage::truncate(&store),
        4 => damage::flip_bits(&store),
        5 => {
            damage::remove(&store);
            agent.restart();
        }
        _ => {
            registry.stand_still();
            damage::empty(&store);
            thread::sleep(Duration::from_secs(3));
            registry.go_on();
        }
    }
}

#[test]
fn a_virtual_machine_notices_no_fault_of_the_agent() {
    let registry = DockerRegistry::start();
    let reference = convert(&registry);
    let mut cluster = Cluster::empty();
    cluster.start_agent(&AgentOptions {
        extra: "[device]\ndetach_on_stop = false\nblock_cache = \"1MiB\"\n".to_owned(),
        ..AgentOptions::default()
    });
    let arguments = printed_arguments(&cluster.agents[0], "vhost-user-blk", &reference);
    let kernel = Kernel::linux_6_12();
    let (report, count) = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut guest = Guest::with(&kernel, &DISK_MODULES);
            with_readers(&mut guest);
            let script = READ_DISK.replace("ROUNDS", &rounds().to_string());
            guest
                .arguments(arguments.iter().map(String::as_str))
                .run(&[SHELL, &script].concat(), 120 + rounds() * 30)
        });
        let before = registry.sent_len();
        let begun = Instant::now();
        while registry.sent_len() == before && !reading.is_finished() {
            assert!(begun.elapsed() < Duration::from_mins(2), "nothing is read");
            thread::yield_now();
        }
        let mut count = 0;
        while !reading.is_finished() {
            befall(&mut cluster.agents[0], &registry, count);
            count += 1;
            // The machine comes back after a second or more. What happened to an agent before that it would not notice, and with a
            // fault as soon as it comes, each time, it would read next to nothing.
            answer_more(&cluster.agents[0], || reading.is_finished());
        }
        (reading.join().expect("a guest"), count)
    });
    let said = report.expect_success().text;
    println!("{HEAD}\n{said}{count} faults");
    assert!(count > 6, "only {count} faults happened while it read");
}
