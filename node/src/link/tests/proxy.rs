//! A TCP proxy between two nodes that can break in the ways networks do.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Forward,
    /// Connections are closed, and new ones too.
    Cut,
    /// Connections stay open, nothing comes through.
    Freeze,
}

pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    mode: watch::Sender<Mode>,
    target: watch::Sender<Option<SocketAddr>>,
    /// Bytes a second in each direction, if limited.
    pub(super) connections: Arc<std::sync::atomic::AtomicU64>,
}

impl Proxy {
    pub(super) async fn start() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = watch::Sender::new(Mode::Forward);
        let target = watch::Sender::new(None);
        let connections = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let (modes, targets, count) = (
            mode.subscribe(),
            target.subscribe(),
            Arc::clone(&connections),
        );
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::spawn(forward(near, modes.clone(), targets.clone()));
            }
        });
        Proxy {
            address,
            mode,
            target,
            connections,
        }
    }

    pub(super) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    pub(super) fn target(&self, address: SocketAddr) {
        self.target.send_replace(Some(address));
    }
}

async fn forward(
    near: TcpStream,
    mut modes: watch::Receiver<Mode>,
    mut targets: watch::Receiver<Option<SocketAddr>>,
) {
    if *modes.borrow() == Mode::Cut {
        return;
    }
    let Ok(target) = targets.wait_for(Option::is_some).await.map(|t| t.unwrap()) else {
        return;
    };
    let Ok(far) = TcpStream::connect(target).await else {
        return;
    };
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    tokio::select! {
        () = copy(near_in, far_out, modes.clone()) => {}
        () = copy(far_in, near_out, modes.clone()) => {}
        _ = modes.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut modes: watch::Receiver<Mode>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if modes.wait_for(|mode| *mode != Mode::Freeze).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
