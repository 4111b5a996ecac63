//! Secrets that the tracker makes, keeps and compares: the join token and the operator token.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tranship_format::Digest;
use tranship_source::net::{JoinToken, random_bytes};

/// Why a token cannot be had.
#[derive(Debug, Error)]
#[error("have a token in {path}")]
pub struct TokenError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Reads a token, or makes one that nobody can guess, in a file that only
/// its owner may read.
pub(crate) fn token(path: &Path) -> Result<JoinToken, TokenError> {
    let failed = |source| TokenError {
        path: path.to_owned(),
        source,
    };
    match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => Ok(JoinToken::new(&text)),
        Ok(_) => Err(failed(io::Error::other("the file is empty"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = random_bytes().ok_or_else(|| failed(io::Error::other("no randomness")))?;
            let text = Digest::of(&secret).hex();
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir).map_err(failed)?;
            }
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map_err(failed)?;
            writeln!(file, "{text}").map_err(failed)?;
            file.sync_all().map_err(failed)?;
            tracing::info!(path = %path.display(), "made a token");
            Ok(JoinToken::new(&text))
        }
        Err(error) => Err(failed(error)),
    }
}

/// A token to compare with. Not the token itself: what is compared says nothing about it.
#[derive(Clone, Debug)]
pub(crate) struct Secret(Digest);

impl Secret {
    pub(crate) fn new(token: &JoinToken) -> Self {
        Self(Digest::of(token.reveal()))
    }

    /// Compares without stopping at the first difference, and hashes: how long it takes tells
    /// nothing about the token. No token is none, whatever the secret is.
    pub(crate) fn is(&self, token: &[u8]) -> bool {
        if token.is_empty() {
            return false;
        }
        let given = Digest::of(token);
        let pairs = given.bytes().iter().zip(self.0.bytes());
        pairs.fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/token");
        let made = token(&path).unwrap();
        assert!(made.reveal().len() >= 32);
        assert_eq!(token(&path).unwrap(), made);
        fs::write(&path, " \n").unwrap();
        assert!(token(&path).is_err());
    }

    #[test]
    fn only_the_token_itself_is_the_token() {
        let secret = Secret::new(&JoinToken::new("secret"));
        assert!(secret.is(b"secret"));
        for wrong in [&b"secreT"[..], b"", b"secret "] {
            assert!(!secret.is(wrong));
        }
    }

    #[test]
    fn who_shows_nothing_is_nobody_even_where_the_secret_is_empty() {
        assert!(!Secret::new(&JoinToken::new(" \n")).is(b""));
    }
}
