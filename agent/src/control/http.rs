//! One HTTP/1.1 exchange over a unix socket, by hand.
//!
//! Both ends are ours and each call is one short exchange of JSON, so a client library would be more code to trust than
//! this file. It asks for `connection: close`, takes an answer with a `content-length`, and bounds both the head and the
//! body: whoever answers at that path cannot make a tool use much memory.

use std::io;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Longest head of an answer: ours are about 150 bytes, a proxy in between could add some.
const MAX_HEAD_LEN: usize = 16 * 1024;
/// Longest body: the list of a thousand devices is half a megabyte.
const MAX_BODY_LEN: usize = 16 * 1024 * 1024;

/// An answer as it came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The status code.
    pub(super) status: u16,
    /// The whole body.
    pub(super) body: Vec<u8>,
}

/// Sends one request and reads its answer. `target` is path and query, already percent-encoded.
pub(super) async fn exchange(
    socket: &Path,
    method: &str,
    target: &str,
    body: Option<&[u8]>,
) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket).await?;
    let content = body.unwrap_or_default();
    let mut request = format!(
        "{method} {target} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        content.len()
    )
    .into_bytes();
    request.extend_from_slice(content);
    stream.write_all(&request).await?;

    let mut received = Vec::new();
    let limit = MAX_HEAD_LEN.saturating_add(MAX_BODY_LEN).saturating_add(1);
    (&mut stream)
        .take(u64::try_from(limit).unwrap_or(u64::MAX))
        .read_to_end(&mut received)
        .await?;
    parse(&received)
}

/// Reads a whole answer.
fn parse(received: &[u8]) -> io::Result<Answer> {
    let head_len = received
        .windows(4)
        .take(MAX_HEAD_LEN)
        .position(|window| window == b"\r\n\r\n")
        .ok_or_else(|| malformed("no end of the answer's head"))?;
    let (head, rest) = received.split_at(head_len);
    let body = rest.get(4..).unwrap_or_default();
    let head = str::from_utf8(head).map_err(|_| malformed("the answer's head is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 "))
        .and_then(|line| line.get(..3))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| malformed("no status line"))?;
    let mut declared = None;
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| malformed("a header without a colon"))?;
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(malformed(
                "an answer in parts, which this client does not read",
            ));
        }
        if name.eq_ignore_ascii_case("content-length") {
            declared = Some(
                value
                    .trim()
                    .parse::<usize>()
                    .map_err(|_| malformed("a content-length that is no number"))?,
            );
        }
    }
    let declared = declared.unwrap_or(body.len());
    if declared > MAX_BODY_LEN {
        return Err(malformed("an answer that is too long"));
    }
    let body = body
        .get(..declared)
        .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the answer broke off"))?;
    Ok(Answer {
        status,
        body: body.to_vec(),
    })
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_with_a_body_is_read() {
        let answer =
            parse(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nx: y\r\n\r\n{}").unwrap();
        assert_eq!(answer.status, 404);
        assert_eq!(answer.body, b"{}");
    }

    #[test]
    fn broken_off_answer_is_an_error_and_not_a_short_body() {
        let error = parse(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_not_http_is_refused() {
        for bytes in [
            &b""[..],
            b"SSH-2.0-x\r\n\r\n",
            b"HTTP/1.1 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ] {
            assert!(parse(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
