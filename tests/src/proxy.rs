//! A TCP proxy between two nodes that can do what networks do: refuse, cut, delay, fall silent in
//! one or both directions without closing (half-open), close one direction only.
//!
//! ```text
//!  client ──► listener ──[outward flow]──► target
//!         ◄──────────────[inward flow ]──
//! ```
//! Bytes are never lost or reordered inside a connection that lives on: that would not be TCP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// They pass.
    #[default]
    Pass,
    /// They stay where they are, an end of the connection among them: the other side notices nothing.
    Hold,
    /// What is there passes, then this direction is closed and the other stays open.
    Close,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From who dialled to who was dialled.
    Outward,
    /// Back.
    Inward,
}

/// What the network does at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Whether new connections come about.
    pub accepts: bool,
    /// From who dialled to who was dialled.
    pub outward: Flow,
    /// Back.
    pub inward: Flow,
    /// How long every byte takes, each way.
    pub delay: Duration,
    /// Connections of an older age are gone.
    age: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Weather {
            accepts: true,
            outward: Flow::Pass,
            inward: Flow::Pass,
            delay: Duration::ZERO,
            age: 0,
        }
    }
}

/// A listening proxy; gone, with its connections, when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    connections: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of the loopback and leads to `target`.
    pub async fn start(target: SocketAddr) -> anyhow::Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", crate::ports::free_port()?))
            .await
            .context("listen for the proxy")?;
        let address = listener.local_addr().context("the proxy's address")?;
        let weather = watch::Sender::new(Weather::default());
        let connections = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(accept(
            listener,
            target,
            weather.subscribe(),
            Arc::clone(&connections),
        ));
        Ok(Proxy {
            address,
            weather,
            connections,
            task,
        })
    }

    /// Where to dial instead of the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections made since the start.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// The present weather.
    pub fn weather(&self) -> Weather {
        *self.weather.borrow()
    }

    /// Ends all connections; new ones come about at once.
    pub fn drop_connections(&self) {
        self.weather.send_modify(|w| w.age += 1);
    }

    /// Ends all connections and refuses new ones.
    pub fn cut(&self) {
        self.weather.send_modify(|w| {
            w.age += 1;
            w.accepts = false;
        });
    }

    /// Neither forwards anything nor closes anything, both ways.
    pub fn freeze(&self) {
        self.weather.send_modify(|w| {
            w.outward = Flow::Hold;
            w.inward = Flow::Hold;
        });
    }

    /// Sets the flow of one direction.
    pub fn set_flow(&self, direction: Direction, flow: Flow) {
        self.weather.send_modify(|w| match direction {
            Direction::Outward => w.outward = flow,
            Direction::Inward => w.inward = flow,
        });
    }

    /// Makes every byte take so long, each way.
    pub fn set_delay(&self, delay: Duration) {
        self.weather.send_modify(|w| w.delay = delay);
    }

    /// Fair weather again. Connections that were held go on where they were.
    pub fn heal(&self) {
        self.weather.send_modify(|w| {
            *w = Weather {
                age: w.age,
                ..Weather::default()
            };
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    weather: watch::Receiver<Weather>,
    connections: Arc<AtomicU64>,
) {
    // The set ends its tasks with this one.
    let mut open = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            return;
        };
        while open.try_join_next().is_some() {}
        if !weather.borrow().accepts {
            continue; // dropped: closed at once
        }
        connections.fetch_add(1, Ordering::Relaxed);
        open.spawn(connection(client, target, weather.clone()));
    }
}

async fn connection(client: TcpStream, target: SocketAddr, weather: watch::Receiver<Weather>) {
    let age = weather.borrow().age;
    let mut changes = weather.clone();
    let outlived = async move { changes.wait_for(|w| w.age != age).await.is_err() };
    let forward = async {
        let Ok(server) = TcpStream::connect(target).await else {
            return;
        };
        client.set_nodelay(true).ok();
        server.set_nodelay(true).ok();
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        tokio::join!(
            pump(
                client_read,
                server_write,
                weather.clone(),
                Direction::Outward
            ),
            pump(server_read, client_write, weather, Direction::Inward),
        );
    };
    tokio::select! {
        _ = outlived => {}
        () = forward => {}
    }
}

/// Reads, lets the delay pass, writes; several chunks may be on their way at once.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    direction: Direction,
) {
    let (sender, mut on_the_way) = mpsc::channel::<(Instant, Vec<u8>)>(64);
    let mut reading = weather.clone();
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            if flow(&mut reading, direction).await == Flow::Close {
                return;
            }
            let read = tokio::select! {
                read = from.read(&mut buffer) => read,
                _ = reading.changed() => continue,
            };
            let Ok(count @ 1..) = read else {
                return;
            };
            let due = Instant::now() + reading.borrow().delay;
            if sender.send((due, buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = on_the_way.recv().await {
            tokio::time::sleep_until(due).await;
            flow(&mut weather, direction).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        flow(&mut weather, direction).await;
        to.shutdown().await.ok();
    };
    tokio::join!(read, write);
}

/// The direction's flow, once it is not [`Flow::Hold`].
async fn flow(weather: &mut watch::Receiver<Weather>, direction: Direction) -> Flow {
    let of = |w: &Weather| match direction {
        Direction::Outward => w.outward,
        Direction::Inward => w.inward,
    };
    match weather.wait_for(|w| of(w) != Flow::Hold).await {
        Ok(now) => of(&now),
        Err(_) => Flow::Close,
    }
}
