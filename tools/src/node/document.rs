//! A configuration file whose settings are changed with everything else in it kept as it is.

use toml_edit::{DocumentMut, Item, Table, TableLike, Value};

use super::remark::{self, Ours};

/// Why a setting cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// What should be a table is something else.
    NoTable,
    /// What stands there is no simple value.
    NoValue,
}

/// Sets the value at `path`, marked as ours; what has that value already stays as it is.
pub(super) fn set(
    document: &mut DocumentMut,
    path: &[String],
    value: &Value,
) -> Result<(), Obstacle> {
    let (last, above) = path.split_last().ok_or(Obstacle::NoTable)?;
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for key in above {
        let item = table.entry(key).or_insert_with(|| {
            let mut table = Table::new();
            // Shown only where it holds a value itself.
            table.set_implicit(true);
            Item::Table(table)
        });
        table = item.as_table_like_mut().ok_or(Obstacle::NoTable)?;
    }
    let before = match table.get(last) {
        None => None,
        Some(Item::Value(before)) if same(before, value) => return Ok(()),
        Some(Item::Value(before)) => match remark::read(before) {
            // Ours from an earlier time: what stood there before that counts.
            Some(ours) => ours.before,
            None => Some(before.clone()),
        },
        Some(_) => return Err(Obstacle::NoValue),
    };
    let mut value = value.clone();
    remark::put(&mut value, before.as_ref()).ok_or(Obstacle::NoValue)?;
    match table.get_mut(last) {
        Some(item) => *item = Item::Value(value),
        None => {
            table.insert(last, Item::Value(value));
        }
    }
    Ok(())
}

/// Whether two values mean the same.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::String(one), Value::String(other)) => one.value() == other.value(),
        (Value::Boolean(one), Value::Boolean(other)) => one.value() == other.value(),
        (Value::Integer(one), Value::Integer(other)) => one.value() == other.value(),
        _ => false,
    }
}

/// Takes back all that is marked as ours, and the tables that it leaves empty.
pub(super) fn restore(document: &mut DocumentMut) {
    restore_table(document.as_table_mut());
}

/// Whether values were taken out of it.
fn restore_table(table: &mut dyn TableLike) -> bool {
    let mut took_any = false;
    let keys: Vec<String> = table.iter().map(|(key, _)| key.to_owned()).collect();
    for key in keys {
        let Some(item) = table.get_mut(&key) else {
            continue;
        };
        let is_over = match item {
            Item::Value(value) => match remark::read(value) {
                None => false,
                Some(Ours { before: None }) => {
                    took_any = true;
                    true
                }
                Some(Ours {
                    before: Some(before),
                }) => {
                    *value = before;
                    false
                }
            },
            // One that stood there empty before stays.
            Item::Table(below) => {
                let took = restore_table(below);
                below.is_empty() && (took || below.is_implicit())
            }
            Item::None | Item::ArrayOfTables(_) => false,
        };
        if is_over {
            table.remove(&key);
        }
    }
    took_any
}

/// Adds a file to `imports`, if it is not among them. A list that holds nothing else is marked as ours.
pub(super) fn import(document: &mut DocumentMut, file: &str) -> Result<(), Obstacle> {
    let before = match document.get("imports") {
        None => None,
        Some(Item::Value(Value::Array(list))) if !list.is_empty() => {
            let list = document.get_mut("imports").and_then(Item::as_array_mut);
            let list = list.ok_or(Obstacle::NoValue)?;
            if !list.iter().any(|import| import.as_str() == Some(file)) {
                list.push(file);
            }
            return Ok(());
        }
        Some(Item::Value(before @ Value::Array(_))) => Some(before.clone()),
        Some(_) => return Err(Obstacle::NoValue),
    };
    let mut list = Value::Array(std::iter::once(file).collect());
    remark::put(&mut list, before.as_ref()).ok_or(Obstacle::NoValue)?;
    match document.get_mut("imports") {
        Some(item) => *item = Item::Value(list),
        None => {
            document.insert("imports", Item::Value(list));
        }
    }
    Ok(())
}

/// Takes a file out of `imports`. A list of ours to which others have added is theirs from then on.
pub(super) fn forget(document: &mut DocumentMut, file: &str) {
    let Some(Item::Value(value)) = document.get_mut("imports") else {
        return;
    };
    let ours = remark::read(value);
    let Value::Array(list) = value else {
        return;
    };
    let had_it = list.iter().any(|import| import.as_str() == Some(file));
    list.retain(|import| import.as_str() != Some(file));
    if !list.is_empty() {
        if ours.is_some() {
            value.decor_mut().set_suffix("");
        }
        return;
    }
    match ours {
        Some(Ours {
            before: Some(before),
        }) => *value = before,
        Some(Ours { before: None }) => {
            document.remove("imports");
        }
        None if had_it => {
            document.remove("imports");
        }
        None => {}
    }
}
