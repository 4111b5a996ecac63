//! Paths inside an image, as users write them: behind the reference, or as an argument of their own.

use tranship_format::erofs::ErofsError;

use crate::failure::{Exit, Failure, Outcome};
use crate::image::Image;

/// A reference and a path in that image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InImage {
    pub(crate) reference: String,
    /// Absolute.
    pub(crate) path: String,
}

/// Schemes after which `:/` begins no path in the image.
const SCHEMES: [&str; 3] = ["docker", "oci", "oci-archive"];

/// Splits `REF:/PATH`, or takes the path from its own argument, or `default`.
pub(crate) fn split(reference: &str, path: Option<&str>, default: &str) -> Outcome<InImage> {
    let inner = reference.rfind(":/").filter(|at| {
        let before = reference.get(..*at).unwrap_or_default();
        !SCHEMES.contains(&before) && !before.is_empty()
    });
    let (reference, behind) = match inner.map(|at| reference.split_at(at)) {
        Some((reference, path)) => (reference, path.strip_prefix(':')),
        None => (reference, None),
    };
    if behind.is_some() && path.is_some() {
        return Err(Failure::new(Exit::Usage, "two paths are given")
            .why("one behind the reference and one as an argument")
            .next("give one: REF:/PATH or REF PATH"));
    }
    let path = behind.or(path).unwrap_or(default);
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    Ok(InImage {
        reference: reference.to_owned(),
        path,
    })
}

/// An error of reading at a path.
pub(crate) fn failure(image: &Image, path: &str, error: &ErofsError) -> Failure {
    match error {
        ErofsError::NotFound { .. } | ErofsError::WrongKind { .. } => {
            Failure::new(Exit::NotFound, format!("no {path} in {}", image.named))
                .because(error)
                .next("`tranship ls` shows what is there")
        }
        _ => image.read_failure(path, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_behind_references_of_all_kinds() {
        for (given, reference, path) in [
            (
                "docker://h:5/r:t:/etc/passwd",
                "docker://h:5/r:t",
                "/etc/passwd",
            ),
            ("h:5/r:t:/etc", "h:5/r:t", "/etc"),
            ("docker://h:5/r:t", "docker://h:5/r:t", "/"),
            ("oci:/srv/x", "oci:/srv/x", "/"),
            ("oci:/srv/x:tag:/etc", "oci:/srv/x:tag", "/etc"),
            ("oci:dir:/etc", "oci:dir", "/etc"),
            ("oci-archive:/srv/x.tar", "oci-archive:/srv/x.tar", "/"),
            ("h/r@sha256:00:/a:/b", "h/r@sha256:00:/a", "/b"),
        ] {
            let found = split(given, None, "/").unwrap();
            assert_eq!(
                (found.reference.as_str(), found.path.as_str()),
                (reference, path),
                "{given}"
            );
        }
        assert_eq!(split("h/r", Some("etc"), "/").unwrap().path, "/etc");
        assert_eq!(
            split("h/r:/a", Some("/b"), "/").unwrap_err().exit,
            Exit::Usage
        );
    }
}
