//! Registries (`registry.example:5000`) and parts of them (`registry.example/team`) that a setting names.

use crate::reference::RepoRef;

/// Whether one of the places is the repository, or holds it.
pub fn cover(places: &[String], repo: &RepoRef) -> bool {
    let name = format!("{}/{}", repo.host(), repo.path());
    places.iter().any(|place| {
        let place = place.trim_end_matches('/');
        let rest = name.strip_prefix(place).filter(|_| !place.is_empty());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}
