//! Errors say what, why and what next, and their codes are the ones that scripts were promised.

use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::Value;

use crate::fixture::{Entry, Layout, Stored, tranship};

fn fails(args: &[&str], code: i32) -> String {
    let ran = tranship(args);
    assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
    assert!(ran.stdout.is_empty(), "nothing on stdout");
    for word in ["error: ", "\n  why: ", "\n  next: "] {
        assert!(ran.stderr.contains(word), "{args:?}: {}", ran.stderr);
    }
    ran.stderr
}

#[test]
fn bad_references_and_bad_options_are_usage() {
    for reference in ["", "https://h/r", "docker://h/UPPER", "h/r:ta:g@sha256:1"] {
        fails(&["inspect", reference], 2);
    }
    for args in [
        &["convert", "--block-size", "64KiB", "oci:a", "oci:b"][..],
        &["convert", "--block-size", "5KiB", "oci:a", "oci:b"],
        &["convert", "--chunk-size", "1", "oci:a", "oci:b"],
        &["ls", "h/r:/a", "/b"],
        &["attach", "--front-end", "magic", "h/r"],
    ] {
        assert_eq!(tranship(args).code, 2, "{args:?}");
    }
    for args in [
        &["frobnicate"][..],
        &["convert"],
        &["demo", "--link", "fast"],
        &["demo", "--nodes", "0"],
    ] {
        assert_eq!(tranship(args).code, 2, "{args:?}");
    }
    let digest = format!("oci:b@{}", tranship_format::Digest::of(b"x"));
    fails(&["convert", "oci:a", &digest], 2);
}

#[test]
fn what_is_not_there_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    fails(
        &[
            "inspect",
            &format!("oci:{}", dir.path().join("no").display()),
        ],
        4,
    );
    let layout = Layout::new()
        .layer(Stored::Plain, &[("a", Entry::File(b"a"))])
        .finish();
    let message = fails(
        &["inspect", &format!("oci:{}:other", layout.path().display())],
        4,
    );
    assert!(message.contains("v1"), "it says what there is: {message}");
}

#[test]
fn an_image_that_is_not_converted_is_shown_but_not_read() {
    let layout = Layout::new()
        .layer(Stored::Plain, &[("a", Entry::File(b"a"))])
        .finish();
    let shown = tranship(&["inspect", "--output", "json", &layout.reference()]).json();
    assert_eq!(shown["layers"][0]["converted"], false);
    let message = fails(&["ls", &layout.reference()], 8);
    assert!(message.contains("tranship convert"), "{message}");
}

/// A server that answers each request with the same status; its address.
fn registry_that_answers(status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _read = stream.read(&mut request).unwrap();
            write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            .unwrap();
        }
    });
    address.to_string()
}

#[test]
fn a_registrys_answers_have_their_codes() {
    for (status, code) in [
        ("404 Not Found", 4),
        ("403 Forbidden", 5),
        ("401 Unauthorized", 5),
        ("503 Busy", 6),
    ] {
        let reference = format!("docker://{}/team/app:v1", registry_that_answers(status));
        fails(&["inspect", "--retry-for", "10ms", &reference], code);
    }
}

#[test]
fn who_does_not_answer_is_unavailable() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    fails(
        &[
            "inspect",
            "--retry-for",
            "10ms",
            &format!("docker://{address}/r:t"),
        ],
        6,
    );
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    for verb in [
        &["devices"][..],
        &["attach", "h/r"],
        &["umount", "/mnt"],
        &["detach", "x"],
        &["mount", "h/r", "/mnt"],
    ] {
        let agent = ["--agent", socket.to_str().unwrap()];
        let message = fails(&[verb, &agent[..]].concat(), 6);
        assert!(message.contains("tranship-agent"), "{message}");
    }
}

#[test]
fn errors_are_events_when_progress_is() {
    let ran = tranship(&["inspect", "--progress", "json", "https://h/r"]);
    let event: Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(event["event"], "error");
    assert_eq!(event["exit"], "usage");
}

#[test]
fn settings_are_shown_with_where_they_come_from() {
    let shown = tranship(&["config", "--agent", "/x.sock", "--output", "json"]).json();
    let agent = shown
        .as_array()
        .unwrap()
        .iter()
        .find(|setting| setting["name"] == "agent")
        .unwrap();
    assert_eq!(
        (&agent["value"], &agent["from"]),
        (&"/x.sock".into(), &"command line".into())
    );
}
