//! One thing that was looked at.

use serde::Serialize;

/// How it was found, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    Good,
    /// It works, and could be better.
    Odd,
    /// It could not be looked at.
    Unseen,
    Bad,
}

impl State {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Odd => "odd",
            Self::Unseen => "unseen",
            Self::Bad => "BAD",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    pub(super) state: State,
    pub(super) area: &'static str,
    /// What was found.
    pub(super) what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
}

/// Findings of one area.
#[derive(Debug)]
pub(super) struct Findings {
    area: &'static str,
    found: Vec<Finding>,
}

impl Findings {
    pub(super) fn of(area: &'static str) -> Self {
        Self {
            area,
            found: Vec::new(),
        }
    }

    pub(super) fn good(&mut self, what: impl Into<String>) {
        self.add(State::Good, what, None);
    }

    pub(super) fn odd(&mut self, what: impl Into<String>, next: &str) {
        self.add(State::Odd, what, Some(next));
    }

    pub(super) fn unseen(&mut self, what: impl Into<String>, next: &str) {
        self.add(State::Unseen, what, Some(next));
    }

    pub(super) fn bad(&mut self, what: impl Into<String>, next: &str) {
        self.add(State::Bad, what, Some(next));
    }

    fn add(&mut self, state: State, what: impl Into<String>, next: Option<&str>) {
        self.found.push(Finding {
            state,
            area: self.area,
            what: what.into(),
            next: next.map(str::to_owned),
        });
    }

    pub(super) fn all(self) -> Vec<Finding> {
        self.found
    }
}
