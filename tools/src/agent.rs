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
    let mut found = all(client, named).await?.into_iter();
    Ok(found.find(|device| device.id == named || fit(device)))
}

/// The devices that a user means: the one with that id, else all that were attached by that reference.
async fn all(client: &Client, named: &str) -> Outcome<Vec<DeviceInfo>> {
    let devices = client
        .devices()
        .await
        .map_err(|error| failure("cannot list the devices".into(), &error))?;
    let is_id = devices.iter().any(|device| device.id == named);
    let is_meant = |device: &DeviceInfo| {
        if is_id {
            device.id == named
        } else {
            same_reference(&device.reference, named)
        }
    };
    Ok(devices.into_iter().filter(is_meant).collect())
}

/// The devices that a user means, by id or reference, of which there is at least one; none is a failure.
pub(crate) async fn devices(client: &Client, named: &str) -> Outcome<Vec<DeviceInfo>> {
    let found = all(client, named).await?;
    if found.is_empty() {
        return Err(Failure::new(Exit::NotFound, format!("no device {named}"))
            .why("the agent has none with that id or reference")
            .next("`tranship devices` lists what is attached"));
    }
    Ok(found)
}

/// The one device that a user means, by id or reference; none is a failure, and so are several.
pub(crate) async fn device(client: &Client, named: &str) -> Outcome<DeviceInfo> {
    let mut found = devices(client, named).await?;
    let last = found.pop().filter(|_| found.is_empty());
    last.ok_or_else(|| {
        Failure::new(Exit::Usage, format!("{named} is more than one device"))
            .why("it is attached by several front ends")
            .next("name one by its id, which `tranship devices` lists")
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
