//! The few bytes of HTTP that asking the admin port takes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer: status code and body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// 200, 503, …
    pub code: u16,
    /// What came after the headers.
    pub body: String,
}

/// GET of one path; the server closes the connection after the answer.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    tokio::time::timeout(Duration::from_secs(5), exchange(address, path))
        .await
        .with_context(|| format!("no answer from http://{address}{path} within 5 s"))?
        .with_context(|| format!("get http://{address}{path}"))
}

async fn exchange(address: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let mut stream = TcpStream::connect(address).await.context("connect")?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.context("ask")?;
    let mut bytes = Vec::new();
    stream
        .read_to_end(&mut bytes)
        .await
        .context("read the answer")?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("an answer without an end of headers")?;
    let code = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("an answer without a status code")?;
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = if chunked {
        unchunk(body)
    } else {
        body.to_owned()
    };
    Ok(Answer { code, body })
}

fn unchunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else {
            break;
        };
        let Some(chunk) = tail.get(..size).filter(|_| size > 0) else {
            break;
        };
        body.push_str(chunk);
        rest = tail.get(size + 2..).unwrap_or("");
    }
    body
}
