//! One HTTP GET over a plain connection: all that the command needs of HTTP.
//!
//! It asks in HTTP/1.0, so the answer is never in chunks and ends with the connection.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Error;

/// The daemon answers from memory; what takes longer is stuck.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A status is a few kilobytes; more than this is something else.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The body of a 200 answer.
pub(super) async fn get(address: &str, path: &str) -> Result<Vec<u8>, Error> {
    let asked = tokio::time::timeout(TIMEOUT, connect_and_ask(address, path)).await;
    asked.unwrap_or_else(|_| {
        Err(Error::Timeout {
            address: address.to_owned(),
            seconds: TIMEOUT.as_secs(),
        })
    })
}

async fn connect_and_ask(address: &str, path: &str) -> Result<Vec<u8>, Error> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|source| Error::Connect {
            address: address.to_owned(),
            source,
        })?;
    let asked = ask(stream, address, path).await;
    asked
        .map_err(|error| error.to_string())
        .and_then(|answer| body_of(&answer))
        .map_err(|reason| Error::Answer {
            address: address.to_owned(),
            reason,
        })
}

async fn ask(mut stream: TcpStream, address: &str, path: &str) -> io::Result<Vec<u8>> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .await?;
    Ok(answer)
}

/// The body, if the answer is whole and says 200.
fn body_of(answer: &[u8]) -> Result<Vec<u8>, String> {
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .ok_or("the answer is not HTTP")?;
    let (head, rest) = answer.split_at(end);
    let body = rest.get(4..).unwrap_or_default();
    let head = std::str::from_utf8(head).map_err(|_| "the answer is not HTTP")?;
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let code = first
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .ok_or("the answer is not HTTP")?;
    if code != "200" {
        return Err(format!("it says HTTP {code}"));
    }
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    if length.is_some_and(|length| length != body.len()) {
        return Err("the answer broke off".to_owned());
    }
    Ok(body.to_vec())
}

/// `host:port` of what was given with --admin.
pub(super) fn address_of(url: &str) -> Result<String, Error> {
    if url.starts_with("https://") {
        return Err(Error::Https(url.to_owned()));
    }
    let address = url.strip_prefix("http://").unwrap_or(url);
    let address = address.split('/').next().unwrap_or_default();
    let port = address.rsplit_once(':').and_then(|(host, port)| {
        let whole = !host.is_empty() && (!host.contains(':') || host.ends_with(']'));
        whole.then(|| port.parse::<u16>().ok()).flatten()
    });
    match port {
        Some(1..) => Ok(dialable(address)),
        _ => Err(Error::Url(url.to_owned())),
    }
}

/// A daemon that listens on every address of its machine is reached on the loopback one.
pub(super) fn dialable(listen: &str) -> String {
    for (any, loopback) in [("0.0.0.0:", "127.0.0.1:"), ("[::]:", "[::1]:")] {
        if let Some(port) = listen.strip_prefix(any) {
            return format!("{loopback}{port}");
        }
    }
    listen.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        for (given, address) in [
            ("http://127.0.0.1:7401", "127.0.0.1:7401"),
            ("http://127.0.0.1:7401/v1/status", "127.0.0.1:7401"),
            ("db1.example:7401", "db1.example:7401"),
            ("http://[::1]:7401/", "[::1]:7401"),
            ("0.0.0.0:7401", "127.0.0.1:7401"),
            ("[::]:7401", "[::1]:7401"),
        ] {
            assert_eq!(address_of(given).expect(given), address);
        }
        for wrong in [
            "", "db1", "db1:", ":7401", "db1:port", "db1:0", "::1:7401", "http://",
        ] {
            assert!(address_of(wrong).is_err(), "{wrong}");
        }
        let error = address_of("https://db1:7401").expect_err("no TLS here");
        assert!(error.to_string().contains("plain HTTP"), "{error}");
    }

    #[test]
    fn answers_that_are_not_ours() {
        let reason = |answer: &[u8]| body_of(answer).expect_err("refused");
        assert_eq!(reason(b""), "the answer is not HTTP");
        assert_eq!(reason(b"SSH-2.0-OpenSSH\r\n\r\n"), "the answer is not HTTP");
        assert_eq!(
            reason(b"HTTP/1.1 404 Not Found\r\n\r\n"),
            "it says HTTP 404"
        );
        assert_eq!(
            reason(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nabc"),
            "the answer broke off"
        );
        let whole = b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(body_of(whole).expect("whole"), b"abc");
    }
}
