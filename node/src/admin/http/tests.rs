use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

async fn start(status: Status) -> (Handle, CancellationToken) {
    let shutdown = CancellationToken::new();
    let options = Options {
        address: "127.0.0.1:0".into(),
        status: Arc::new(move || status.clone()),
        metrics: Metrics::new(),
        shutdown: shutdown.clone(),
    };
    (options.start().await.expect("listens"), shutdown)
}

async fn get(handle: &Handle, path: &str) -> String {
    let mut stream = TcpStream::connect(handle.address())
        .await
        .expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answers");
    answer
}

#[tokio::test]
async fn ready_says_what_it_waits_for() {
    let waiting = Status {
        waiting_for: vec!["the local server is not reachable".into()],
        ..Status::default()
    };
    let (handle, _shutdown) = start(waiting).await;
    let answer = get(&handle, "/ready").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.contains("the local server is not reachable"),
        "{answer}"
    );
    let answer = get(&handle, "/health").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_ready_node_answers_everything() {
    let status = Status {
        name: "a".into(),
        ready: true,
        ..Status::default()
    };
    let (handle, _shutdown) = start(status.clone()).await;
    assert!(get(&handle, "/ready").await.starts_with("HTTP/1.1 200"));
    let answer = get(&handle, "/v1/status").await;
    let (_, body) = answer.split_once("\r\n\r\n").expect("has a body");
    let read: Status = serde_json::from_str(body).expect("is the document");
    assert_eq!(read, status);
    let answer = get(&handle, "/metrics").await;
    assert!(answer.contains("text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("everywrite_node_ready 1"), "{answer}");
    let answer = get(&handle, "/").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(answer.contains("/v1/status"), "{answer}");
}

#[tokio::test]
async fn a_silent_client_does_not_hold_up_the_end() {
    let (handle, shutdown) = start(Status::default()).await;
    let mut silent = TcpStream::connect(handle.address())
        .await
        .expect("connects");
    silent.write_all(b"GET /v1/sta").await.expect("writes half");
    shutdown.cancel();
    let ended = tokio::time::timeout(SHUTDOWN_GRACE * 3, handle.finished()).await;
    assert!(ended.is_ok());
}

#[tokio::test]
async fn a_taken_address_is_one_clear_line() {
    let (handle, _shutdown) = start(Status::default()).await;
    let options = Options {
        address: handle.address().to_string(),
        status: Arc::new(Status::default),
        metrics: Metrics::new(),
        shutdown: CancellationToken::new(),
    };
    let error = options.start().await.expect_err("is taken").to_string();
    assert!(error.contains("[listen] admin"), "{error}");
    assert!(error.contains(&handle.address().to_string()), "{error}");
}
