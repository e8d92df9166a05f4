//! The proxy does to connections what it says it does.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use everywrite_tests::proxy::{Direction, Flow, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Long enough that silence is silence, short enough to wait for.
const SILENCE: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(10);

/// Sends everything back, also what arrives after the other side closed its writing half.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.ok();
                tokio::time::sleep(SOON).await; // stays open until the process ends
            });
        }
    });
    address
}

async fn exchange(stream: &mut TcpStream, text: &str) -> Option<String> {
    stream.write_all(text.as_bytes()).await.ok()?;
    let mut answer = vec![0; text.len()];
    timeout(SILENCE, stream.read_exact(&mut answer))
        .await
        .ok()?
        .ok()?;
    String::from_utf8(answer).ok()
}

#[tokio::test]
async fn forwards_then_cuts_then_heals() {
    let proxy = Proxy::start(echo().await).await.unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(exchange(&mut stream, "one").await.as_deref(), Some("one"));

    proxy.cut();
    let end = timeout(SOON, stream.read(&mut [0; 8])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
    let end = timeout(SOON, refused.read(&mut [0; 8])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert_eq!(proxy.connections(), 1);

    proxy.heal();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(exchange(&mut stream, "two").await.as_deref(), Some("two"));
    proxy.drop_connections();
    let end = timeout(SOON, stream.read(&mut [0; 8])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert!(proxy.weather().accepts);
}

#[tokio::test]
async fn half_open_keeps_silent_and_goes_on_where_it_was() {
    let proxy = Proxy::start(echo().await).await.unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(exchange(&mut stream, "one").await.is_some());
    proxy.freeze();
    assert!(exchange(&mut stream, "two").await.is_none());
    proxy.heal();
    let mut answer = [0; 3];
    timeout(SOON, stream.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer, b"two");
}

#[tokio::test]
async fn holds_one_direction_only() {
    let proxy = Proxy::start(echo().await).await.unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.set_flow(Direction::Inward, Flow::Hold);
    assert!(exchange(&mut stream, "out").await.is_none());
    proxy.set_flow(Direction::Outward, Flow::Hold);
    proxy.set_flow(Direction::Inward, Flow::Pass);
    let mut answer = [0; 3];
    timeout(SOON, stream.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer, b"out", "what had gone out before came back");
    assert!(exchange(&mut stream, "now held").await.is_none());
}

#[tokio::test]
async fn closes_one_half() {
    let proxy = Proxy::start(echo().await).await.unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(exchange(&mut stream, "one").await.is_some());
    proxy.set_flow(Direction::Inward, Flow::Close);
    let end = timeout(SOON, stream.read(&mut [0; 8])).await.unwrap();
    assert_eq!(end.unwrap(), 0);
    assert!(stream.write_all(b"still open outward").await.is_ok());
}

#[tokio::test]
async fn delays() {
    let proxy = Proxy::start(echo().await).await.unwrap();
    proxy.set_delay(Duration::from_millis(50));
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let begin = Instant::now();
    assert!(exchange(&mut stream, "slow").await.is_some());
    assert!(begin.elapsed() >= Duration::from_millis(100));
}
