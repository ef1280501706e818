//! As much HTTP/1.1 as asking one's own programs takes.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON, if the status says success.
    pub fn json(self) -> anyhow::Result<Value> {
        if !(200..300).contains(&self.status) {
            bail!("status {}: {}", self.status, self.body);
        }
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {}", self.body))
    }
}

/// Asks a server on TCP; `address` is `host:port`.
pub fn ask(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(address).with_context(|| format!("nobody answers on {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    exchange(stream, address, method, path, headers, body)
}

/// Asks a server on a Unix socket.
pub fn ask_socket(socket: &Path, method: &str, path: &str, body: &str) -> anyhow::Result<Answer> {
    let stream =
        UnixStream::connect(socket).with_context(|| format!("nobody answers on {}", socket.display()))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    exchange(stream, "localhost", method, path, &[], body)
}

fn exchange(
    mut stream: impl Read + Write,
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> anyhow::Result<Answer> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.extend([name, ": ", value, "\r\n"]);
    }
    if !body.is_empty() {
        let length = body.len().to_string();
        request.extend(["Content-Type: application/json\r\nContent-Length: ", &length, "\r\n"]);
    }
    request.push_str("\r\n");
    request.push_str(body);
    stream.write_all(request.as_bytes())?;
    let answer = receive(&mut stream).with_context(|| format!("no answer to {method} {path} of {host}"))?;
    parse(&answer)
}

/// Reads an answer to where it ends by its length, if it tells one: not every server closes the connection then.
fn receive(stream: &mut impl Read) -> anyhow::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let count = match stream.read(&mut piece) {
            // A socket with a time-out is not read on by itself after a signal: socket(7), SO_RCVTIMEO.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read?,
        };
        answer.extend_from_slice(&piece[..count]);
        if count == 0 || length(&answer).is_some_and(|length| answer.len() >= length) {
            return Ok(answer);
        }
    }
}

/// How long head and body are together, once the head is there and if it says.
fn length(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&answer[..head]).ok()?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let mut told = lines.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    Some(head + 4 + told.next()?.1.trim().parse::<usize>().ok()?)
}

fn parse(answer: &[u8]) -> anyhow::Result<Answer> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").context("an answer without a head")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .context("an answer without a status")?;
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { unchunked(body)? } else { body.to_owned() };
    Ok(Answer { status, body })
}

fn unchunked(mut rest: &str) -> anyhow::Result<String> {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).context("a chunk without a size")?;
        if size == 0 {
            break;
        }
        body.push_str(after.get(..size).context("a chunk that was cut")?);
        rest = after.get(size + 2..).unwrap_or_default();
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::io::{self, Cursor};

    use super::*;

    /// Interrupted by a signal before each piece that it gives.
    struct Interrupted<R> {
        inner: R,
        is_next: bool,
    }

    impl<R: Read> Read for Interrupted<R> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.is_next = !self.is_next;
            if self.is_next { Err(ErrorKind::Interrupted.into()) } else { self.inner.read(buffer) }
        }
    }

    #[test]
    fn a_signal_while_an_answer_is_awaited_is_no_error() -> anyhow::Result<()> {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        let mut stream = Interrupted { inner: Cursor::new(whole), is_next: false };
        assert_eq!(receive(&mut stream)?, whole);
        Ok(())
    }
}
