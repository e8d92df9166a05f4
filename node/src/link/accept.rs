//! Takes connections from peers, and only from them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use everywrite_conflict::NodeId;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use super::error::Error;
use super::frame::FrameReader;
use super::hello::{self, Agreed};
use super::identity::Identity;
use super::linger::linger;
use super::node::Node;
use super::peer::{Side, with_causes};
use super::routing::Via;
use super::session;
use super::tls;

/// Connections that have not shown who they are; more wait in the kernel. Bounds what a flood of
/// strangers costs.
const STRANGERS_MAX: usize = 64;
/// After a failure to accept (usually: no file descriptors left).
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Refused addresses that are remembered.
const REFUSALS_KEPT: usize = 16;

/// Who was refused lately, by address, with the reason: for the status, and so that a stranger that
/// keeps trying is logged once.
#[derive(Default)]
pub(super) struct Refusals(Mutex<Vec<(IpAddr, String)>>);

impl Refusals {
    fn note(&self, from: SocketAddr, error: &Error) {
        let text = with_causes(error);
        let mut kept = self.0.lock();
        let key = from.ip();
        if kept.iter().any(|(ip, known)| *ip == key && *known == text) {
            debug!(%from, error = %text, "connection refused again");
            return;
        }
        warn!(%from, error = %text, "connection refused");
        if kept.len() == REFUSALS_KEPT {
            kept.remove(0);
        }
        kept.push((key, text));
    }

    pub(super) fn all(&self) -> Vec<String> {
        let kept = self.0.lock();
        kept.iter()
            .map(|(ip, text)| format!("connection from {ip}: {text}"))
            .collect()
    }
}

/// Ends with the link, after its sessions.
pub(super) async fn run(node: Arc<Node>, listener: TcpListener) {
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = async {
            let permit = Arc::clone(&strangers).acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            biased;
            () = node.shutdown.cancelled() => break,
            (permit, accepted) = accepted => match accepted {
                Ok((tcp, from)) => {
                    let node = Arc::clone(&node);
                    connections.spawn(async move {
                        let known = admit(&node, tcp, from).await;
                        drop(permit);
                        if let Some(((io, reader), who, agreed)) = known {
                            serve(node, io, reader, who, agreed).await;
                        }
                    });
                }
                Err(err) => {
                    warn!(error = %err, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

type Connection = (TlsStream<TcpStream>, FrameReader);

async fn serve(
    node: Arc<Node>,
    io: TlsStream<TcpStream>,
    reader: FrameReader,
    who: NodeId,
    agreed: Agreed,
) {
    let Some(peer) = node.peers.get(&who).cloned() else {
        return;
    };
    peer.recovered(Side::Inbound);
    let via = Via {
        node: who,
        dialled: false,
    };
    let error = session::run(node, io, reader, via, agreed, Arc::clone(&peer)).await;
    // The dialler sees to the next connection; here an end is news only if the peer did wrong.
    if matches!(
        error,
        Error::Malformed(_) | Error::Silent(_) | Error::NotReading(_)
    ) {
        peer.failed(Side::Inbound, &error);
    }
}

async fn admit(
    node: &Node,
    tcp: TcpStream,
    from: SocketAddr,
) -> Option<(Connection, NodeId, Agreed)> {
    let mut certified = None;
    // Without the port, which differs each time: a repeated refusal must not look new.
    let address = from.ip().to_string();
    let known = tokio::select! {
        () = node.shutdown.cancelled() => return None,
        known = tokio::time::timeout(
            node.options.timing.connect,
            handshake(node, tcp, &address, &mut certified),
        ) => known.unwrap_or_else(|_| Err(Error::HandshakeTimeout(address.clone()))),
    };
    match known {
        Ok(known) => Some(known),
        Err(error) => {
            // Whoever shows a peer's certificate is that peer: its status tells.
            let peer = certified
                .filter(|identity| identity.cluster == node.options.cluster)
                .and_then(|identity| node.peers.get(&identity.node));
            match (peer, &error) {
                (_, Error::Paused(..)) => {}
                (Some(peer), _) => peer.failed(Side::Inbound, &error),
                (None, _) => node.refusals.note(from, &error),
            }
            None
        }
    }
}

async fn handshake(
    node: &Node,
    tcp: TcpStream,
    from: &str,
    certified: &mut Option<Identity>,
) -> Result<(Connection, NodeId, Agreed), Error> {
    tcp.set_nodelay(true).map_err(|source| Error::Connect {
        address: from.to_owned(),
        source,
    })?;
    let acceptor = TlsAcceptor::from(Arc::clone(&node.credentials.current().server));
    let mut io = match acceptor.accept(tcp).into_fallible().await {
        Ok(io) => io,
        Err((err, mut tcp)) => {
            linger(&mut tcp).await;
            return Err(tls::explain(from, err));
        }
    };
    let certificate = io
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first().cloned())
        .ok_or(Error::CertificateAnonymous)?;
    *certified = Identity::of_certificate(&certificate)
        .ok()
        .map(|(who, _)| who);
    let mut reader = FrameReader::default();
    let admit = |who| match node.peers.get(&who) {
        Some(peer) if peer.is_paused() => Err(Error::Paused(node.options.me, who)),
        _ => Ok(()),
    };
    let options = &node.options;
    let (who, agreed) =
        hello::welcome(&mut io, &mut reader, &certificate, options, from, admit).await?;
    Ok(((io, reader), who, agreed))
}
