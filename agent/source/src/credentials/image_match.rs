//! Which images a pattern of the kubelet's means: `*.dkr.ecr.*.amazonaws.com`, `registry.example:5000/team`.
//!
//! The kubelet's rules, since the patterns are written for it: as many parts of the host's name on both sides, globs within one part
//! alone, the same port or none on both sides, and a path that begins as the pattern's does.

use crate::reference::RepoRef;

/// Whether `pattern` means `repo`.
pub(super) fn matches(pattern: &str, repo: &RepoRef) -> bool {
    let bare = pattern
        .strip_prefix("https://")
        .or_else(|| pattern.strip_prefix("http://"))
        .unwrap_or(pattern);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    // Docker's old keys.
    let path = match path.trim_end_matches('/') {
        "v1" | "v2" => "",
        path => path
            .strip_prefix("v1/")
            .or_else(|| path.strip_prefix("v2/"))
            .unwrap_or(path),
    };
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    };
    let (globs, port) = split_port(host);
    let (name, wanted_port) = split_port(repo.host());
    let (globs, parts): (Vec<_>, Vec<_>) = (globs.split('.').collect(), name.split('.').collect());
    port == wanted_port
        && globs.len() == parts.len()
        && repo.path().starts_with(path)
        && globs
            .iter()
            .zip(&parts)
            .all(|(glob, part)| glob_matches(glob.as_bytes(), part.as_bytes()))
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// `*` is any text and `?` any character.
fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut rest, mut left) = (glob, text);
    // Where to go on when the text after the last star is found to be another.
    let mut again: Option<(&[u8], &[u8])> = None;
    loop {
        match (rest, left) {
            ([b'*', after @ ..], _) => {
                again = Some((after, left));
                rest = after;
            }
            ([], []) => return true,
            ([g, after @ ..], [t, others @ ..]) if g == t || *g == b'?' => {
                (rest, left) = (after, others);
            }
            _ => match again {
                Some((after, [_, others @ ..])) => {
                    again = Some((after, others));
                    (rest, left) = (after, others);
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_rules_hold() {
        for (pattern, repo) in [
            ("registry.example", "registry.example/a"),
            ("https://registry.example/v1/", "registry.example/a"),
            ("registry.example/v2/a", "registry.example/a/b"),
            ("registry.example/team", "registry.example/team/app"),
            ("registry.example/team", "registry.example/teams/app"),
            ("*.example", "registry.example/a"),
            ("*.*.example", "a.b.example/x"),
            ("reg*try.example", "registry.example/x"),
            ("*.example:5000", "registry.example:5000/a"),
            (
                "*.dkr.ecr.*.amazonaws.com",
                "123.dkr.ecr.eu-west-1.amazonaws.com/app",
            ),
            ("docker.io", "busybox"),
            ("https://index.docker.io/v1/", "busybox"),
            ("r?g.example", "reg.example/a"),
            ("[::1]:5000", "[::1]:5000/a"),
        ] {
            assert!(matches(pattern, &repo.parse().unwrap()), "{pattern} {repo}");
        }
        for (pattern, repo) in [
            ("*.example", "example/a"),
            ("*.example", "a.b.example/x"),
            ("*", "registry.example/a"),
            ("registry.example", "registry.example:5000/a"),
            ("registry.example:5000", "registry.example/a"),
            ("registry.example/team", "registry.example/other"),
            ("registry.example", "evil-registry.example/a"),
            ("a*b*c.example", "acb.example/x"),
            ("", "registry.example/a"),
        ] {
            assert!(
                !matches(pattern, &repo.parse().unwrap()),
                "{pattern} {repo}"
            );
        }
    }
}
