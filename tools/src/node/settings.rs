//! What containerd must be told, by its version: how it reaches the snapshotter, and who uses it.
//!
//! The names of the sections changed with version 3 of its configuration (containerd 2), and from 2.1 on it is another part that
//! unpacks. A file of version 2 keeps its names under containerd 2, which then shows them by the new ones.

use toml_edit::{Array, InlineTable, Value};

use super::containerd::{Effective, Version};
use super::plan::Ground;
use crate::cli::NodeInstallArgs;
use crate::failure::{Exit, Failure, Outcome};

/// The section of pods' containers, and that of images, up to version 2 of the file.
const CRI: &str = "io.containerd.grpc.v1.cri";
/// The section of pods' containers from version 3 on.
const CRI_RUNTIME: &str = "io.containerd.cri.v1.runtime";
/// The section of pods' images from version 3 on.
const CRI_IMAGES: &str = "io.containerd.cri.v1.images";
/// The section of what pulls from containerd 2.1 on.
const TRANSFER: &str = "io.containerd.transfer.v1.local";

/// One setting.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) path: Vec<String>,
    pub(super) value: Value,
    /// Where containerd shows it.
    pub(super) shown: Vec<String>,
}

/// The version of a configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Two,
    Three,
}

impl Form {
    pub(super) fn number(self) -> i64 {
        match self {
            Self::Two => 2,
            Self::Three => 3,
        }
    }

    /// Where pods' runtimes are.
    fn runtimes(self) -> [&'static str; 2] {
        match self {
            Self::Two => ["plugins", CRI],
            Self::Three => ["plugins", CRI_RUNTIME],
        }
    }
}

/// The form in which a containerd shows its configuration.
pub(super) fn shown_by(version: Version) -> Form {
    if version.is_since(2, 0) {
        Form::Three
    } else {
        Form::Two
    }
}

/// All settings that make a containerd use the snapshotter.
pub(super) fn wanted(ground: &Ground, args: &NodeInstallArgs) -> Outcome<Vec<Setting>> {
    let name = args.node.snapshotter.as_str();
    let version = ground.version;
    let mut settings = Settings {
        form: ground.form,
        shown: shown_by(version),
        all: Vec::new(),
    };
    let plugin = |key| ["proxy_plugins", name, key];
    settings.same(&plugin("type"), "snapshot");
    settings.same(&plugin("address"), args.socket.display().to_string());
    let exports = |key| ["proxy_plugins", name, "exports", key];
    if version.is_since(1, 7) {
        settings.same(&exports("root"), args.root.display().to_string());
    }
    if version.is_since(2, 1) {
        settings.same(&exports("enable_remote_snapshot_annotations"), "true");
        let unpack = ["plugins", TRANSFER, "unpack_config"];
        settings.same(&unpack, unpackers(name));
    }
    // From 2.1 on this very setting makes containerd pull the old way, so it is for those that do anyway.
    if !version.is_since(2, 1) || ground.effective.pulls_itself() {
        settings.of_images("disable_snapshot_annotations", false);
    }
    match &args.runtime_class {
        None => settings.of_images("snapshotter", name),
        Some(class) => {
            if !version.is_since(1, 7) {
                return Err(Failure::new(
                    Exit::Unsupported,
                    format!("cannot install for the RuntimeClass handler {class} alone"),
                )
                .why(format!(
                    "containerd {version} has one snapshotter for all pods"
                ))
                .next("install without --runtime-class, or upgrade containerd to 1.7 or later"));
            }
            runtime(&mut settings, &ground.effective, class, name)?;
        }
    }
    Ok(settings.all)
}

struct Settings {
    form: Form,
    shown: Form,
    all: Vec<Setting>,
}

impl Settings {
    /// One that has the same name in every form.
    fn same(&mut self, path: &[&str], value: impl Into<Value>) {
        self.add(owned(path), owned(path), value);
    }

    /// One about images: below `containerd` of the one section, or in a section of its own.
    fn of_images(&mut self, key: &str, value: impl Into<Value>) {
        let path = |form| match form {
            Form::Two => owned(&["plugins", CRI, "containerd", key]),
            Form::Three => owned(&["plugins", CRI_IMAGES, key]),
        };
        self.add(path(self.form), path(self.shown), value);
    }

    /// One about a runtime.
    fn of_runtime(&mut self, class: &str, below: &[String], value: impl Into<Value>) {
        let path = |form: Form| {
            let mut path = owned(&form.runtimes());
            path.extend(owned(&["containerd", "runtimes", class]));
            path.extend_from_slice(below);
            path
        };
        self.add(path(self.form), path(self.shown), value);
    }

    fn add(&mut self, path: Vec<String>, shown: Vec<String>, value: impl Into<Value>) {
        let value = value.into();
        self.all.push(Setting { path, value, shown });
    }
}

/// A runtime as the default one is, with our snapshotter.
fn runtime(settings: &mut Settings, effective: &Effective, class: &str, name: &str) -> Outcome {
    let section = settings.shown.runtimes();
    let [plugins, cri] = section;
    let usual = effective.text(&[plugins, cri, "containerd", "default_runtime_name"]);
    let usual = usual.unwrap_or("runc");
    let path = [plugins, cri, "containerd", "runtimes", usual];
    let Some(toml::Value::Table(table)) = effective.get(&path) else {
        return Err(
            Failure::new(Exit::Failed, "cannot make a runtime of our own")
                .why(format!(
                    "containerd shows no default runtime {usual:?} to copy"
                ))
                .next("enable containerd's cri plugin: take it out of disabled_plugins"),
        );
    };
    copy(settings, class, &mut Vec::new(), table);
    settings.of_runtime(class, &owned(&["snapshotter"]), name);
    if settings.form == Form::Three {
        let platforms = ["plugins", CRI_IMAGES, "runtime_platforms", class];
        let [one, two, three, four] = platforms;
        settings.same(&[one, two, three, four, "platform"], platform());
        settings.same(&[one, two, three, four, "snapshotter"], name);
    }
    Ok(())
}

fn copy(settings: &mut Settings, class: &str, path: &mut Vec<String>, table: &toml::Table) {
    for (key, value) in table {
        path.push(key.clone());
        let is_usual = match value {
            toml::Value::String(text) => text.is_empty(),
            toml::Value::Integer(number) => *number == 0,
            toml::Value::Boolean(is_set) => !is_set,
            _ => true,
        };
        match value {
            toml::Value::Table(below) => copy(settings, class, path, below),
            _ if is_usual || key == "snapshotter" => {}
            toml::Value::String(text) => settings.of_runtime(class, path, text.as_str()),
            toml::Value::Integer(number) => settings.of_runtime(class, path, *number),
            toml::Value::Boolean(is_set) => settings.of_runtime(class, path, *is_set),
            _ => {}
        }
        path.pop();
    }
}

/// Ours and the usual one: naming any replaces containerd's own list.
fn unpackers(name: &str) -> Array {
    let unpacker = |snapshotter: &str| {
        let mut table = InlineTable::new();
        table.insert("platform", platform().into());
        table.insert("snapshotter", snapshotter.into());
        table
    };
    [unpacker(name), unpacker("overlayfs")]
        .into_iter()
        .collect()
}

fn platform() -> String {
    tranship_source::Platform::of_this_machine().to_string()
}

fn owned(path: &[&str]) -> Vec<String> {
    path.iter().map(|key| (*key).to_owned()).collect()
}
