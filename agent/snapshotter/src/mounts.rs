//! The mounts that containerd is given: what it is told to mount for whoever unpacks a layer or runs a container.

use std::path::{Path, PathBuf};

use tranship_containerd::types::Mount;

use crate::folders::Folders;
use crate::snapshot::{Kind, Snapshot};

/// Where the kernel says whether it has the index of overlays, which ties an upper folder to one instance of its lower
/// filesystem. Ours are mounted anew after each restart of the machine, so it is turned off.
const INDEX_SWITCH: &str = "/sys/module/overlay/parameters/index";

/// What this kernel's overlayfs is told beside its folders.
pub(crate) fn overlay_options() -> Vec<String> {
    if Path::new(INDEX_SWITCH).exists() {
        vec!["index=off".to_owned()]
    } else {
        Vec::new()
    }
}

/// The mounts of a snapshot that stands on `lower`, the uppermost folder first.
pub(crate) fn of(
    folders: &Folders,
    snapshot: &Snapshot,
    lower: &[PathBuf],
    options: &[String],
) -> Vec<Mount> {
    let files = folders.files(snapshot.id);
    let mount = match (snapshot.kind, lower) {
        (Kind::View, [only]) => bind(only, "ro"),
        (Kind::View, []) => bind(&files, "ro"),
        (Kind::View, _) => overlay(options, None, lower),
        (_, []) => bind(&files, "rw"),
        _ => {
            let work = folders.work(snapshot.id);
            overlay(options, Some((&work, &files)), lower)
        }
    };
    vec![mount]
}

fn bind(source: &Path, access: &str) -> Mount {
    Mount {
        r#type: "bind".to_owned(),
        source: source.display().to_string(),
        target: String::new(),
        options: vec![access.to_owned(), "rbind".to_owned()],
    }
}

fn overlay(options: &[String], upper: Option<(&Path, &Path)>, lower: &[PathBuf]) -> Mount {
    let mut options = options.to_vec();
    if let Some((work, upper)) = upper {
        options.push(format!("workdir={}", work.display()));
        options.push(format!("upperdir={}", upper.display()));
    }
    let lower: Vec<String> = lower.iter().map(|dir| dir.display().to_string()).collect();
    options.push(format!("lowerdir={}", lower.join(":")));
    Mount {
        r#type: "overlay".to_owned(),
        source: "overlay".to_owned(),
        target: String::new(),
        options,
    }
}
