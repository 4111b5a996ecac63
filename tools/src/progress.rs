//! How far a verb is: bars on a terminal, NDJSON events on request, silence otherwise.
//!
//! A verb only ever says `steps`, `advance`, `done`; who watches is decided once, on the command line.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

/// Who watches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Watch {
    /// Bars if stderr is a terminal, nothing otherwise.
    #[default]
    Auto,
    /// One JSON object a line on stderr.
    Json,
    /// Nothing.
    None,
}

/// The progress of one verb; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    watcher: Watcher,
}

#[derive(Clone, Debug)]
enum Watcher {
    Bars(MultiProgress),
    Events,
    Nobody,
}

impl Progress {
    /// Decides who watches.
    pub(crate) fn new(watch: Watch) -> Self {
        let watcher = match watch {
            Watch::Json => Watcher::Events,
            Watch::Auto if std::io::stderr().is_terminal() => Watcher::Bars(MultiProgress::new()),
            Watch::Auto | Watch::None => Watcher::Nobody,
        };
        Self { watcher }
    }

    /// Begins a task of `total` bytes (0 = not known).
    pub(crate) fn task(&self, name: &str, total: u64) -> Task {
        let bar = match &self.watcher {
            Watcher::Bars(bars) => Some(bars.add(bar_for(name, total))),
            Watcher::Events => {
                event(&json!({"event": "begin", "task": name, "total": total}));
                None
            }
            Watcher::Nobody => None,
        };
        Task(Arc::new(TaskState {
            name: name.to_owned(),
            total,
            done: AtomicU64::new(0),
            told: AtomicU64::new(0),
            bar,
            events: matches!(self.watcher, Watcher::Events),
        }))
    }

    /// Says something worth knowing (not a result) on stderr, without breaking the bars.
    pub(crate) fn note(&self, text: &str) {
        match &self.watcher {
            Watcher::Bars(bars) => bars.suspend(|| crate::output::say(text)),
            Watcher::Events => event(&json!({"event": "note", "text": text})),
            Watcher::Nobody => crate::output::say(text),
        }
    }

    /// Whether events are written, so that a failure is told as one too.
    pub(crate) fn is_events(&self) -> bool {
        matches!(self.watcher, Watcher::Events)
    }
}

/// Writes one event as a line on stderr; a watcher that went away does not stop the work.
pub(crate) fn event(value: &serde_json::Value) {
    let mut line = value.to_string();
    line.push('\n');
    let _gone = std::io::stderr().lock().write_all(line.as_bytes());
}

fn bar_for(name: &str, total: u64) -> ProgressBar {
    let template = if total == 0 {
        "{prefix:28!} {spinner} {bytes:>11} {elapsed:>5}"
    } else {
        "{prefix:28!} {bar:30} {bytes:>11}/{total_bytes:11} {eta:>4}"
    };
    let bar = if total == 0 {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::new(total)
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(name.to_owned());
    bar
}

/// One task under way; clones are the same task. It ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Task(Arc<TaskState>);

#[derive(Debug)]
struct TaskState {
    name: String,
    total: u64,
    done: AtomicU64,
    told: AtomicU64,
    bar: Option<ProgressBar>,
    events: bool,
}

/// Events are told every so many bytes: often enough to watch, seldom enough not to be the work.
const EVENT_STEP: u64 = 8 << 20;

impl Task {
    /// `bytes` more are done.
    pub(crate) fn advance(&self, bytes: u64) {
        let done = self.0.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(bar) = &self.0.bar {
            bar.inc(bytes);
        }
        let told = self.0.told.load(Ordering::Relaxed);
        let due = self.0.events && done.saturating_sub(told) >= EVENT_STEP;
        if due
            && self
                .0
                .told
                .compare_exchange(told, done, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            event(
                &json!({"event": "progress", "task": self.0.name, "done": done, "total": self.0.total}),
            );
        }
    }
}

impl Drop for TaskState {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.events {
            let done = self.done.load(Ordering::Relaxed);
            event(&json!({"event": "end", "task": self.name, "done": done, "total": self.total}));
        }
    }
}
