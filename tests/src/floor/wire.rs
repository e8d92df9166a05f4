//! The link's own TLS connection over loopback, and what it costs that two threads wake each other.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use everywrite_conflict::NodeId;
use everywrite_node::link::certificates::{issue, new_authority};
use everywrite_node::link::measured::{Files, Wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};

use super::clock;
use super::figure::{Figure, Spent, Stage};

/// What a journal's reader hands out at once, and the link sends in one frame.
const CHUNK_BYTES: usize = 256 << 10;
/// Carried at scale 1.
const CARRIED_BYTES: f64 = 2e9;
/// Of round trips.
const ROUND_TRIPS: f64 = 20_000.0;

/// Each end has a thread of its own.
pub(crate) async fn measure(scale: f64, work: &Path) -> Result<Vec<Figure>> {
    let dir = tempfile::tempdir_in(work).context("make a folder")?;
    let pems = Pems::issue(dir.path())?;
    let mut figures = carry(&pems, scale).await?;
    let count = (ROUND_TRIPS * scale).max(100.0) as u64;
    figures.push(over_unix(count).await?);
    figures.push(over_tls(&pems, count).await?);
    Ok(figures)
}

/// A node's three files.
struct Pems {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Pems {
    fn issue(dir: &Path) -> Result<Self> {
        let cluster = "floor";
        let (ca, ca_key) = new_authority(cluster).context("make a CA")?;
        let hosts = ["127.0.0.1".to_owned()];
        let (certificate, key) = issue(&ca, &ca_key, cluster, NodeId(1), "a", &hosts, 1)
            .context("issue a certificate")?;
        let put = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).with_context(|| format!("write {name}"))?;
            anyhow::Ok(path)
        };
        Ok(Pems {
            ca: put("ca.crt", &ca)?,
            certificate: put("node.crt", &certificate)?,
            key: put("node.key", &key)?,
        })
    }

    fn load(&self) -> Result<Files> {
        Files::load(&self.ca, &self.certificate, &self.key).context("read the certificates")
    }
}

/// Runs both ends to their end, each with a runtime of its own.
async fn both<A, B>(
    one: impl FnOnce() -> A + Send + 'static,
    two: impl FnOnce() -> B + Send + 'static,
) -> Result<(A::Output, B::Output)>
where
    A: Future<Output: Send + 'static>,
    B: Future<Output: Send + 'static>,
{
    let (one, two) = (alone(one), alone(two));
    let (one, two) = tokio::join!(one, two);
    let failed = "a measuring thread failed";
    Ok((one.context(failed)??, two.context(failed)??))
}

fn alone<F>(work: impl FnOnce() -> F + Send + 'static) -> tokio::task::JoinHandle<Result<F::Output>>
where
    F: Future<Output: Send + 'static>,
{
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        Ok(runtime.context("start a runtime")?.block_on(work()))
    })
}

/// A listener that either end's runtime can take over, and its address.
fn listen() -> Result<(std::net::TcpListener, String)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("listen")?;
    listener.set_nonblocking(true).context("listen")?;
    let address = listener.local_addr().context("listen")?.to_string();
    Ok((listener, address))
}

/// Chunks of a journal from one node to the other: what passes, and each end's processor time.
async fn carry(pems: &Pems, scale: f64) -> Result<Vec<Figure>> {
    let chunks = ((CARRIED_BYTES * scale) as usize / CHUNK_BYTES).max(16);
    let (mine, theirs) = (pems.load()?, pems.load()?);
    let (listener, address) = listen()?;
    let sending = move || async move {
        let wire = Wire::dial(&mine, &address).await.context("dial")?;
        let chunk = Bytes::from(vec![7; CHUNK_BYTES]);
        let before = clock::of_thread();
        let sent = wire.send(std::iter::repeat_n(chunk, chunks)).await;
        sent.context("send chunks")?;
        anyhow::Ok(clock::of_thread() - before)
    };
    let receiving = move || async move {
        let listener = TcpListener::from_std(listener).context("listen")?;
        let wire = Wire::accept(&theirs, &listener).await.context("accept")?;
        let (before, begun) = (clock::of_thread(), Instant::now());
        let received = wire.receive(chunks * CHUNK_BYTES).await;
        received.context("receive chunks")?;
        anyhow::Ok((clock::of_thread() - before, begun.elapsed().as_secs_f64()))
    };
    let (sender, receiver) = both(sending, receiving).await?;
    let (sender, (receiver, wall)) = (sender?, receiver?);
    let megabytes = (chunks * CHUNK_BYTES) as f64 / 1e6;
    let end = |what, cpu| {
        let spent = Spent {
            wall,
            cpu,
            other: 0.0,
        };
        spent.figure(Stage::Link, what, "MB", megabytes)
    };
    Ok(vec![
        end("TLS over loopback, 256 KiB chunks: the sender", sender),
        end("the same: the receiver", receiver),
    ])
}

async fn over_unix(count: u64) -> Result<Figure> {
    let (one, two) = std::os::unix::net::UnixStream::pair().context("make a pair of sockets")?;
    for end in [&one, &two] {
        end.set_nonblocking(true)
            .context("make a pair of sockets")?;
    }
    let asking = move || async move {
        let mut socket = UnixStream::from_std(one)?;
        let (before, begun) = (clock::of_thread(), Instant::now());
        for _ in 0..count {
            socket.write_all(&[1]).await?;
            socket.read_u8().await?;
        }
        std::io::Result::Ok((clock::of_thread() - before, begun.elapsed().as_secs_f64()))
    };
    let answering = move || async move {
        let mut socket = UnixStream::from_std(two)?;
        let before = clock::of_thread();
        for _ in 0..count {
            socket.read_u8().await?;
            socket.write_all(&[1]).await?;
        }
        std::io::Result::Ok(clock::of_thread() - before)
    };
    let (asked, answered) = both(asking, answering).await?;
    let asked = asked.context("ask over a Unix socket")?;
    let answered = answered.context("answer over a Unix socket")?;
    Ok(round_trip("a Unix socket", asked, answered, count))
}

async fn over_tls(pems: &Pems, count: u64) -> Result<Figure> {
    let (mine, theirs) = (pems.load()?, pems.load()?);
    let (listener, address) = listen()?;
    let asking = move || async move {
        let mut wire = Wire::dial(&mine, &address).await.context("dial")?;
        let (before, begun) = (clock::of_thread(), Instant::now());
        for number in 0..count {
            wire.ping(number).await.context("ask")?;
            wire.answer().await.context("ask")?;
        }
        anyhow::Ok((clock::of_thread() - before, begun.elapsed().as_secs_f64()))
    };
    let answering = move || async move {
        let listener = TcpListener::from_std(listener).context("listen")?;
        let mut wire = Wire::accept(&theirs, &listener).await.context("accept")?;
        let before = clock::of_thread();
        for number in 0..count {
            wire.answer().await.context("answer")?;
            wire.ping(number).await.context("answer")?;
        }
        anyhow::Ok(clock::of_thread() - before)
    };
    let (asked, answered) = both(asking, answering).await?;
    Ok(round_trip(
        "the link's TLS over loopback, a frame of control",
        asked?,
        answered?,
        count,
    ))
}

/// Both threads' processor time together.
fn round_trip(what: &str, asked: (f64, f64), answered: f64, count: u64) -> Figure {
    let (asked, wall) = asked;
    let spent = Spent {
        wall,
        cpu: asked + answered,
        other: 0.0,
    };
    let what = format!("{what}: there and back");
    spent.figure(Stage::RoundTrip, what, "round trip", count as f64)
}
