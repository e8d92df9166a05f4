//! Keeps one connection to a peer up: dials, says hello, runs the session, dials again.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::backoff::Backoff;
use super::error::Error;
use super::frame::FrameReader;
use super::hello::{self, Agreed};
use super::node::Node;
use super::peer::{PeerState, Side};
use super::routing::Via;
use super::session;
use super::tls;

/// Ends with the link.
pub(super) async fn run(node: Arc<Node>, peer: Arc<PeerState>) {
    let timing = &node.options.timing;
    let mut backoff = Backoff::new(timing.backoff_first, timing.backoff_max);
    let mut paused = peer.paused.subscribe();
    let via = Via {
        node: peer.peer.node,
        dialled: true,
    };
    loop {
        if peer.is_paused() {
            peer.recovered(Side::Dialled);
            tokio::select! {
                () = node.shutdown.cancelled() => return,
                _ = paused.wait_for(|paused| !*paused) => backoff.reset(),
            }
        }
        let dialled = tokio::select! {
            biased;
            () = node.shutdown.cancelled() => return,
            // The sender lives as long as `peer`.
            _ = paused.wait_for(|paused| *paused) => continue,
            dialled = dial(&node, &peer) => dialled,
        };
        let (error, lived) = match dialled {
            Ok((io, reader, agreed)) => {
                peer.recovered(Side::Dialled);
                let up = Instant::now();
                let ended = session::run(
                    Arc::clone(&node),
                    io,
                    reader,
                    via,
                    agreed,
                    Arc::clone(&peer),
                );
                (ended.await, up.elapsed())
            }
            Err(error) => (error, Duration::ZERO),
        };
        if !matches!(error, Error::ShuttingDown(_) | Error::Paused(..)) {
            peer.failed(Side::Dialled, &error);
        }
        tokio::select! {
            () = node.shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff.after(lived)) => {}
            // It has just connected to us, so it can probably be reached.
            () = peer.seen.notified() => {}
        }
    }
}

type Connection = (TlsStream<TcpStream>, FrameReader, Agreed);

async fn dial(node: &Node, peer: &PeerState) -> Result<Connection, Error> {
    let address = peer.peer.address.as_str();
    tokio::time::timeout(node.options.timing.connect, connect(node, peer, address))
        .await
        .unwrap_or_else(|_| Err(Error::HandshakeTimeout(address.to_owned())))
}

async fn connect(node: &Node, peer: &PeerState, address: &str) -> Result<Connection, Error> {
    let failed = |source| Error::Connect {
        address: address.to_owned(),
        source,
    };
    let tcp = TcpStream::connect(address).await.map_err(failed)?;
    // Acknowledgements are small and must not wait for company.
    tcp.set_nodelay(true).map_err(failed)?;
    let connector = TlsConnector::from(Arc::clone(&node.credentials.current().client));
    let mut io = connector
        .connect(tls::server_name(address), tcp)
        .await
        .map_err(|err| tls::explain(address, err))?;
    let certificate = io
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first().cloned())
        .ok_or(Error::CertificateAnonymous)?;
    let mut reader = FrameReader::default();
    let expected = peer.peer.node;
    let options = &node.options;
    let agreed = hello::greet(
        &mut io,
        &mut reader,
        &certificate,
        options,
        address,
        expected,
    )
    .await?;
    Ok((io, reader, agreed))
}
