//! The interpreter that the demo's image runs: Python, else Perl, else the shell, with the files that its start reads.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Exit, Failure, Outcome};

const PYTHON: &str = include_str!("ready.py");
const PERL: &str = include_str!("ready.pl");
const SHELL: &str = include_str!("ready.sh");

/// A language of this machine, and a script in it that is the application.
#[derive(Debug)]
pub(super) struct Interpreter {
    /// For people, such as `Python 3.11.2`.
    pub(super) name: String,
    /// The application.
    pub(super) script: String,
    /// Programs to pack.
    pub(super) programs: Vec<PathBuf>,
    /// Directories of the language's library.
    pub(super) libraries: Vec<PathBuf>,
    /// Files that the start reads.
    pub(super) needed: Vec<PathBuf>,
    program: PathBuf,
    arguments: &'static [&'static str],
    extension: &'static str,
}

impl Interpreter {
    /// Finds the first language that runs its script here.
    pub(super) fn find(dir: &Path) -> Outcome<Self> {
        let candidates = [
            ("python3", PYTHON, &["-I"][..], "py"),
            ("perl", PERL, &[][..], "pl"),
            ("sh", SHELL, &[][..], "sh"),
        ];
        for (program, script, arguments, extension) in candidates {
            let found = in_path(program)
                .and_then(|path| Self::ask(dir, &path, script, arguments, extension));
            if let Some(interpreter) = found {
                return Ok(interpreter);
            }
        }
        Err(
            Failure::new(Exit::Unsupported, "cannot pack an image from this machine")
                .why("neither python3 nor perl nor sh runs here")
                .next("name an image: `tranship demo --image docker://HOST/REPO:TAG -- COMMAND`"),
        )
    }

    /// Runs the script here once; it tells the language's name, the real program, directories and files.
    fn ask(
        dir: &Path,
        program: &Path,
        script: &str,
        arguments: &'static [&'static str],
        extension: &'static str,
    ) -> Option<Self> {
        let path = dir.join(format!("ready.{extension}"));
        std::fs::write(&path, script).ok()?;
        let asked = Command::new(program)
            .args(arguments)
            .arg(&path)
            .arg("tell")
            .stdin(Stdio::null())
            .output();
        let told = asked.ok().filter(|output| output.status.success())?;
        let mut interpreter = Self {
            name: extension.to_owned(),
            script: script.to_owned(),
            programs: Vec::new(),
            libraries: Vec::new(),
            needed: Vec::new(),
            program: program.to_path_buf(),
            arguments,
            extension,
        };
        for line in String::from_utf8_lossy(&told.stdout).lines() {
            match line.split_once(' ') {
                Some(("name", name)) => name.clone_into(&mut interpreter.name),
                Some(("program", path)) => interpreter.program = PathBuf::from(path),
                Some(("library", path)) => interpreter.libraries.push(PathBuf::from(path)),
                Some(("file", path)) => interpreter.needed.extend(std::fs::canonicalize(path)),
                _ => {}
            }
        }
        interpreter.programs.push(interpreter.program.clone());
        interpreter.needed.sort();
        interpreter.needed.dedup();
        Some(interpreter)
    }

    /// The name of the application's file.
    pub(super) fn script_name(&self) -> String {
        format!("ready.{}", self.extension)
    }

    /// What starts the application that lies in `dir`.
    pub(super) fn command(&self, dir: &Path) -> Vec<String> {
        let mut command = vec![self.program.display().to_string()];
        command.extend(self.arguments.iter().map(|argument| (*argument).to_owned()));
        command.push(dir.join(self.script_name()).display().to_string());
        command
    }
}

/// A program on the search path, and in the usual places for who has none.
pub(super) fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    let dirs = std::env::split_paths(&path).chain(["/usr/bin", "/bin"].map(PathBuf::from));
    dirs.filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}
