//! Who are you? The exchange right after TLS, before anything else.
//!
//! ```text
//!  dialler                    acceptor
//!     │ ◄────────── Hello ────── │   the dialler is silent until then: a late TLS alert
//!     │ ─────────── Hello ─────► │   reaches it before it has written anything
//!     │ ◄────────── Welcome ──── │
//!  either may say Goodbye(reason) instead and close
//! ```
//!
//! The certificate decides who somebody is; the hello must agree with it.

use everywrite_conflict::NodeId;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::error::Error;
use super::frame::{Frame, FrameReader, encode_control};
use super::identity::Identity;
use super::linger::linger;
use super::message::{self, Body, Goodbye, Hello, Welcome};
use super::options::{Compression, Options};
use super::pack;
use super::questions;
use super::tls;

/// The protocol spoken here. A node may speak several while a cluster is upgraded.
pub(super) const PROTOCOL_MIN: u32 = 1;
/// The newest one.
pub(super) const PROTOCOL_MAX: u32 = 1;
/// Of the journal frames, which travel as they are on disk.
pub(super) const JOURNAL_FORMAT: u32 = 1;

/// What two nodes that have said hello know of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    /// What the other side is to be sent packed by.
    pub(super) packed_by: Compression,
    /// The version of the questions that the other side answers; 0: none.
    pub(super) answers: u32,
}

impl Agreed {
    fn of(theirs: &Hello, options: &Options) -> Self {
        Agreed {
            packed_by: options.compression.agreed(&theirs.unpacks),
            answers: theirs.answers,
        }
    }
}

/// The dialler's side: `Ok` when the node that was dialled agrees.
pub(super) async fn greet<S>(
    io: &mut S,
    reader: &mut FrameReader,
    certificate: &CertificateDer<'_>,
    options: &Options,
    address: &str,
    expected: NodeId,
) -> Result<Agreed, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Body::Hello(theirs) = receive(io, reader, options, address).await? else {
        return Err(unexpected("instead of a hello"));
    };
    let checked = check(&theirs, certificate, options).and_then(|answered| {
        if answered != expected {
            return Err(Error::WrongNode {
                dialled: expected,
                answered,
            });
        }
        Ok(())
    });
    if let Err(err) = checked {
        say_goodbye(io, &err).await;
        return Err(err);
    }
    send(io, Body::Hello(ours(options))).await?;
    match receive(io, reader, options, address).await? {
        Body::Welcome(Welcome {}) => Ok(Agreed::of(&theirs, options)),
        _ => Err(unexpected("instead of a welcome")),
    }
}

/// The acceptor's side: which of the peers it is. `admit` has the last word.
pub(super) async fn welcome<S>(
    io: &mut S,
    reader: &mut FrameReader,
    certificate: &CertificateDer<'_>,
    options: &Options,
    address: &str,
    admit: impl FnOnce(NodeId) -> Result<(), Error>,
) -> Result<(NodeId, Agreed), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    send(io, Body::Hello(ours(options))).await?;
    let Body::Hello(theirs) = receive(io, reader, options, address).await? else {
        return Err(unexpected("instead of a hello"));
    };
    let checked = check(&theirs, certificate, options).and_then(|node| {
        if node == options.me {
            return Err(Error::Myself(node));
        }
        if !options.peers.iter().any(|peer| peer.node == node) {
            return Err(Error::UnknownPeer(node, options.me));
        }
        admit(node).map(|()| node)
    });
    match checked {
        Ok(node) => {
            send(io, Body::Welcome(Welcome {})).await?;
            Ok((node, Agreed::of(&theirs, options)))
        }
        Err(err) => {
            say_goodbye(io, &err).await;
            Err(err)
        }
    }
}

fn ours(options: &Options) -> Hello {
    Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        journal_format: JOURNAL_FORMAT,
        node: u32::from(options.me.0),
        name: options.name.clone(),
        cluster: options.cluster.clone(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        unpacks: pack::UNDERSTOOD.to_vec(),
        answers: questions::VERSION,
    }
}

/// What holds for both sides: one cluster, one language, and the node that the certificate names.
fn check(
    theirs: &Hello,
    certificate: &CertificateDer<'_>,
    options: &Options,
) -> Result<NodeId, Error> {
    let (certified, _) = Identity::of_certificate(certificate)?;
    for cluster in [&certified.cluster, &theirs.cluster] {
        if *cluster != options.cluster {
            return Err(Error::WrongCluster {
                ours: options.cluster.clone(),
                theirs: cluster.clone(),
            });
        }
    }
    let said = message::node(theirs.node).unwrap_or_default();
    if said != certified.node {
        return Err(Error::NotItsCertificate {
            said,
            certified: certified.node,
        });
    }
    let name = || theirs.name.clone();
    if theirs.protocol_max < PROTOCOL_MIN || theirs.protocol_min > PROTOCOL_MAX {
        return Err(Error::Version {
            node: said,
            name: name(),
            theirs: range(theirs.protocol_min, theirs.protocol_max),
            ours: range(PROTOCOL_MIN, PROTOCOL_MAX),
            older: if theirs.protocol_max < PROTOCOL_MIN {
                "the other node"
            } else {
                "this node"
            },
        });
    }
    if theirs.journal_format != JOURNAL_FORMAT {
        return Err(Error::JournalFormat {
            node: said,
            name: name(),
            theirs: theirs.journal_format,
            ours: JOURNAL_FORMAT,
        });
    }
    Ok(said)
}

fn range(min: u32, max: u32) -> String {
    if min == max {
        max.to_string()
    } else {
        format!("{min} to {max}")
    }
}

async fn receive<S>(
    io: &mut S,
    reader: &mut FrameReader,
    options: &Options,
    address: &str,
) -> Result<Body, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match reader.next(io, options.timing.silence).await {
        Ok(Some(Frame::Control(Some(Body::Goodbye(Goodbye { reason }))))) => Err(Error::Goodbye {
            who: address.to_owned(),
            reason,
        }),
        Ok(Some(Frame::Control(Some(body)))) => Ok(body),
        Ok(Some(_)) => Err(unexpected("before the hello")),
        Ok(None) => Err(Error::Closed),
        Err(Error::Broken { source, .. }) if tls::is_tls(&source) => {
            Err(tls::explain(address, source))
        }
        Err(err) => Err(err),
    }
}

fn unexpected(when: &str) -> Error {
    Error::Malformed(format!("something else {when}"))
}

async fn send<S: AsyncWrite + Unpin>(io: &mut S, body: Body) -> Result<(), Error> {
    let mut frame = bytes::BytesMut::new();
    encode_control(body, &mut frame);
    let written = async {
        io.write_all(&frame).await?;
        io.flush().await
    };
    written.await.map_err(|source| Error::Broken {
        operation: "writing",
        source,
    })
}

/// Says why; that it arrives is not certain, and the error is logged here in any case.
async fn say_goodbye<S: AsyncRead + AsyncWrite + Unpin>(io: &mut S, err: &Error) {
    let reason = err.to_string();
    if send(io, Body::Goodbye(Goodbye { reason })).await.is_ok() {
        linger(io).await;
    }
}
