//! The NBD server against clients that others wrote: the crate `nbd`, libnbd's tools, qemu's.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nbd::client::{NbdClient, handshake};
use tempfile::TempDir;
use tranship_device::{BlockRead, Export, Memory, NbdError, NbdOptions, NbdServer};

use crate::ground::{Gate, Gated, Lies, pattern, random, until_gone};

const LEN: usize = 9 << 20;

/// Data with holes of several sizes in it.
fn sparse() -> Vec<u8> {
    let mut bytes = pattern(LEN);
    bytes[1 << 20..3 << 20].fill(0);
    bytes[5 << 20..(5 << 20) + 4096].fill(0);
    bytes[8 << 20..].fill(0);
    bytes
}

fn export(name: &str, content: impl BlockRead + 'static) -> Export {
    Export {
        name: name.to_owned(),
        description: format!("the {name}"),
        content: Arc::new(content),
    }
}

fn serve(dir: &TempDir, exports: Vec<Export>) -> NbdServer {
    NbdServer::bind(&dir.path().join("nbd.sock"), exports, NbdOptions::default()).unwrap()
}

fn client(server: &NbdServer, name: &str) -> NbdClient<UnixStream> {
    let mut stream = UnixStream::connect(server.path()).unwrap();
    let export = handshake(&mut stream, name.as_bytes()).unwrap();
    NbdClient::new(stream, &export)
}

/// Runs an outside program; nothing, and a word on standard error, where it is not installed.
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("left out: {program}: {error}");
            None
        }
    }
}

/// Runs an outside program that must succeed, and gives what it prints.
fn succeed(program: &str, arguments: &[&str]) -> Option<String> {
    let output = run(program, arguments)?;
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {talk}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_independent_client_reads_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = pattern(LEN);
    let server = serve(
        &dir,
        vec![
            export("one", Memory::new(bytes.clone())),
            export("two", Memory::new(vec![2; 1 << 20])),
        ],
    );
    let mode = fs::metadata(server.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for name in ["one", ""] {
        let mut client = client(&server, name);
        let mut next = random(5);
        let mut buf = vec![0; 64 << 10];
        for _ in 0..100 {
            let offset = next((LEN - buf.len()) / 512) * 512;
            client.seek(SeekFrom::Start(offset as u64)).unwrap();
            client.read_exact(&mut buf).unwrap();
            assert!(buf[..] == bytes[offset..offset + buf.len()]);
        }
    }
    let mut two = Vec::new();
    client(&server, "two")
        .take(1 << 20)
        .read_to_end(&mut two)
        .unwrap();
    assert!(two == vec![2; 1 << 20]);
    server.stop().unwrap();
}

#[test]
fn many_clients_at_once_read_what_they_should() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = pattern(LEN);
    let server = serve(&dir, vec![export("one", Memory::new(bytes.clone()))]);
    thread::scope(|scope| {
        for seed in 1..9 {
            let (bytes, server) = (&bytes, &server);
            scope.spawn(move || {
                let mut client = client(server, "one");
                let mut next = random(seed);
                let mut buf = vec![0; 4096];
                for _ in 0..200 {
                    let offset = next(LEN / 4096) * 4096;
                    client.seek(SeekFrom::Start(offset as u64)).unwrap();
                    client.read_exact(&mut buf).unwrap();
                    assert!(buf[..] == bytes[offset..offset + 4096]);
                }
            });
        }
    });
    server.stop().unwrap();
}

#[test]
fn nbdinfo_lists_every_export_and_its_zeroes() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(
        &dir,
        vec![
            export("one", Memory::new(sparse())),
            export("two", Memory::new(vec![2; 1 << 20])),
        ],
    );
    let Some(list) = succeed("nbdinfo", &["--list", "--json", &server.uri("")]) else {
        return;
    };
    for expected in [
        "\"export-name\": \"one\"",
        "\"export-name\": \"two\"",
        "\"description\": \"the two\"",
        "\"export-size\": 9437184",
        "\"export-size\": 1048576",
        "\"is_read_only\": true",
        "\"can_multi_conn\": true",
        "\"can_df\": true",
        "\"can_cache\": true",
        "\"block_size_maximum\": 33554432",
        "base:allocation",
        "\"structured\": true",
    ] {
        assert!(list.contains(expected), "{expected} in {list}");
    }
    let map = succeed("nbdinfo", &["--map", &server.uri("one")]).unwrap();
    let runs: Vec<Vec<u64>> = map
        .lines()
        .map(|line| {
            let fields = line.split_whitespace().take(3);
            fields.map(|field| field.parse().unwrap()).collect()
        })
        .collect();
    let mib = 1 << 20;
    assert_eq!(
        runs,
        [
            [0, mib, 0],
            [mib, 2 * mib, 3],
            [3 * mib, 2 * mib, 0],
            [5 * mib, 4096, 3],
            [5 * mib + 4096, 3 * mib - 4096, 0],
            [8 * mib, mib, 3],
        ]
    );
}

#[test]
fn copies_by_libnbd_and_qemu_are_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = sparse();
    let server = serve(&dir, vec![export("one", Memory::new(bytes.clone()))]);
    let uri = server.uri("one");
    let copy = dir.path().join("copy");
    let copies: [(&str, &[&str]); 3] = [
        ("nbdcopy", &["--connections=4", &uri, text(&copy)]),
        (
            "nbdcopy",
            &["--connections=1", "--requests=64", &uri, text(&copy)],
        ),
        ("qemu-img", &["convert", "-O", "raw", &uri, text(&copy)]),
    ];
    for (program, arguments) in copies {
        if succeed(program, arguments).is_some() {
            assert!(fs::read(&copy).unwrap() == bytes, "{program}");
            fs::remove_file(&copy).unwrap();
        }
    }
    let source = dir.path().join("source");
    fs::write(&source, &bytes).unwrap();
    succeed(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", text(&source), &uri],
    );
}

#[test]
fn qemu_io_reads_at_odd_places_and_may_not_write() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&dir, vec![export("one", Memory::new(vec![0x5a; LEN]))]);
    let uri = server.uri("one");
    let io = |command: &str| run("qemu-io", &["-r", "-f", "raw", "-c", command, &uri]);
    for command in [
        "read -P 0x5a 0 9M",
        "read -P 0x5a 12345 1",
        "read -P 0x5a 1048575 2",
        "flush",
    ] {
        let Some(output) = io(command) else { return };
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{command}: {said}");
        assert!(!said.contains("failed"), "{command}: {said}");
    }
    let writing = run("qemu-io", &["-f", "raw", "-c", "write 0 512", &uri]).unwrap();
    assert!(!writing.status.success());
}

#[test]
fn an_error_reaches_the_client_and_the_connection_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let content = Lies::fails_at(pattern(LEN), 5 << 20);
    let server = serve(&dir, vec![export("one", content)]);
    let Some(output) = run(
        "qemu-io",
        &[
            "-r",
            "-f",
            "raw",
            "-c",
            "read 5M 4k",
            "-c",
            "read 0 4k",
            &server.uri("one"),
        ],
    ) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("read failed: Input/output error"), "{said}");
    assert!(said.contains("read 4096/4096 bytes at offset 0"), "{said}");
    let copied = run("nbdcopy", &[&server.uri("one"), "null:"]).unwrap();
    assert!(!copied.status.success());
}

#[test]
fn stopping_disconnects_clients_and_names_who_still_reads() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::shut();
    let content = Gated::new(pattern(LEN), Arc::clone(&gate));
    let options = NbdOptions {
        stop_grace: Duration::from_millis(100),
        ..NbdOptions::default()
    };
    let path = dir.path().join("nbd.sock");
    let server = NbdServer::bind(&path, vec![export("one", content)], options).unwrap();
    let mut idle = client(&server, "one");
    let mut reading = client(&server, "one");
    let reader = thread::spawn(move || reading.read_exact(&mut [0; 512]));
    gate.wait_for_readers(1);
    let stopped = server.stop();
    assert!(matches!(stopped, Err(NbdError::StillReading { .. })));
    assert!(!path.exists());
    assert!(reader.join().unwrap().is_err());
    assert!(idle.read_exact(&mut [0; 512]).is_err());
    gate.open();
}

#[test]
fn connections_above_the_bound_are_closed_and_room_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = NbdOptions {
        connection_count: 2,
        ..NbdOptions::default()
    };
    let path = dir.path().join("nbd.sock");
    let exports = vec![export("one", Memory::new(pattern(LEN)))];
    let server = NbdServer::bind(&path, exports, options).unwrap();
    let (first, second) = (client(&server, "one"), client(&server, "one"));
    let mut third = UnixStream::connect(&path).unwrap();
    assert_eq!(third.read(&mut [0; 18]).unwrap(), 0);
    drop((first, second));
    until_gone(|| {
        let mut again = UnixStream::connect(&path).unwrap();
        again.read(&mut [0; 18]).unwrap() == 0
    });
    server.stop().unwrap();
}
