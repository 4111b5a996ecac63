//! One question to a plugin and its answer.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::Instant;

use super::config::{Provider, duration};
use crate::credentials::program::{self, Bounds};
use crate::credentials::{Credential, Secret, image_match};
use crate::reference::RepoRef;

/// The kubelet's own patience.
const BOUNDS: Bounds = Bounds {
    time: Duration::from_mins(1),
    answer_len: 1 << 20,
};

/// The longest that an answer is believed, so that no sum of times overflows.
const LIFE_MAX: Duration = Duration::from_hours(24 * 365);

/// The most by which a plugin is asked before its answer's time is over.
const MARGIN_MAX: Duration = Duration::from_mins(5);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Question<'a> {
    api_version: &'a str,
    kind: &'static str,
    image: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    api_version: String,
    kind: String,
    cache_key_type: KeptFor,
    cache_duration: Option<String>,
    auth: Option<BTreeMap<String, Login>>,
}

#[derive(Deserialize)]
struct Login {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// What an answer is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum KeptFor {
    Image,
    Registry,
    Global,
}

/// What a plugin gave.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) kept_for: KeptFor,
    /// By pattern, in the kubelet's order: the last in the alphabet first.
    logins: Vec<(String, Credential)>,
    got_at: Instant,
    /// From when on the plugin is asked again.
    stale_at: Instant,
    ends_at: Instant,
}

impl Answer {
    /// What of it is for `repo`.
    pub(super) fn credentials(&self, repo: &RepoRef) -> Vec<Credential> {
        let logins = self.logins.iter();
        let own = logins.filter(|(pattern, _)| image_match::matches(pattern, repo));
        own.map(|(_, credential)| credential.clone()).collect()
    }

    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        now < self.stale_at
    }

    /// From when on the plugin is asked again.
    pub(super) fn stale_at(&self) -> Instant {
        self.stale_at
    }

    pub(super) fn is_good(&self, now: Instant) -> bool {
        now < self.ends_at
    }

    pub(super) fn is_younger(&self, than: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.got_at) < than
    }
}

/// Asks a plugin about an image. Why it gave nothing is told without a word of its answer.
pub(super) async fn ask(
    provider: &Provider,
    program: &Path,
    repo: &RepoRef,
) -> Result<Answer, String> {
    let question = Question {
        api_version: &provider.api_version,
        kind: "CredentialProviderRequest",
        image: repo.to_string(),
    };
    let question = serde_json::to_vec(&question).map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(&provider.args);
    let env = provider.env.iter();
    command.envs(env.map(|(name, value)| (name, value)));
    let asked_at = Instant::now();
    let ended = program::ask(command, &question, BOUNDS).await;
    let ended = ended.map_err(|error| format!("it cannot be run: {error}"))?;
    let ended = ended.ok_or_else(|| format!("no answer within {:?}", BOUNDS.time))?;
    if !ended.success {
        return Err(match program::complaint(&ended.errors) {
            none if none.is_empty() => "it failed and says nothing".to_owned(),
            complaint => complaint,
        });
    }
    read(&ended.answer, provider, asked_at)
}

fn read(answer: &[u8], provider: &Provider, asked_at: Instant) -> Result<Answer, String> {
    // The parser's own words could quote a secret.
    let written: Written = serde_json::from_slice(answer)
        .map_err(|_| "its answer is no CredentialProviderResponse".to_owned())?;
    if written.kind != "CredentialProviderResponse" || written.api_version != provider.api_version {
        return Err(format!(
            "its answer is {} of {}, not CredentialProviderResponse of {}",
            written.kind, written.api_version, provider.api_version
        ));
    }
    let life = match &written.cache_duration {
        None => provider.default_life,
        Some(text) => {
            duration(text).ok_or_else(|| format!("its cacheDuration {text:?} is no time"))?
        }
    };
    let life = life.min(LIFE_MAX);
    let logins = written.auth.unwrap_or_default().into_iter().rev();
    let logins = logins.map(|(pattern, login)| {
        let credential = Credential::Basic {
            username: login.username,
            password: Secret::new(login.password),
        };
        (pattern, credential)
    });
    Ok(Answer {
        kept_for: written.cache_key_type,
        logins: logins.collect(),
        got_at: asked_at,
        stale_at: asked_at + life.saturating_sub((life / 10).min(MARGIN_MAX)),
        ends_at: asked_at + life,
    })
}
