//! The remark behind a setting of ours: that it is ours, and what stood there.
//!
//! It stands in the file itself, so that nothing else must be kept, and whoever edits the file sees it.

use toml_edit::{DocumentMut, Value};

/// Begins the remark.
pub(super) const MARK: &str = " # set by tranship";
/// What stood there follows, as TOML, with the remark that was behind it.
const WAS: &str = ", was ";

/// Marks `value` as ours, in place of `before`; `None` if what stood there does not fit into a remark.
pub(super) fn put(value: &mut Value, before: Option<&Value>) -> Option<()> {
    let remark = match before {
        None => MARK.to_owned(),
        Some(before) => {
            let mut before = before.clone();
            before.decor_mut().set_prefix("");
            let text = before.to_string();
            if text.contains('\n') {
                return None;
            }
            format!("{MARK}{WAS}{text}")
        }
    };
    let decor = value.decor_mut();
    decor.set_prefix(" ");
    decor.set_suffix(remark);
    Some(())
}

/// A setting of ours.
#[derive(Debug)]
pub(super) struct Ours {
    /// What stood there, if anything did.
    pub(super) before: Option<Value>,
}

/// What stood where a value of ours is; `None` if it is not ours.
pub(super) fn read(value: &Value) -> Option<Ours> {
    let remark = value.decor().suffix()?.as_str()?;
    let before = remark.strip_prefix(MARK)?;
    let Some(before) = before.strip_prefix(WAS) else {
        return Some(Ours { before: None });
    };
    let document: DocumentMut = format!("was = {before}\n").parse().ok()?;
    let mut before = document.get("was")?.as_value()?.clone();
    before.decor_mut().set_prefix(" ");
    Some(Ours {
        before: Some(before),
    })
}
