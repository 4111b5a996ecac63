//! `tranship swarm`: how the swarm stands, as its tracker tells over HTTP, and orders to it.

mod image;
mod seed;
mod show;

use std::path::Path;

use tranship_format::Digest;
use tranship_source::net::JoinToken;
use tranship_source::{ImageReference, Platform};
use tranship_tracker::client::{Client, ClientError, DEFAULT_OPERATOR_TOKEN};
use tranship_tracker::message::BanList;

use crate::cli::{Common, RegistryArgs, SwarmPeerArgs, SwarmVerb, TrackerArgs};
use crate::failure::{Exit, Explain, Failure, Outcome};
use crate::image::Image;
use crate::output::{self, Format};
use crate::progress::Progress;

pub(crate) async fn run(common: &Common, progress: &Progress, verb: &SwarmVerb) -> Outcome {
    match verb {
        SwarmVerb::Status(args) => {
            let status = client(args)?.status().await;
            let status = status.map_err(|error| failure("cannot read the status", &error))?;
            show::status(common, &status)
        }
        SwarmVerb::Peers(args) => {
            let status = client(args)?.status().await;
            let status = status.map_err(|error| failure("cannot list the members", &error))?;
            show::peers(common, &status.members)
        }
        SwarmVerb::Image(args) => image::run(common, args).await,
        SwarmVerb::Seed(args) => seed::run(common, progress, args).await,
        SwarmVerb::Ban(args) => {
            let list = client(&args.tracker)?.ban(&args.peer).await;
            banned(common, args, list, "ban")
        }
        SwarmVerb::Unban(args) => {
            let list = client(&args.tracker)?.unban(&args.peer).await;
            banned(common, args, list, "unban")
        }
    }
}

fn banned(
    common: &Common,
    args: &SwarmPeerArgs,
    list: Result<BanList, ClientError>,
    deed: &str,
) -> Outcome {
    let list = list.map_err(|error| failure(&format!("cannot {deed} {}", args.peer), &error))?;
    match common.output {
        Format::Json => output::print_json(&list),
        Format::Table => Ok(()),
    }
}

/// A client of the tracker that the command line names, with the operator token if there is one.
fn client(args: &TrackerArgs) -> Outcome<Client> {
    client_of(&args.tracker, args.token_file.as_deref())
}

/// The same of one at `url`.
pub(crate) fn client_of(url: &str, token_file: Option<&Path>) -> Outcome<Client> {
    let token = match token_file {
        Some(path) => Some(token(path)?),
        // Not there, or not ours to read: the tracker says whether it matters.
        None => token(Path::new(DEFAULT_OPERATOR_TOKEN)).ok(),
    };
    Client::new(url, token).map_err(|error| failure("cannot ask the tracker", &error))
}

fn token(path: &Path) -> Outcome<JoinToken> {
    let what = || format!("cannot read the operator token in {}", path.display());
    let text = std::fs::read_to_string(path).explain(what)?;
    if text.trim().is_empty() {
        return Err(Failure::new(Exit::Usage, what()).why("the file is empty"));
    }
    Ok(JoinToken::new(&text))
}

/// A call's error as a failure: the HTTP status decides the exit code.
pub(crate) fn failure(what: &str, error: &ClientError) -> Failure {
    let exit = match error {
        ClientError::Url { .. } => Exit::Usage,
        ClientError::Unreachable { .. } => Exit::Unavailable,
        ClientError::Refused { status, .. } => match status {
            400 => Exit::Usage,
            401 | 403 => Exit::Denied,
            404 => Exit::NotFound,
            422 | 501 => Exit::Unsupported,
            429 | 502..=504 => Exit::Unavailable,
            _ => Exit::Failed,
        },
        _ => Exit::Failed,
    };
    let failure = Failure::new(exit, what).because(error);
    match error {
        ClientError::Refused { status: 401, .. } => failure.next(format!(
            "give the operator token: `--token-file FILE`, with what is in {DEFAULT_OPERATOR_TOKEN} on the tracker's machine"
        )),
        _ => match error.hint() {
            Some(hint) => failure.next(hint),
            None => failure,
        },
    }
}

/// A reference and the digest of the manifest it leads to: of an index the entry for `platform`, in place of an original
/// the converted image beside it.
async fn resolve(
    named: &str,
    platform: Option<&Platform>,
    args: &RegistryArgs,
) -> Outcome<(ImageReference, Digest)> {
    let reference = crate::image::parse_reference(named)?;
    let image = Image::open(named, platform, args).await?;
    Ok((reference, image.manifest.digest()))
}
