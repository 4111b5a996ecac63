//! Writing a plan: first tried beside the real files, then put in their place, and taken back if containerd does not take it after all.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::containerd::{Containerd, Effective};
use super::document;
use super::plan::{Change, Ground, Plan};
use super::remark;
use super::settings::Setting;
use crate::failure::{Exit, Explain, Failure, Outcome};

/// Files that exist for the length of a check.
struct Trial(Vec<PathBuf>);

impl Drop for Trial {
    fn drop(&mut self) {
        for path in &self.0 {
            // One that was never made is as good.
            let _ = fs::remove_file(path);
        }
    }
}

/// Has containerd read what the files would be, and compares that with what it has now.
pub(super) fn check(containerd: &Containerd, ground: &Ground, plan: &Plan) -> Outcome {
    let text_of = |path: &Path, before: &Option<String>| {
        let change = plan.changes.iter().find(|change| change.path == path);
        change.map_or_else(|| before.clone(), |change| change.after.clone())
    };
    let mut trial = Trial(Vec::new());
    let beside = |path: &Path| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".trial-{}", std::process::id()));
        PathBuf::from(name)
    };
    let drop_in = ground.drop_in_path();
    let mut text = text_of(&ground.config, &ground.text).unwrap_or_default();
    // The trial of the file beside it has a name that no pattern finds, and is imported by that name in place of the real one.
    if ground.version.is_since(2, 0) {
        let mut document: toml_edit::DocumentMut = text
            .parse()
            .explain(|| format!("cannot read {}", ground.config.display()))?;
        document::forget(&mut document, &drop_in.display().to_string());
        if let Some(ours) = text_of(&drop_in, &ground.drop_in) {
            let path = beside(&drop_in);
            make_folder(&path)?;
            trial.0.push(path.clone());
            write_file(&path, &ours, 0o600)?;
            let imported = document::import(&mut document, &path.display().to_string());
            imported.map_err(|_| Failure::new(Exit::Usage, "cannot try the new configuration"))?;
        }
        text = document.to_string();
    }
    let path = beside(&ground.config);
    make_folder(&path)?;
    trial.0.push(path.clone());
    write_file(&path, &text, 0o600)?;
    let after = containerd.effective(&path)?;
    compare(&ground.effective, &after, &plan.settings)
}

/// Puts the files in place. What the configuration was before anything in it was ours stays beside it.
pub(super) fn write(containerd: &Containerd, ground: &Ground, plan: &Plan) -> Outcome {
    let is_untouched = |text: &&String| {
        let drop_in = ground.drop_in_path().display().to_string();
        !text.contains(remark::MARK) && !text.contains(&drop_in)
    };
    if let Some(text) = ground.text.as_ref().filter(is_untouched) {
        let mut kept = ground.config.as_os_str().to_owned();
        kept.push(".before-tranship");
        write_file(Path::new(&kept), text, mode(&ground.config))?;
    }
    let written = plan.changes.iter().try_for_each(put);
    let checked = written.and_then(|()| {
        let after = containerd.effective(&ground.config)?;
        compare(&ground.effective, &after, &plan.settings)
    });
    checked.map_err(|failure| {
        for change in plan.changes.iter().rev() {
            let back = Change {
                path: change.path.clone(),
                before: change.after.clone(),
                after: change.before.clone(),
            };
            if let Err(worse) = put(&back) {
                crate::output::say(&worse.to_string());
            }
        }
        failure.next("the files are as they were; see why, and try again")
    })
}

fn put(change: &Change) -> Outcome {
    match &change.after {
        Some(text) => {
            make_folder(&change.path)?;
            write_file(&change.path, text, mode(&change.path))
        }
        None => match fs::remove_file(&change.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).explain(|| format!("cannot remove {}", change.path.display()))
            }
            _ => Ok(()),
        },
    }
}

/// The permissions of a file, or those that configurations have.
fn mode(path: &Path) -> u32 {
    fs::metadata(path).map_or(0o644, |found| found.permissions().mode() & 0o7777)
}

fn make_folder(path: &Path) -> Outcome {
    let Some(dir) = path.parent() else {
        return Ok(());
    };
    fs::create_dir_all(dir).explain(|| format!("cannot make {}", dir.display()))
}

/// Writes a file whole or not at all.
fn write_file(path: &Path, text: &str, mode: u32) -> Outcome {
    let what = || format!("cannot write {}", path.display());
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".new-{}", std::process::id()));
    let new = PathBuf::from(new);
    let written = (|| {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(mode);
        let mut file = options.open(&new)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        path.parent()
            .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    })();
    if written.is_err() {
        // Nobody else has this name.
        let _ = fs::remove_file(&new);
    }
    written.explain(what)
}

/// Our settings must be in effect, and nothing else may have changed but what was ours before.
pub(super) fn compare(before: &Effective, after: &Effective, settings: &[Setting]) -> Outcome {
    let failed = |why: String| {
        Err(Failure::new(
            Exit::Failed,
            "containerd makes something else of the new configuration",
        )
        .why(why)
        .next("nothing was changed; set it by hand as docs/operations.md says, and tell us"))
    };
    let old: BTreeMap<_, _> = before.leaves().into_iter().collect();
    let new: BTreeMap<_, _> = after.leaves().into_iter().collect();
    for setting in settings {
        let shown = new.get(&setting.shown).map(ToString::to_string);
        let wanted = setting.value.to_string();
        let is_list = setting.value.is_array();
        if !is_list && shown.as_deref() != Some(wanted.trim()) {
            let key = setting.shown.join(".");
            return failed(format!(
                "{key} is {}, not {wanted}",
                shown.unwrap_or("not there".into())
            ));
        }
    }
    if settings.is_empty() {
        return Ok(());
    }
    let is_ours = |path: &[String]| {
        matches!(path, [first, ..] if first == "imports" || first == "version")
            || settings
                .iter()
                .any(|setting| path.starts_with(&setting.shown))
    };
    // A runtime of ours comes with all of its defaults.
    let is_below_ours = |path: &[String]| {
        settings.iter().any(|setting| {
            let at = setting.shown.iter().position(|key| {
                key == "runtimes" || key == "proxy_plugins" || key == "runtime_platforms"
            });
            at.and_then(|at| setting.shown.get(..at + 2))
                .is_some_and(|ours| path.starts_with(ours))
        })
    };
    let paths = old.keys().chain(new.keys());
    for path in paths {
        if old.get(path) != new.get(path) && !is_ours(path) && !is_below_ours(path) {
            return failed(format!("{} would change as well", path.join(".")));
        }
    }
    Ok(())
}
