//! Which files change how. Nothing is written here, and nothing is read but what stands in the ground.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml_edit::DocumentMut;

use super::containerd::{Effective, Version};
use super::document::{self, Obstacle};
use super::settings::{Form, Setting, shown_by};
use crate::failure::{Exit, Explain, Failure, Outcome};

/// Begins a file that is wholly ours.
const HEAD: &str =
    "# Written by `tranship node install`; `tranship node uninstall` takes it away.\n";

/// A node's containerd as it is.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    pub(super) version: Version,
    /// The version of its configuration file.
    pub(super) form: Form,
    pub(super) config: PathBuf,
    /// The file's text, if it is there.
    pub(super) text: Option<String>,
    /// The text of a file beside it that is ours.
    pub(super) drop_in: Option<String>,
    pub(super) effective: Effective,
}

/// What changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub(super) changes: Vec<Change>,
    /// What containerd is to show afterwards.
    pub(super) settings: Vec<Setting>,
}

/// A file that changes, comes or goes.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) path: PathBuf,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
}

impl Ground {
    pub(super) fn read(
        config: &Path,
        version: Version,
        effective: impl FnOnce() -> Outcome<Effective>,
    ) -> Outcome<Self> {
        if !version.is_since(1, 6) {
            return Err(
                Failure::new(Exit::Unsupported, "cannot use this containerd")
                    .why(format!("it is {version}"))
                    .next("upgrade containerd to 1.6 or later"),
            );
        }
        let text = read(config)?;
        let form = form(config, version, text.as_deref())?;
        Ok(Self {
            version,
            form,
            drop_in: read(&drop_in(config))?,
            config: config.to_owned(),
            text,
            effective: effective()?,
        })
    }

    pub(super) fn drop_in_path(&self) -> PathBuf {
        drop_in(&self.config)
    }

    fn document(&self) -> Outcome<DocumentMut> {
        let text = self.text.clone().unwrap_or_default();
        text.parse().explain_as(Exit::Usage, || {
            format!("cannot read {}", self.config.display())
        })
    }
}

/// `conf.d/tranship.toml` beside the configuration.
fn drop_in(config: &Path) -> PathBuf {
    let dir = config.parent().unwrap_or(Path::new("/"));
    dir.join("conf.d").join("tranship.toml")
}

fn read(path: &Path) -> Outcome<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).explain(|| format!("cannot read {}", path.display())),
    }
}

fn form(config: &Path, version: Version, text: Option<&str>) -> Outcome<Form> {
    let what = || format!("cannot use {}", config.display());
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else {
        return Ok(shown_by(version));
    };
    let document: DocumentMut = text.parse().explain_as(Exit::Usage, what)?;
    let number = document
        .get("version")
        .and_then(toml_edit::Item::as_integer);
    match number {
        Some(2) => Ok(Form::Two),
        // What the fourth one moved is none of ours, and what is imported may be of an earlier version than what imports it.
        Some(3 | 4) if version.is_since(2, 0) => Ok(Form::Three),
        other => Err(Failure::new(Exit::Unsupported, what())
            .why(match other {
                Some(number) => format!("its version is {number}"),
                None => "it names no version, which means 1".to_owned(),
            })
            .next("bring it to a version that this containerd has: containerd config migrate")),
    }
}

/// The settings beside the configuration where containerd merges files, else in it.
pub(super) fn install(ground: &Ground, settings: &[Setting]) -> Outcome<Plan> {
    let mut document = ground.document()?;
    let mut changes = Vec::new();
    if ground.version.is_since(2, 0) {
        let path = ground.drop_in_path();
        let mut ours = DocumentMut::new();
        ours.insert("version", toml_edit::value(ground.form.number()));
        for setting in settings {
            set(&mut ours, &path, setting)?;
        }
        let text = format!(
            "{HEAD}{}",
            ours.to_string().replace(" # set by tranship", "")
        );
        if ground.drop_in.as_ref() != Some(&text) {
            changes.push(Change {
                before: ground.drop_in.clone(),
                after: Some(text),
                path: path.clone(),
            });
        }
        if !imports(&document, &ground.config, &path) {
            if document.get("version").is_none() {
                document.insert("version", toml_edit::value(ground.form.number()));
            }
            document::import(&mut document, &path.display().to_string())
                .map_err(|obstacle| cannot(&ground.config, "imports", obstacle))?;
        }
    } else {
        if document.get("version").is_none() {
            document.insert("version", toml_edit::value(ground.form.number()));
        }
        // Earlier containerds take a section from the last file that has it, whole.
        for setting in settings {
            set(&mut document, &ground.config, setting)?;
        }
    }
    push(&mut changes, ground, &document);
    Ok(Plan {
        changes,
        settings: settings.to_vec(),
    })
}

/// All that is ours, from both files.
pub(super) fn uninstall(ground: &Ground) -> Outcome<Plan> {
    let mut document = ground.document()?;
    let path = ground.drop_in_path();
    // Before the rest: others may have added to the list.
    document::forget(&mut document, &path.display().to_string());
    document::restore(&mut document);
    let mut changes = Vec::new();
    push(&mut changes, ground, &document);
    if let Some(text) = &ground.drop_in {
        if !text.starts_with(HEAD) {
            return Err(
                Failure::new(Exit::Failed, format!("cannot take {} away", path.display()))
                    .why("it is not as it was written")
                    .next("look at it, and remove it by hand"),
            );
        }
        changes.push(Change {
            before: Some(text.clone()),
            after: None,
            path,
        });
    }
    Ok(Plan {
        changes,
        settings: Vec::new(),
    })
}

fn push(changes: &mut Vec<Change>, ground: &Ground, document: &DocumentMut) {
    let after = document.to_string();
    if after != ground.text.clone().unwrap_or_default() {
        changes.push(Change {
            path: ground.config.clone(),
            before: ground.text.clone(),
            after: Some(after),
        });
    }
}

/// Whether the configuration imports the file already, by name or with all of its folder.
fn imports(document: &DocumentMut, config: &Path, file: &Path) -> bool {
    let dir = config.parent().unwrap_or(Path::new("/"));
    let all = file.with_file_name("*.toml");
    let imports = document.get("imports").and_then(toml_edit::Item::as_array);
    let imports = imports.into_iter().flatten();
    imports
        .filter_map(toml_edit::Value::as_str)
        .map(|import| dir.join(import))
        .any(|import| import == file || import == all)
}

fn set(document: &mut DocumentMut, path: &Path, setting: &Setting) -> Outcome {
    document::set(document, &setting.path, &setting.value)
        .map_err(|obstacle| cannot(path, &setting.path.join("."), obstacle))
}

fn cannot(file: &Path, key: &str, obstacle: Obstacle) -> Failure {
    let why = match obstacle {
        Obstacle::NoTable => "something that should be a table is none",
        Obstacle::NoValue => "what stands there is not of the kind that belongs there",
    };
    Failure::new(
        Exit::Usage,
        format!("cannot set {key} in {}", file.display()),
    )
    .why(why)
    .next("set it by hand; docs/operations.md has what is needed")
}
