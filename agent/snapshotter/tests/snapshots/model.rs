//! The metadata against a map: any calls in any order are answered alike, and a new start changes nothing.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tranship_snapshotter::{Kind, LabelChange, SnapshotError, Snapshotter};

use crate::fake::{Fake, folders, listed, plain};

/// The names that calls are about: few, so that they meet.
const NAMES: u8 = 6;

#[derive(Clone, Debug)]
enum Call {
    Prepare { key: u8, parent: u8 },
    View { key: u8, parent: u8 },
    Commit { key: u8, name: u8, onto: u8 },
    Remove { key: u8 },
    Label { key: u8, value: u8 },
    CleanUp,
    Restart,
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    // The last name stands for none.
    let (name, parent) = (0..NAMES, 0..=NAMES);
    let call = prop_oneof![
        6 => (name.clone(), parent.clone()).prop_map(|(key, parent)| Call::Prepare { key, parent }),
        2 => (name.clone(), parent.clone()).prop_map(|(key, parent)| Call::View { key, parent }),
        6 => (name.clone(), name.clone(), prop_oneof![4 => Just(NAMES), 1 => parent]).prop_map(|(key, name, onto)| Call::Commit { key, name, onto }),
        4 => name.clone().prop_map(|key| Call::Remove { key }),
        2 => (name, any::<u8>()).prop_map(|(key, value)| Call::Label { key, value }),
        1 => Just(Call::CleanUp),
        1 => Just(Call::Restart),
    ];
    prop::collection::vec(call, 1..40)
}

fn named(number: u8) -> String {
    if number == NAMES {
        String::new()
    } else {
        format!("ns/{number}")
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Row {
    parent: String,
    kind: Kind,
    label: Option<String>,
}

/// The rules once more, without a disk. The answer is the name of the refusal.
#[derive(Debug, Default)]
struct Model {
    rows: BTreeMap<String, Row>,
}

impl Model {
    fn bears(&self, parent: &str) -> Result<(), &'static str> {
        match self.rows.get(parent) {
            _ if parent.is_empty() => Ok(()),
            None => Err("not found"),
            Some(row) if row.kind != Kind::Committed => Err("not committed"),
            Some(_) => Ok(()),
        }
    }

    fn add(&mut self, key: u8, parent: u8, kind: Kind) -> Result<(), &'static str> {
        let parent = named(parent);
        self.bears(&parent)?;
        if self.rows.contains_key(&named(key)) {
            return Err("exists");
        }
        let label = None;
        self.rows.insert(
            named(key),
            Row {
                parent,
                kind,
                label,
            },
        );
        Ok(())
    }

    fn commit(&mut self, key: u8, name: u8, onto: u8) -> Result<(), &'static str> {
        let (key, name, onto) = (named(key), named(name), named(onto));
        let mut row = self.rows.get(&key).cloned().ok_or("not found")?;
        if row.kind != Kind::Active {
            return Err("wrong kind");
        }
        if self.rows.contains_key(&name) {
            return Err("exists");
        }
        if !onto.is_empty() && onto != row.parent {
            if !row.parent.is_empty() {
                return Err("invalid");
            }
            self.bears(&onto)?;
            row.parent = onto;
        }
        self.rows.remove(&key);
        let (kind, label) = (Kind::Committed, None);
        self.rows.insert(name, Row { kind, label, ..row });
        Ok(())
    }

    fn remove(&mut self, key: u8) -> Result<(), &'static str> {
        let key = named(key);
        if !self.rows.contains_key(&key) {
            return Err("not found");
        }
        if self.rows.values().any(|row| row.parent == key) {
            return Err("has children");
        }
        self.rows.remove(&key);
        Ok(())
    }

    fn label(&mut self, key: u8, value: u8) -> Result<(), &'static str> {
        let row = self.rows.get_mut(&named(key)).ok_or("not found")?;
        row.label = Some(value.to_string());
        Ok(())
    }
}

fn word<T>(outcome: Result<T, SnapshotError>) -> Result<(), &'static str> {
    outcome.map(drop).map_err(|error| match error {
        SnapshotError::NotFound { .. } => "not found",
        SnapshotError::Exists { .. } => "exists",
        SnapshotError::ParentNotCommitted { .. } => "not committed",
        SnapshotError::HasChildren { .. } => "has children",
        SnapshotError::WrongKind { .. } => "wrong kind",
        SnapshotError::Invalid { .. } => "invalid",
        other => panic!("{other}"),
    })
}

async fn run(calls: Vec<Call>) {
    let dir = tempfile::tempdir().unwrap();
    let mut snapshotter = Snapshotter::open(dir.path(), Fake::new()).unwrap();
    let mut model = Model::default();
    for call in calls {
        let (found, wanted) = match call {
            Call::Prepare { key, parent } => (
                word(
                    snapshotter
                        .prepare(plain(&named(key), &named(parent)))
                        .await,
                ),
                model.add(key, parent, Kind::Active),
            ),
            Call::View { key, parent } => (
                word(snapshotter.view(plain(&named(key), &named(parent))).await),
                model.add(key, parent, Kind::View),
            ),
            Call::Commit { key, name, onto } => {
                let (from, to, onto_name) = (named(key), named(name), named(onto));
                let done = snapshotter.commit(&from, &to, &onto_name, [].into()).await;
                (word(done), model.commit(key, name, onto))
            }
            Call::Remove { key } => (
                word(snapshotter.remove(&named(key)).await),
                model.remove(key),
            ),
            Call::Label { key, value } => {
                let labels = [("label".to_owned(), value.to_string())].into();
                let change = LabelChange::All;
                let done = snapshotter.update(&named(key), labels, change).await;
                (word(done), model.label(key, value))
            }
            Call::CleanUp => {
                snapshotter.clean_up().await.unwrap();
                assert_eq!(folders(dir.path()), listed(&snapshotter).await);
                (Ok(()), Ok(()))
            }
            Call::Restart => {
                drop(snapshotter);
                snapshotter = Snapshotter::open(dir.path(), Fake::new()).unwrap();
                assert_eq!(snapshotter.quarantined(), []);
                (Ok(()), Ok(()))
            }
        };
        assert_eq!(found, wanted, "{call:?}");
        let all = snapshotter.list(&[]).await.unwrap();
        let rows: BTreeMap<String, Row> = all
            .into_iter()
            .map(|snapshot| {
                let label = snapshot.labels.get("label").cloned();
                let (parent, kind) = (snapshot.parent, snapshot.kind);
                (
                    snapshot.name,
                    Row {
                        parent,
                        kind,
                        label,
                    },
                )
            })
            .collect();
        assert_eq!(rows, model.rows, "after {call:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_calls_in_any_order_are_answered_as_a_map_would(calls in calls()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(calls));
    }
}
