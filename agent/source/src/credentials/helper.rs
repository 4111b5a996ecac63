//! Docker's credential helpers: programs that are asked for one server's credential.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use super::program::{self, Bounds, Ended};
use super::{Credential, CredentialsError, Secret};

/// The longest that a helper may take: cloud helpers ask services of their own, people are not waited for.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// The most that is read of a helper's answer, in bytes; real ones are a few kilobytes.
const ANSWER_LEN_MAX: u64 = 64 << 10;

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
    let mut command = Command::new(&program);
    command.arg("get");
    let bounds = Bounds {
        time: HELPER_TIMEOUT,
        answer_len: ANSWER_LEN_MAX,
    };
    let ended = program::ask(command, server.as_bytes(), bounds).await;
    let ended = ended.map_err(|source| CredentialsError::RunHelper {
        program: program.display().to_string(),
        source,
    })?;
    let Ended {
        success, answer, ..
    } = ended.ok_or_else(|| failed(format!("no answer within {HELPER_TIMEOUT:?}")))?;
    if !success {
        // Helpers complain where others answer.
        let complaint = program::complaint(&answer);
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
