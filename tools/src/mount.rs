//! `tranship mount`: mounts an image's filesystem, attaching the image first if nobody has.

use tranship_agent::control::{DeviceInfo, FrontEndChoice, MountRequest};

use crate::agent;
use crate::attach::{attach, front_end, unserved};
use crate::cli::{Common, MountArgs};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Format};

pub(crate) async fn run(common: &Common, args: &MountArgs) -> Outcome {
    let client = agent::client(&args.agent);
    let target = agent::absolute(&args.target)?;
    let front_end = front_end(&args.front_end)?;
    let mountable = |device: &DeviceInfo| {
        let name = device.front_end;
        let is_wanted =
            front_end == FrontEndChoice::Auto || name.to_string() == front_end.to_string();
        is_wanted && name.is_mountable()
    };
    let (device, ours) = match agent::find(&client, &args.reference, mountable).await? {
        Some(device) => (device, false),
        None => (
            attach(
                &client,
                &args.reference,
                front_end,
                args.plain_http,
                unserved(args.unserved.as_deref())?,
            )
            .await?,
            true,
        ),
    };
    let request = MountRequest {
        target: target.clone(),
        writable: args.writable,
    };
    match client.mount(&device.id, &request).await {
        Ok(mount) if common.output == Format::Json => output::print_json(&mount),
        Ok(mount) => output::print(&format!("{}\t{}\n", mount.device, mount.target.display())),
        Err(error) => {
            let failure = agent::failure(
                format!("cannot mount {} at {}", args.reference, target.display()),
                &error,
            );
            // Nobody asked for the device itself: without its mount it is left over.
            if !ours {
                return Err(failure);
            }
            match client.detach(&device.id).await {
                Err(left) => Err(Failure::new(Exit::Partial, failure.what())
                    .why(failure.reason())
                    .why(format!("and device {} is left over: {left}", device.id))
                    .next(format!("`tranship detach {}`", device.id))),
                Ok(_) => Err(failure),
            }
        }
    }
}
