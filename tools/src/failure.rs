//! Why a verb ended badly: what was tried, why it failed, what to do next, and the exit code that scripts branch on.
//!
//! One type for all verbs, because a person and a script ask the same three questions of each of them.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// The exit codes of every verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Something failed that none of the others names.
    Failed = 1,
    /// The command line or a configuration file is wrong.
    Usage = 2,
    /// A digest, a chunk or a policy says no.
    Verification = 3,
    /// There is no such image, path or device.
    NotFound = 4,
    /// The registry or the system refuses this user.
    Denied = 5,
    /// The registry, the agent or the network does not answer.
    Unavailable = 6,
    /// Some of the work was done, some was not.
    Partial = 7,
    /// The input is understood and tranship does not do it.
    Unsupported = 8,
}

impl Exit {
    /// The word used for this code in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Verification => "verification",
            Self::NotFound => "not-found",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
            Self::Partial => "partial",
            Self::Unsupported => "unsupported",
        }
    }

    /// What to do next when the place that failed knows nothing better.
    const fn usual_next(self) -> &'static str {
        match self {
            Self::Failed => "run again with `--log debug` to see each step",
            Self::Usage => "`tranship help VERB` shows what the verb takes",
            Self::Verification => {
                "do not use these bytes; push or convert the image again from a good source"
            }
            Self::NotFound => {
                "check the spelling; `tranship inspect REF` shows what an image holds"
            }
            Self::Denied => {
                "log in to the registry (docker login), or run with the rights this needs"
            }
            Self::Unavailable => {
                "check that the other side runs and can be reached, then try again"
            }
            Self::Partial => "the messages above name what is left; run again for the rest",
            Self::Unsupported => "`tranship help VERB` says which inputs are taken",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A verb's failure, ready to be told.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    what: String,
    why: Vec<String>,
    next: Option<String>,
}

impl Failure {
    /// A failure with its code and what was tried.
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            why: Vec::new(),
            next: None,
        }
    }

    /// Adds the reason in words.
    #[must_use]
    pub(crate) fn why(mut self, why: impl Into<String>) -> Self {
        self.why.push(why.into());
        self
    }

    /// Adds an error and all its causes as the reason.
    #[must_use]
    pub(crate) fn because(mut self, error: &(dyn Error + 'static)) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(link) = cause {
            let text = link.to_string();
            // Some libraries repeat the cause inside the message; say it once.
            if !self.why.iter().any(|told| told.contains(&text)) {
                self.why.push(text);
            }
            cause = link.source();
        }
        self
    }

    /// Says what to do next.
    #[must_use]
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// What was tried.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// The causes in one line.
    pub(crate) fn reason(&self) -> String {
        self.why.join(": ")
    }

    /// What the user can do.
    pub(crate) fn advice(&self) -> &str {
        self.next.as_deref().unwrap_or(self.exit.usual_next())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if !self.why.is_empty() {
            write!(f, "\n  why: {}", self.reason())?;
        }
        write!(f, "\n  next: {}", self.advice())
    }
}

/// The result of a verb and its parts.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Turns any error into a failure where it is handled.
pub(crate) trait Explain<T> {
    /// Says what was tried; the error becomes the reason. The code is [`Exit::Failed`], or what an I/O error tells.
    fn explain(self, what: impl FnOnce() -> String) -> Outcome<T>;

    /// As `explain`, with a code.
    fn explain_as(self, exit: Exit, what: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: Error + 'static> Explain<T> for Result<T, E> {
    fn explain(self, what: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| Failure::new(exit_of(&error), what()).because(&error))
    }

    fn explain_as(self, exit: Exit, what: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| Failure::new(exit, what()).because(&error))
    }
}

fn exit_of(error: &(dyn Error + 'static)) -> Exit {
    let mut cause = Some(error);
    while let Some(link) = cause {
        if let Some(io) = link.downcast_ref::<std::io::Error>() {
            match io.kind() {
                std::io::ErrorKind::NotFound => return Exit::NotFound,
                std::io::ErrorKind::PermissionDenied => return Exit::Denied,
                std::io::ErrorKind::ConnectionRefused
                | std::io::ErrorKind::ConnectionReset
                | std::io::ErrorKind::TimedOut => return Exit::Unavailable,
                _ => {}
            }
        }
        cause = link.source();
    }
    Exit::Failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_why_and_what_next() {
        let io = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let failure = Err::<(), _>(io)
            .explain(|| "cannot read the layout /x".into())
            .unwrap_err();
        assert_eq!(failure.exit, Exit::Denied);
        let text = failure.to_string();
        assert!(
            text.starts_with(
                "error: cannot read the layout /x\n  why: permission denied\n  next: "
            ),
            "{text}"
        );
    }

    #[test]
    fn a_cause_is_told_once() {
        let inner = std::io::Error::other("inner");
        let outer = std::io::Error::other(inner);
        assert_eq!(
            Failure::new(Exit::Failed, "x").because(&outer).reason(),
            "inner"
        );
    }
}
