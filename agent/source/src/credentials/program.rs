//! Programs that are asked for credentials: a question on their standard input, an answer on their standard output.
//!
//! One may hang (a locked key ring, a metadata service that is away), and must not hang us with it; one may be wrong, and must not
//! fill our memory. What it answers is a secret, and is in no message.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// How much of a complaint is repeated, in characters.
const COMPLAINT_LEN_MAX: usize = 300;

/// How much of what it says on standard error is read, in bytes.
const ERRORS_LEN_MAX: u64 = 4096;

/// What bounds a program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The longest that it may take.
    pub(super) time: Duration,
    /// The most that is read of its answer, in bytes.
    pub(super) answer_len: u64,
}

/// How a program ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) success: bool,
    pub(super) answer: Vec<u8>,
    pub(super) errors: Vec<u8>,
}

/// Asks a program; `None` if it took too long, and then it is killed.
pub(super) async fn ask(
    mut command: Command,
    question: &[u8],
    bounds: Bounds,
) -> io::Result<Option<Ended>> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    match tokio::time::timeout(bounds.time, run(command, question, bounds.answer_len)).await {
        Ok(ended) => ended.map(Some),
        Err(_) => Ok(None),
    }
}

async fn run(mut command: Command, question: &[u8], answer_len: u64) -> io::Result<Ended> {
    let mut child = command.spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A program that does not read its question says in its answer what is wrong.
            match stdin.write_all(question).await {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    };
    let (mut answer, mut errors) = (Vec::new(), Vec::new());
    let read_answer = async {
        match stdout {
            // What is too long is closed to the program, which then ends.
            Some(stdout) => stdout.take(answer_len).read_to_end(&mut answer).await,
            None => Ok(0),
        }
    };
    let read_errors = async {
        match stderr {
            Some(mut stderr) => {
                let mut begin = (&mut stderr).take(ERRORS_LEN_MAX);
                begin.read_to_end(&mut errors).await?;
                // The rest is read and thrown away, so that it does not wait for us.
                tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await
            }
            None => Ok(0),
        }
    };
    let (written, read, complained) = tokio::join!(write, read_answer, read_errors);
    written?;
    read?;
    complained?;
    let success = child.wait().await?.success();
    Ok(Ended {
        success,
        answer,
        errors,
    })
}

/// The beginning of what a program complained of.
pub(super) fn complaint(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim().chars().take(COMPLAINT_LEN_MAX).collect()
}
