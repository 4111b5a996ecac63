//! Calls to the agent's control API, with failures that scripts can tell apart.

use std::path::{Path, PathBuf};

use tranship_agent::control::{Client, ControlError, DeviceInfo};

use crate::cli::AgentArgs;
use crate::failure::{Exit, Failure, Outcome};

/// A client of the agent that the command line names.
pub(crate) fn client(args: &AgentArgs) -> Client {
    Client::connect(args.agent.clone())
}

/// A call's error as a failure: the HTTP status decides the exit code.
pub(crate) fn failure(what: String, error: &ControlError) -> Failure {
    let exit = match error {
        ControlError::Unreachable { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            Exit::Denied
        }
        ControlError::Unreachable { .. } | ControlError::Exchange { .. } => Exit::Unavailable,
        ControlError::Refused { status, .. } => match status {
            400 | 422 => Exit::Usage,
            401 | 403 => Exit::Denied,
            404 => Exit::NotFound,
            501 => Exit::Unsupported,
            502..=504 => Exit::Unavailable,
            _ => Exit::Failed,
        },
        _ => Exit::Failed,
    };
    let failure = Failure::new(exit, what).because(error);
    match error.hint() {
        Some(hint) => failure.next(hint),
        None => failure,
    }
}

/// An absolute path, since the agent does not share our working directory. Symbolic links on the way are kept: the
/// agent mounts where the user said.
pub(crate) fn absolute(path: &Path) -> Outcome<PathBuf> {
    std::path::absolute(path).map_err(|error| {
        Failure::new(Exit::Usage, format!("cannot use {}", path.display())).because(&error)
    })
}

/// The device that a user means: by id, else by reference among those that are `fit`.
pub(crate) async fn find(
    client: &Client,
    named: &str,
    fit: impl Fn(&DeviceInfo) -> bool,
) -> Outcome<Option<DeviceInfo>> {
    let devices = client
        .devices()
        .await
        .map_err(|error| failure("cannot list the devices".into(), &error))?;
    let by_id = devices.iter().find(|device| device.id == named);
    Ok(by_id
        .or_else(|| {
            devices
                .iter()
                .find(|device| fit(device) && same_reference(&device.reference, named))
        })
        .cloned())
}

/// The device that a user means, by id or reference; one that is not there is a failure.
pub(crate) async fn device(client: &Client, named: &str) -> Outcome<DeviceInfo> {
    find(client, named, |_| true).await?.ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("no device {named}"))
            .why("the agent has none with that id or reference")
            .next("`tranship devices` lists what is attached")
    })
}

/// The same reference, written with `docker://` or without.
fn same_reference(one: &str, other: &str) -> bool {
    let plain = |text: &str| text.strip_prefix("docker://").unwrap_or(text).to_owned();
    plain(one) == plain(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_of_a_registry_makes_no_difference() {
        assert!(same_reference("docker://h/r:t", "h/r:t"));
        assert!(!same_reference("oci:/h/r", "h/r"));
    }

    #[test]
    fn paths_are_made_absolute() {
        assert!(absolute(Path::new("mnt")).unwrap().is_absolute());
        assert!(absolute(Path::new("")).is_err());
    }
}
