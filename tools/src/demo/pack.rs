//! Packs an image from this machine's own files, so that the demo has something real to start and downloads nothing.
//!
//! Three layers, as images in use have: a shell with coreutils and `/etc`; an interpreter with its standard library;
//! a small application whose start imports a good part of that library. All libraries that these load come along.

mod interpreter;
mod layers;
mod loader;
mod tree;

use std::path::{Path, PathBuf};

use self::interpreter::Interpreter;
use self::tree::Tree;
use crate::failure::Outcome;

pub(crate) use self::layers::PackedLayer;

/// An image smaller than this shows nothing of laziness: other libraries of this machine fill it up.
const WANTED_LEN: u64 = 120 << 20;
/// An image larger than this only makes the demo slow.
const MOST_LEN: u64 = 280 << 20;

const TOOLS: &[&str] = &[
    "sh",
    "bash",
    "ls",
    "cat",
    "cp",
    "mv",
    "rm",
    "mkdir",
    "rmdir",
    "ln",
    "chmod",
    "chown",
    "echo",
    "printf",
    "test",
    "true",
    "false",
    "env",
    "head",
    "tail",
    "sort",
    "uniq",
    "wc",
    "tr",
    "cut",
    "date",
    "sleep",
    "pwd",
    "id",
    "uname",
    "stat",
    "touch",
    "tee",
    "seq",
    "sha256sum",
    "md5sum",
    "dd",
    "df",
    "du",
    "basename",
    "dirname",
    "readlink",
    "realpath",
    "mktemp",
    "grep",
    "sed",
    "awk",
    "find",
    "xargs",
    "tar",
    "gzip",
];
const ETC: &[&str] = &[
    "/etc/passwd",
    "/etc/group",
    "/etc/os-release",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/localtime",
    "/etc/services",
    "/etc/protocols",
    "/etc/ssl/certs/ca-certificates.crt",
];
const EMPTY_DIRS: &[&str] = &["/tmp", "/proc", "/sys", "/dev", "/run", "/var/tmp"];
/// Where the application lies in the image.
const APP_DIR: &str = "/srv/demo";

/// An image packed from this machine: layers as gzipped tars, bottom first, and what starts it.
#[derive(Debug)]
pub(crate) struct Packed {
    /// Layers, bottom first.
    pub(crate) layers: Vec<PackedLayer>,
    /// The command whose success means ready.
    pub(crate) command: Vec<String>,
    /// Files that the command reads, as absolute paths in the image.
    pub(crate) needed: Vec<PathBuf>,
    /// What the image holds, for people.
    pub(crate) description: String,
}

/// Packs the image; layers are written to `dir`.
///
/// # Errors
/// There is no shell on this machine, or the layers cannot be written.
pub(crate) fn pack(dir: &Path) -> Outcome<Packed> {
    let interpreter = Interpreter::find(dir)?;
    let mut base = Tree::default();
    for name in TOOLS {
        if let Some(program) = interpreter::in_path(name) {
            base.add_program(&program);
        }
    }
    for path in ETC {
        base.add(Path::new(path));
    }
    for path in EMPTY_DIRS {
        base.add_dir(Path::new(path));
    }
    let mut language = Tree::default();
    for program in &interpreter.programs {
        language.add_program(program);
    }
    for library in &interpreter.libraries {
        language.add_all(library, MOST_LEN.saturating_sub(base.len()));
    }
    let packed_len = base.len() + language.len();
    if packed_len < WANTED_LEN {
        base.fill_up(Path::new("/usr/lib"), WANTED_LEN - packed_len);
    }
    let mut app = Tree::default();
    app.add_text(
        &PathBuf::from(APP_DIR).join(interpreter.script_name()),
        &interpreter.script,
    );
    app.add_text(
        Path::new("/etc/motd"),
        "this image was packed from the files of one machine\n",
    );
    language.forget(&base);

    let needed = interpreter
        .needed
        .iter()
        .filter(|path| base.holds(path) || language.holds(path))
        .cloned()
        .collect();
    let description = format!("a shell, {} tools and {}", TOOLS.len(), interpreter.name);
    let command = interpreter.command(Path::new(APP_DIR));
    let layers = layers::write(dir, &[base, language, app])?;
    Ok(Packed {
        layers,
        command,
        needed,
        description,
    })
}

#[cfg(test)]
mod tests;
