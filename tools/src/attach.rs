//! `tranship attach`: makes a device of an image through the agent.

use tranship_agent::control::{
    AttachRequest, Client, DeviceInfo, FrontEndChoice, FrontEndName, Unserved,
};

use crate::agent;
use crate::cli::{AttachArgs, Common};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Format};

pub(crate) async fn run(common: &Common, args: &AttachArgs) -> Outcome {
    let front_end = front_end(&args.front_end)?;
    let client = agent::client(&args.agent);
    let unserved = unserved(args.unserved.as_deref())?;
    let device = attach(
        &client,
        &args.reference,
        front_end,
        args.plain_http,
        unserved,
    )
    .await?;
    match common.output {
        Format::Table => output::print(&table(&device)),
        Format::Json => output::print_json(&device),
    }
}

/// The device and, where a virtual machine is to use it, what qemu is started with for that.
fn table(device: &DeviceInfo) -> String {
    let mut table = format!("{}\t{}\n", device.id, device.path.display());
    if let Some(arguments) = qemu_arguments(device) {
        table.push_str(&arguments);
        table.push('\n');
    }
    table
}

/// What qemu is started with to have the device as a disk; nothing where it is a device of this machine.
fn qemu_arguments(device: &DeviceInfo) -> Option<String> {
    // qemu splits its options at commas, and takes two for one.
    let path = device.path.display().to_string().replace(',', ",,");
    match device.front_end {
        FrontEndName::Nbd => Some(format!(
            "-drive file.driver=nbd,file.server.type=unix,file.server.path={path},file.reconnect-delay=600,format=raw,if=virtio,read-only=on"
        )),
        FrontEndName::VhostUserBlk => Some(format!(
            "-chardev socket,id=tranship,path={path},reconnect=1 -device vhost-user-blk-pci,chardev=tranship \
             -object memory-backend-memfd,id=memory,size=MEMORY,share=on -machine memory-backend=memory"
        )),
        _ => None,
    }
}

/// The front end that a user names.
pub(crate) fn front_end(name: &str) -> Outcome<FrontEndChoice> {
    name.parse().map_err(|why: String| {
        Failure::new(Exit::Usage, format!("cannot use the front end `{name}`")).why(why)
    })
}

/// What a user wants of reads that no source serves.
pub(crate) fn unserved(word: Option<&str>) -> Outcome<Option<Unserved>> {
    let parsed = word.map(str::parse).transpose();
    parsed.map_err(|why: String| {
        Failure::new(Exit::Usage, "cannot use that for --unserved".to_owned()).why(why)
    })
}

/// Attaches an image; the agent shares a device that is there already.
pub(crate) async fn attach(
    client: &Client,
    reference: &str,
    front_end: FrontEndChoice,
    plain_http: bool,
    unserved: Option<Unserved>,
) -> Outcome<DeviceInfo> {
    let request = AttachRequest {
        reference: reference.to_owned(),
        front_end,
        plain_http: plain_http.then_some(true),
        unserved,
    };
    client
        .attach(&request)
        .await
        .map_err(|error| agent::failure(format!("cannot attach {reference}"), &error))
}
