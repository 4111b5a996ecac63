//! A machine that loses its power and starts anew, with nothing but its disk: what was attached and mounted there is so again, what
//! was being mounted at that moment is whole or gone, and nothing else is left.

use std::fs::{self, File};
use std::path::Path;

use tranship_tests::registry::DockerRegistry;
use tranship_tests::{Kernel, run};

use super::agent::{script, with_agent};
use crate::faults::{FILE_COUNT, content, convert, name};

/// The disk, which is all that outlives the machine.
const DISK_LEN: u64 = 256 << 20;
const DISK: &str = "mount -t ext4 /dev/vda /disk && mkdir -p /disk/store";

/// What both lives of the machine know.
const BOTH: &str = r#"
settled="SETTLED"
whole() { ( cd $1 && sha256sum -c /sums >/tmp/compared 2>&1 ) || { echo "other bytes in $1"; grep -v OK /tmp/compared; cat /tmp/agent.log; exit 1; }; }
ids() { tranship devices --agent /tmp/agent.sock | grep -o "^[^ ]*" | grep -v ID | sort; }
"#;

/// Mounts the image by all front ends but one, notes what there is, and loses power while it mounts by that.
const BEFORE: &str = r#"
for name in $settled; do call mount --front-end $name $image /mnt-$name; done
for name in $settled; do grep " /mnt-$name erofs " /proc/mounts; done
# What is here and what is not: a file of each is enough to have read some of the image.
for name in $settled; do cat /mnt-$name/file-0 >/dev/null; done
ids >/disk/ids
sync -f /disk/ids 2>/dev/null || sync
tranship mount --agent /tmp/agent.sock --front-end LATE $image /mnt-LATE &
usleep $(($(od -An -N2 -tu2 /dev/urandom) * 30))
echo "guest: ended with 0"
echo b >/proc/sysrq-trigger
sleep 1000
"#;

/// Looks at what there is in the machine's second life, and takes all of it away.
const AFTER: &str = r#"
while tranship devices --agent /tmp/agent.sock | grep -q recovering; do usleep 100000; done
ids >/tmp/ids
grep -v LATE /tmp/ids >/tmp/found || true
cmp /disk/ids /tmp/found || { echo "other devices than before:"; cat /disk/ids; echo "now:"; cat /tmp/ids /tmp/agent.log; exit 1; }
for name in $settled; do grep " /mnt-$name erofs " /proc/mounts; whole /mnt-$name; echo "$name is whole"; done
if grep -q " /mnt-LATE erofs " /proc/mounts; then whole /mnt-LATE; call umount /mnt-LATE; echo "LATE: mounted and whole"; else echo "LATE: not mounted"; fi
if grep -q LATE /tmp/ids; then call detach $(grep LATE /tmp/ids); fi
[ "$(tranship devices --orphans --output json --agent /tmp/agent.sock)" = "[]" ]
for name in $settled; do call umount /mnt-$name; call detach $(grep $name /tmp/ids); done
[ "$(tranship devices --orphans --output json --agent /tmp/agent.sock)" = "[]" ]
[ -z "$(ls /disk/state/devices)" ] || { ls /disk/state/devices; exit 1; }
if grep -E "/dev/(loop|nbd|ublk)| fuse" /proc/mounts; then echo "mounts are left"; exit 1; fi
for place in /sys/block/loop*/loop /sys/block/ublkb* /sys/block/nbd0/backend; do if [ -e $place ]; then echo "$place is left"; exit 1; fi; done
ls /disk/state/run | grep -v -e "sock$" -e "turn$" -e "^probe$" && exit 1
echo "nothing is left"
"#;

/// What `sha256sum -c` is told of the image's files: of some, since emulated processors add up slowly.
fn sums() -> String {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("file");
    let lines = (0..FILE_COUNT).step_by(4).map(|file| {
        fs::write(&path, content(file)).expect("a file");
        let said = run("sha256sum", &[&path.to_string_lossy()]);
        let sum = said.split(' ').next().expect("a sum");
        format!("{sum}  {}\n", name(file))
    });
    lines.collect()
}

fn make_disk(path: &Path) {
    let file = File::create(path).expect("a disk");
    file.set_len(DISK_LEN).expect("an empty disk");
    run("mkfs.ext4", &["-q", &path.to_string_lossy()]);
}

/// Both lives of a machine: `settled` front ends are mounted when it loses its power, and `late` is being mounted.
fn reboot(kernel: &Kernel, settled: &str, late: &str) {
    let registry = DockerRegistry::start();
    convert(&registry);
    let folder = tempfile::tempdir().expect("a scratch folder");
    let disk = folder.path().join("disk");
    make_disk(&disk);
    let mut guest = with_agent(kernel, &["virtio_pci", "virtio_blk", "ext4"]);
    guest.file("sums", sums().as_bytes());
    // What it has said that it wrote is written when it dies, as on a disk.
    let drive = format!(
        "file={},format=raw,if=virtio,cache=writethrough",
        disk.display()
    );
    guest.arguments(["-drive", &drive]);
    let life = |part: &str| {
        let body = [BOTH, part].concat();
        let body = body.replace("SETTLED", settled).replace("LATE", late);
        script(&registry, "/disk", DISK, &body)
    };
    let first = guest.run(&life(BEFORE), 200).expect_success().text;
    println!("{first}");
    let second = guest.run(&life(AFTER), 300).expect_success().text;
    println!("{second}");
    for name in settled.split(' ') {
        assert!(first.contains(&format!("/mnt-{name} erofs")), "{first}");
        assert!(second.contains(&format!("{name} is whole")), "{second}");
    }
    let is_answered = first.contains(&format!("-{late}\t/mnt-{late}"));
    assert!(
        !is_answered || second.contains(&format!("{late}: mounted and whole")),
        "a mount that was answered is no more: {second}"
    );
    assert!(second.contains("nothing is left"), "{second}");
}

#[test]
fn a_machine_on_linux_6_1_that_loses_power_has_again_what_it_had() {
    reboot(&Kernel::linux_6_1(), "kernel-nbd", "fuse-loop");
}

#[test]
fn a_machine_on_linux_6_12_that_loses_power_has_again_what_it_had() {
    reboot(
        &Kernel::linux_6_12(),
        "fuse-loop erofs-file kernel-nbd",
        "ublk",
    );
}
