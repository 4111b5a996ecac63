//! Docker's credential helpers: programs that are asked for one server's credential on their standard input.
//!
//! A helper may hang (a locked key ring, a metadata service that is away), and must not hang us with it.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::{Credential, CredentialsError, Secret};

/// The longest that a helper may take: cloud helpers ask services of their own, people are not waited for.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// The most that is read of a helper's answer, in bytes; real ones are a few kilobytes.
const ANSWER_LEN_MAX: u64 = 64 << 10;

/// How much of a helper's complaint is repeated, in characters.
const COMPLAINT_LEN_MAX: usize = 300;

/// The user name by which helpers say that the secret is an identity token.
const TOKEN_USERNAME: &str = "<token>";

/// What every helper says when it simply has nothing for the server.
const NOT_FOUND: &str = "credentials not found";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks `docker-credential-NAME`, in `dir` or along `PATH`, for the credential of `server`.
pub(super) async fn get(
    dir: Option<&Path>,
    name: &str,
    server: &str,
) -> Result<Credential, CredentialsError> {
    let file_name = format!("docker-credential-{name}");
    let program = dir.map_or_else(
        || Path::new(&file_name).to_owned(),
        |dir| dir.join(&file_name),
    );
    let failed = |why: String| CredentialsError::Helper {
        program: file_name.clone(),
        server: server.to_owned(),
        why,
    };
    if name.contains('/') {
        return Err(failed("a helper's name holds no slash".to_owned()));
    }
    let (success, answer) = tokio::time::timeout(HELPER_TIMEOUT, run(&program, server))
        .await
        .map_err(|_| failed(format!("no answer within {HELPER_TIMEOUT:?}")))?
        .map_err(|source| CredentialsError::RunHelper {
            program: program.display().to_string(),
            source,
        })?;
    if !success {
        let complaint: String = String::from_utf8_lossy(&answer)
            .trim()
            .chars()
            .take(COMPLAINT_LEN_MAX)
            .collect();
        if complaint.contains(NOT_FOUND) {
            return Ok(Credential::Anonymous);
        }
        return Err(failed(complaint));
    }
    // The parser's own words could quote the secret.
    let Answer { username, secret } = serde_json::from_slice(&answer)
        .map_err(|_| failed("its answer is not JSON with Username and Secret".to_owned()))?;
    Ok(if username == TOKEN_USERNAME {
        Credential::IdentityToken(Secret::new(secret))
    } else {
        Credential::Basic {
            username,
            password: Secret::new(secret),
        }
    })
}

async fn run(program: &Path, server: &str) -> io::Result<(bool, Vec<u8>)> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input says in its answer what is wrong.
        match stdin.write_all(server.as_bytes()).await {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(ANSWER_LEN_MAX).read_to_end(&mut answer).await?;
    }
    Ok((child.wait().await?.success(), answer))
}
