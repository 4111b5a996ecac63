//! Which snapshots a list is asked for.
//!
//! Of containerd's filter language we read what containerd itself sends when it looks for a lazy layer: fields that equal a
//! value, joined by commas. Anything else lets every snapshot through; containerd looks at what it is given again.

use crate::snapshot::{Kind, Snapshot};

/// One filter: all of its conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    conditions: Vec<(Field, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Parent,
    Kind,
    Label(String),
}

impl Filter {
    /// Reads a filter; `None` for one that says more than we read.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut conditions = Vec::new();
        let mut rest = text.trim();
        loop {
            let (path, after) = field_path(rest)?;
            let (value, after) = value(after.strip_prefix("==")?)?;
            let field = match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["name"] => Field::Name,
                ["parent"] => Field::Parent,
                ["kind"] => Field::Kind,
                ["labels", label] => Field::Label(label.to_owned()),
                _ => return None,
            };
            conditions.push((field, value));
            let Some(next) = after.strip_prefix(',') else {
                return after.is_empty().then_some(Self { conditions });
            };
            rest = next;
        }
    }

    /// Whether the snapshot is asked for.
    pub(crate) fn admits(&self, snapshot: &Snapshot) -> bool {
        self.conditions.iter().all(|(field, value)| {
            let found = match field {
                Field::Name => Some(snapshot.name.as_str()),
                Field::Parent => Some(snapshot.parent.as_str()),
                Field::Kind => Some(match snapshot.kind {
                    Kind::View => "view",
                    Kind::Active => "active",
                    Kind::Committed => "committed",
                }),
                Field::Label(label) => snapshot.labels.get(label).map(String::as_str),
            };
            found.is_some_and(|found| match field {
                Field::Kind => found.eq_ignore_ascii_case(value),
                _ => found == value,
            })
        })
    }
}

/// `labels."containerd.io/snapshot.ref"`: names and quoted names with dots between.
fn field_path(text: &str) -> Option<(Vec<String>, &str)> {
    let mut path = Vec::new();
    let mut rest = text;
    loop {
        let (name, after) = if rest.starts_with('"') {
            quoted(rest)?
        } else {
            let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')?;
            let (name, after) = rest.split_at_checked(end)?;
            (name.to_owned(), after)
        };
        path.push(name);
        let Some(next) = after.strip_prefix('.') else {
            return Some((path, after));
        };
        rest = next;
    }
}

/// A quoted value, or all up to the next comma.
fn value(text: &str) -> Option<(String, &str)> {
    if text.starts_with('"') {
        return quoted(text);
    }
    let end = text.find(',').unwrap_or(text.len());
    let (value, after) = text.split_at_checked(end)?;
    (!value.contains('"')).then(|| (value.to_owned(), after))
}

/// A text in double quotes, with a backslash before quotes and backslashes in it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut letters = text.strip_prefix('"')?.char_indices();
    let mut plain = String::new();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((plain, text.get(at.checked_add(2)?..)?)),
            '\\' => match letters.next()?.1 {
                escaped @ ('"' | '\\') => plain.push(escaped),
                _ => return None,
            },
            other => plain.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::new(1, "sha256:ab", "", Kind::Committed);
        snapshot
            .labels
            .insert("containerd.io/snapshot.ref".into(), "sha256:ab".into());
        snapshot
    }

    #[test]
    fn what_containerd_asks_for_a_lazy_layer_is_understood() {
        let text = r#"labels."containerd.io/snapshot.ref"==sha256:ab,parent=="""#;
        let filter = Filter::parse(text).unwrap();
        assert!(filter.admits(&snapshot()));
        let mut other = snapshot();
        other.parent = "sha256:cd".into();
        assert!(!filter.admits(&other));
        other = snapshot();
        other.labels.clear();
        assert!(!filter.admits(&other));
        assert!(
            Filter::parse("kind==Committed")
                .unwrap()
                .admits(&snapshot())
        );
    }

    #[test]
    fn what_is_not_understood_is_no_filter() {
        for text in [
            "",
            "name",
            "name!=a",
            "name~=a",
            "colour==red",
            "labels.a.b==c",
            "name==\"a",
            "name==\"a\\n\"",
            "name==a\"b",
            "name==a,",
            "name==\"a\"b",
        ] {
            assert_eq!(Filter::parse(text), None, "{text}");
        }
        assert!(Filter::parse(r#"name=="a\"b\\""#).is_some());
    }
}
