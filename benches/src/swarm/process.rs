//! A process of ours, or the registry's, on one host of the lab.

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::lab;

/// The longest wait for an answer of a process on this machine.
const ANSWER: Duration = Duration::from_mins(1);
/// Lines of a log that are shown when its process fails.
const SHOWN_LINES: usize = 15;

/// A running process; it is killed with the value.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    /// The line with which it said that it was ready, if it does.
    pub(crate) ready: serde_json::Value,
}

impl Process {
    /// Starts a program in a namespace, with its errors in `log`. `says_ready`: it prints a line of JSON when it is.
    pub(crate) fn start(
        namespace: &str,
        program: &Path,
        arguments: &[&str],
        log: PathBuf,
        says_ready: bool,
    ) -> Result<Self> {
        let errors = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let mut child = Command::new("ip")
            .args(["netns", "exec", namespace])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(if says_ready {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let output = child.stdout.take();
        let mut process = Self {
            child,
            log,
            ready: serde_json::Value::Null,
        };
        if let Some(output) = output {
            let mut line = String::new();
            BufReader::new(output)
                .read_line(&mut line)
                .context("read its first line")?;
            process.ready = serde_json::from_str(&line).with_context(|| {
                format!(
                    "{} did not say that it is ready; it logged:\n{}",
                    program.display(),
                    process.last_lines()
                )
            })?;
        }
        Ok(process)
    }

    /// The end of its log.
    pub(crate) fn last_lines(&self) -> String {
        last_lines(&self.log)
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.check_runs()?;
        self.child.kill().context("kill a process")?;
        self.child.wait().context("wait for a process")?;
        Ok(())
    }

    /// Asks it to stop and waits until it has, which must be a success.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.check_runs()?;
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("a pid")?, Signal::TERM).context("stop a process")?;
        let status = self.child.wait().context("wait for a process")?;
        ensure!(
            status.success(),
            "a process that was asked to stop ended badly ({status}), which logged in {}:\n{}",
            self.log.display(),
            self.last_lines()
        );
        Ok(())
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Fails if it has ended though nobody ended it.
    pub(crate) fn check_runs(&mut self) -> Result<()> {
        match self.child.try_wait().context("look at a process")? {
            None => Ok(()),
            Some(status) => bail!(
                "a process ended by itself ({status}), which logged in {}:\n{}",
                self.log.display(),
                self.last_lines()
            ),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Whoever wants to know stops it first.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of a log.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let shown = lines.len().saturating_sub(SHOWN_LINES);
    lines.get(shown..).unwrap_or_default().join("\n")
}

/// The body of a GET from a listener in a namespace.
pub(crate) fn get(namespace: &str, address: &str, path: &str) -> Result<String> {
    lab::inside(namespace, || {
        let mut stream =
            TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream
            .set_read_timeout(Some(ANSWER))
            .context("a time limit")?;
        exchange(&mut stream, "GET", path, "")
    })
}

/// One call of an agent's control API.
pub(crate) fn call(socket: &Path, method: &str, path: &str, body: &str) -> Result<String> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream
        .set_read_timeout(Some(ANSWER))
        .context("a time limit")?;
    exchange(&mut stream, method, path, body)
}

fn exchange(
    stream: &mut (impl Read + Write),
    method: &str,
    path: &str,
    body: &str,
) -> Result<String> {
    let len = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {len}\r\n\r\n{body}"
    )
    .context("send a request")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("read an answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("a whole answer")?;
    ensure!(
        head.starts_with("HTTP/1.1 2"),
        "{method} {path}: {head}\n{body}"
    );
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that is no part of a lab.
    fn process(folder: &Path, script: &str) -> Process {
        Process {
            child: Command::new("sh").args(["-c", script]).spawn().unwrap(),
            log: folder.join("log"),
            ready: serde_json::Value::Null,
        }
    }

    #[test]
    fn a_process_that_ends_by_itself_is_a_failure_that_shows_its_log() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("log"), "out of luck").unwrap();
        for script in ["exit 3", "exit 0"] {
            let mut ended = process(folder.path(), script);
            ended.child.wait().unwrap();
            for outcome in [ended.check_runs(), ended.stop(), ended.kill()] {
                let said = outcome.unwrap_err().to_string();
                assert!(said.contains("out of luck"), "{said}");
            }
        }
    }

    #[test]
    fn a_process_that_runs_is_killed_without_a_word() {
        let folder = tempfile::tempdir().unwrap();
        let mut runs = process(folder.path(), "exec sleep 600");
        runs.check_runs().unwrap();
        runs.kill().unwrap();
    }
}
