//! containerd's own program: which version it is, and what it makes of a configuration.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use toml::{Table, Value};

use crate::failure::{Exit, Explain, Failure, Outcome};

/// A version's first two numbers, which decide what a configuration looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Version {
    /// `containerd github.com/containerd/containerd v1.7.2 0cae…`, or a version alone.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|word| {
            let mut numbers = word.strip_prefix('v').unwrap_or(word).split('.');
            let major = numbers.next()?.parse().ok()?;
            let minor = numbers.next()?.parse().ok()?;
            Some(Self { major, minor })
        })
    }

    /// Whether it is this one or a later one.
    pub(crate) fn is_since(self, major: u32, minor: u32) -> bool {
        self >= Self { major, minor }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The program.
#[derive(Clone, Debug)]
pub(crate) struct Containerd {
    program: PathBuf,
}

impl Containerd {
    pub(crate) fn new(program: PathBuf) -> Self {
        Self { program }
    }

    pub(crate) fn version(&self) -> Outcome<Version> {
        let output = self.run(&[Path::new("--version")])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Version::parse(&text).ok_or_else(|| {
            self.failure("cannot tell its version")
                .why(format!("it calls itself {:?}", text.trim()))
        })
    }

    /// What it makes of a configuration, with all defaults; a file that is not there is empty.
    pub(crate) fn effective(&self, config: &Path) -> Outcome<Effective> {
        let is_there = config.exists();
        let (option, of) = (Path::new("--config"), Path::new("config"));
        let output = if is_there {
            self.run(&[option, config, of, Path::new("dump")])?
        } else {
            self.run(&[of, Path::new("default")])?
        };
        let told = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let failure = self.failure(&format!("does not take {}", config.display()));
            return Err(failure.why(told.trim().to_owned()));
        }
        Effective::parse(&String::from_utf8_lossy(&output.stdout)).explain(|| {
            format!(
                "cannot read what {} makes of its configuration",
                self.program.display()
            )
        })
    }

    fn run(&self, args: &[&Path]) -> Outcome<Output> {
        let mut command = Command::new(&self.program);
        command.args(args).stdin(Stdio::null());
        command.output().map_err(|error| {
            Failure::new(
                Exit::NotFound,
                format!("cannot run {}", self.program.display()),
            )
            .because(&error)
            .next("install containerd, or name its program with --containerd")
        })
    }

    fn failure(&self, what: &str) -> Failure {
        Failure::new(Exit::Failed, format!("{} {what}", self.program.display()))
    }
}

/// A whole configuration, as containerd has it in effect.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Effective(Table);

impl Effective {
    pub(crate) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        text.parse().map(Self)
    }

    pub(crate) fn get(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let mut value = self.0.get(*first)?;
        for key in rest {
            value = value.as_table()?.get(*key)?;
        }
        Some(value)
    }

    pub(crate) fn text(&self, path: &[&str]) -> Option<&str> {
        self.get(path)?.as_str()
    }

    /// Whether a containerd of 2.1 or later pulls pods' images by itself, as before, and not by its transfer service: because it is told so, or
    /// because of settings that only the old way has.
    pub(crate) fn pulls_itself(&self) -> bool {
        let [plugins, images] = ["plugins", "io.containerd.cri.v1.images"];
        let of_images = |key| self.get(&[plugins, images, key]);
        let is = |key, wanted: bool| of_images(key).and_then(Value::as_bool) == Some(wanted);
        let has = |key| {
            let table = self.get(&[plugins, images, "registry", key]);
            let table = table.and_then(Value::as_table);
            table.is_some_and(|table| !table.is_empty())
        };
        let downloads = of_images("max_concurrent_downloads").and_then(Value::as_integer);
        is("use_local_image_pull", true)
            || is("disable_snapshot_annotations", false)
            || is("discard_unpacked_layers", true)
            || is("image_pull_with_sync_fs", true)
            || downloads.is_some_and(|count| count != 3)
            || ["mirrors", "configs", "auths"].into_iter().any(has)
    }

    /// Each value that is no table, with its path.
    pub(crate) fn leaves(&self) -> Vec<(Vec<String>, &Value)> {
        let mut found = Vec::new();
        collect(&self.0, &mut Vec::new(), &mut found);
        found
    }
}

fn collect<'t>(
    table: &'t Table,
    path: &mut Vec<String>,
    found: &mut Vec<(Vec<String>, &'t Value)>,
) {
    for (key, value) in table {
        path.push(key.clone());
        match value {
            Value::Table(below) => collect(below, path, found),
            value => found.push((path.clone(), value)),
        }
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_by_every_build() {
        for (text, major, minor) in [
            (
                "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3",
                1,
                6,
            ),
            ("containerd containerd.io 1.7.27 05044ec0a9a7", 1, 7),
            (
                "containerd github.com/containerd/containerd/v2 v2.1.3 c787fb9",
                2,
                1,
            ),
            (
                "containerd github.com/containerd/containerd/v2 v2.4.0-beta.0 x",
                2,
                4,
            ),
            ("v2.0.5-k3s1", 2, 0),
        ] {
            assert_eq!(
                Version::parse(text),
                Some(Version { major, minor }),
                "{text}"
            );
        }
        assert_eq!(Version::parse("containerd something"), None);
        let version = Version { major: 2, minor: 0 };
        assert!(version.is_since(1, 7) && !version.is_since(2, 1));
    }
}
