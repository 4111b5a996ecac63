//! One node's start of the image, timed: from nothing to a command that has succeeded.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use tokio::process::Command;
use tranship_agent::control::{DeviceInfo, FrontEndChoice, MountRequest};
use tranship_format::erofs::Filesystem;

use super::compare::View;
use super::nbd_device::{NbdDevice, export_name};
use super::scene::Scene;
use super::stage::{Agent, Node, Stage};
use crate::agent;
use crate::attach::attach;
use crate::failure::{Exit, Explain, Failure, Outcome};
use crate::image::blocking;

/// Whether this process may mount and change its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// It may: the kernel mounts the image and the command runs inside.
    Mount,
    /// It may not: the image is read through the agent's NBD socket, and the files that the command needs are read whole.
    ReadOnly,
}

impl Rights {
    /// What this process may do here, found out by trying: root inside a container often may not mount.
    pub(crate) fn probe() -> Self {
        let root = rustix::process::geteuid().is_root();
        let fuse = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .is_ok();
        let may_mount = rustix::thread::capabilities(None).is_ok_and(|sets| {
            sets.effective
                .contains(rustix::thread::CapabilitySet::SYS_ADMIN)
        });
        if root && fuse && may_mount {
            Self::Mount
        } else {
            Self::ReadOnly
        }
    }
}

/// Pulls everything, unpacks it, runs the command. The files stay in `download` and `root` of the returned directory.
pub(crate) async fn eagerly(
    stage: &Stage,
    node: &Node,
    scene: &Scene,
    rights: Rights,
) -> Outcome<(Duration, PathBuf)> {
    let dir = stage.make_dir(&format!("pull{}", node.number))?;
    let (download, root) = (dir.join("download"), dir.join("root"));
    let begin = Instant::now();
    let pulling = Command::new(this_program()?)
        .args(["demo-step", "pull", &scene.original, "--download"])
        .arg(&download)
        .arg("--root")
        .arg(&root)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .explain(|| "cannot start a full pull".into())?;
    let pid = pulling.id();
    if let Some(pid) = pid {
        stage.machines.place(pid, &node.link);
    }
    let output = pulling
        .wait_with_output()
        .await
        .explain(|| "a full pull died".into())?;
    if let Some(pid) = pid {
        stage.machines.remove(pid);
    }
    if !output.status.success() {
        return Err(Failure::new(Exit::Failed, "a full pull failed")
            .why(String::from_utf8_lossy(&output.stderr).trim()));
    }
    match rights {
        Rights::Mount => run_inside(&root, &scene.command).await?,
        Rights::ReadOnly => read_needed(View::Mounted(root.clone()), scene).await?,
    }
    let took = begin.elapsed();
    Ok((took, dir))
}

/// Attaches, mounts and runs the command.
pub(crate) async fn lazily(
    agent: &Agent,
    scene: &Scene,
    rights: Rights,
) -> Outcome<(Duration, DeviceInfo)> {
    let begin = Instant::now();
    let device = match rights {
        Rights::Mount => {
            let device = attach(
                &agent.client,
                &scene.lazy,
                FrontEndChoice::Auto,
                false,
                None,
            )
            .await?;
            let request = MountRequest {
                target: agent.root(),
                writable: true,
            };
            agent
                .client
                .mount(&device.id, &request)
                .await
                .map_err(|error| agent::failure(format!("cannot mount {}", scene.lazy), &error))?;
            run_inside(&agent.root(), &scene.command).await?;
            device
        }
        Rights::ReadOnly => {
            let device =
                attach(&agent.client, &scene.lazy, FrontEndChoice::Nbd, false, None).await?;
            read_needed(view(&device, agent, rights).await?, scene).await?;
            device
        }
    };
    Ok((begin.elapsed(), device))
}

/// How an attached image is looked at.
pub(crate) async fn view(device: &DeviceInfo, agent: &Agent, rights: Rights) -> Outcome<View> {
    if rights == Rights::Mount {
        return Ok(View::Mounted(agent.root()));
    }
    let (path, uri) = (
        device.path.clone(),
        device.nbd_uri.clone().unwrap_or_default(),
    );
    let what = "cannot read the device through its NBD socket";
    blocking(move || {
        let nbd = NbdDevice::connect(&path, export_name(&uri)).explain(|| what.into())?;
        let filesystem = Filesystem::open(nbd).explain(|| what.into())?;
        Ok(View::Device(Box::new(filesystem)))
    })
    .await?
}

/// Reads whole what the command would need; where that is not known, the root directory.
async fn read_needed(view: View, scene: &Scene) -> Outcome {
    let needed = scene.needed.clone();
    blocking(move || {
        let root = [PathBuf::from("/")];
        for path in if needed.is_empty() {
            &root[..]
        } else {
            &needed
        } {
            view.read(path)
                .explain(|| format!("cannot read {}", path.display()))?;
        }
        Ok(())
    })
    .await?
}

/// Runs the command with `root` as its root directory; its success is what "ready" means.
async fn run_inside(root: &Path, command: &[String]) -> Outcome {
    let output = Command::new(this_program()?)
        .args(["demo-step", "enter"])
        .arg(root)
        .arg("--")
        .args(command)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/")
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .output()
        .await
        .explain(|| "cannot start the command".into())?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failed,
        format!("`{}` failed inside the image", command.join(" ")),
    )
    .why(format!(
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    ))
    .next("give a command that the image has: `tranship demo … -- COMMAND`"))
}

/// Becomes a command inside a root directory (`demo-step enter`). A process of its own, since a root belongs to one.
pub(crate) fn enter(root: &Path, command: &[String]) -> Outcome {
    let what = || format!("cannot enter {}", root.display());
    rustix::process::chroot(root).explain(what)?;
    rustix::process::chdir("/").explain(what)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Failure::new(Exit::Usage, "no command was given"))?;
    let error = std::os::unix::process::CommandExt::exec(
        std::process::Command::new(program).args(arguments),
    );
    Err(Failure::new(Exit::Failed, format!("cannot start {program}")).because(&error))
}

fn this_program() -> Outcome<PathBuf> {
    // Not `current_exe`: a program that was built anew while the demo runs is another one.
    std::env::current_exe()
        .map(|path| {
            if path.exists() {
                path
            } else {
                PathBuf::from("/proc/self/exe")
            }
        })
        .explain(|| "cannot find this program's own path".into())
}
