//! What containerd tells whoever listens to its events, as `ctr events` prints it.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::containerd::{Containerd, until};

/// Somebody who listens to a containerd, in all its namespaces.
#[derive(Debug)]
pub struct Events {
    process: Child,
    heard: NamedTempFile,
}

impl Events {
    /// Listens; returns once something was heard.
    pub fn of(containerd: &Containerd) -> Self {
        let heard = NamedTempFile::new().expect("a file");
        let process = Command::new("ctr")
            .arg("--address")
            .arg(containerd.socket())
            .arg("events")
            .stdin(Stdio::null())
            .stdout(File::create(heard.path()).expect("a file"))
            .spawn()
            .expect("ctr starts");
        let events = Self { process, heard };
        let mut count = 0_u32;
        until("events are heard", || {
            count += 1;
            let label = format!("count={count}");
            // A label makes the namespace where there is none, and is an event each time.
            let _ = containerd.try_ctr("listening", &["namespaces", "label", "listening", &label]);
            events.text().contains("/namespaces/")
        });
        events
    }

    fn text(&self) -> String {
        fs::read_to_string(self.heard.path()).unwrap_or_default()
    }

    /// The events of a topic so far: the namespace and the event of each.
    pub fn on(&self, topic: &str) -> Vec<(String, Value)> {
        let text = self.text();
        let all = text.lines().filter_map(|line| {
            let (before, event) = line.split_once(&format!(" {topic} "))?;
            let (_, namespace) = before.rsplit_once(' ')?;
            Some((namespace.to_owned(), serde_json::from_str(event).ok()?))
        });
        all.collect()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
