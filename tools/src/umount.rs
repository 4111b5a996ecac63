//! `tranship umount`: unmounts what `mount` mounted. The device stays for the next mount; `detach` gives it up.

use crate::agent;
use crate::cli::{Common, UmountArgs};
use crate::failure::Outcome;
use crate::output::{self, Format};

pub(crate) async fn run(common: &Common, args: &UmountArgs) -> Outcome {
    let target = agent::absolute(&args.target)?;
    let mount = agent::client(&args.agent)
        .unmount(&target)
        .await
        .map_err(|error| agent::failure(format!("cannot unmount {}", target.display()), &error))?;
    if common.output == Format::Json {
        output::print_json(&mount)
    } else {
        Ok(())
    }
}
