//! What the crate `everywrite-micro` measures of the link, without a connection, and `make floor` with one.
//! Nothing else uses it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use everywrite_conflict::NodeId;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::Error;
use super::frame::{Bulk, Frame, FrameReader, Whole, encode_control, pieces};
use super::message::{Body, Credit, Ping};
use super::options::{Compression, Peer};
use super::pack::Packer;
use super::peer::PeerState;
use super::{tls, writer};

/// Nobody is silent for so long here.
const PATIENCE: Duration = Duration::from_secs(60);

/// The heads of the frames that carry `journal_bytes`, and how many bytes follow them uncopied.
pub fn encode_data(subscription: u32, journal_bytes: Bytes, heads: &mut BytesMut) -> usize {
    let encode = |piece| Bulk::Data(piece).encode_header(heads).len();
    pieces(subscription, journal_bytes).map(encode).sum()
}

/// The frames that carry `journal_bytes`, whole, as a peer receives them.
pub fn encode_stream(subscription: u32, journal_bytes: Bytes, stream: &mut BytesMut) {
    for piece in pieces(subscription, journal_bytes) {
        let bytes = Bulk::Data(piece).encode_header(stream);
        stream.extend_from_slice(&bytes);
    }
}

/// A frame of control: so many bytes are stored.
pub fn encode_credit(subscription: u32, bytes: u32, out: &mut BytesMut) {
    let credit = Credit {
        subscription,
        bytes,
    };
    encode_control(Body::Credit(credit), out);
}

/// Reads frames until the stream ends: how many there were, and how many journal bytes in them.
pub async fn decode_stream(mut stream: &[u8]) -> Result<(usize, usize), Error> {
    let mut reader = FrameReader::default();
    let mut whole = Whole::default();
    let (mut frames, mut bytes) = (0, 0);
    while let Some(frame) = reader.next(&mut stream, PATIENCE).await? {
        frames += 1;
        if let Frame::Data(piece) = frame {
            bytes += whole.push(piece)?.map_or(0, |whole| whole.len());
        }
    }
    Ok((frames, bytes))
}

/// Both ends' TLS settings, from a node's three PEM files.
pub struct Files(tls::Configs);

impl Files {
    /// Reads them.
    pub fn load(ca: &Path, certificate: &Path, key: &Path) -> Result<Self, Error> {
        tls::load(ca, certificate, key).map(Files)
    }
}

/// One end of a connection between two nodes, as it is after the hello.
pub struct Wire {
    io: TlsStream<TcpStream>,
    reader: FrameReader,
}

impl Wire {
    /// Takes the next connection.
    pub async fn accept(files: &Files, listener: &TcpListener) -> Result<Self, Error> {
        let (tcp, _) = listener.accept().await.map_err(broken("accepting"))?;
        tcp.set_nodelay(true).map_err(broken("accepting"))?;
        let acceptor = TlsAcceptor::from(Arc::clone(&files.0.server));
        let io = acceptor.accept(tcp).await.map_err(broken("accepting"))?;
        Ok(Self::new(io.into()))
    }

    /// Dials one.
    pub async fn dial(files: &Files, address: &str) -> Result<Self, Error> {
        let tcp = TcpStream::connect(address).await;
        let tcp = tcp.map_err(broken("dialling"))?;
        tcp.set_nodelay(true).map_err(broken("dialling"))?;
        let connector = TlsConnector::from(Arc::clone(&files.0.client));
        let io = connector.connect(tls::server_name(address), tcp).await;
        Ok(Self::new(io.map_err(broken("dialling"))?.into()))
    }

    fn new(io: TlsStream<TcpStream>) -> Self {
        let reader = FrameReader::default();
        Wire { io, reader }
    }

    /// Sends chunks of a journal as a subscription does, with credit without end.
    pub async fn send(self, chunks: impl Iterator<Item = Bytes>) -> Result<(), Error> {
        let (outbox, queues) = writer::queues();
        let peer = Arc::new(PeerState::new(Peer {
            node: NodeId(1),
            name: String::new(),
            address: String::new(),
        }));
        // The session reads the other half meanwhile.
        let (_read_half, mut write_half) = tokio::io::split(self.io);
        let write =
            tokio::spawn(async move { writer::write_all(&mut write_half, queues, peer).await });
        let mut packer = Packer::new(Compression::None).map_err(broken("packing"))?;
        for chunk in chunks {
            for piece in pieces(1, chunk) {
                let piece = Bulk::Data(packer.pack(piece));
                // The writer says why it has ended.
                if outbox.bulk.send(piece).await.is_err() {
                    break;
                }
            }
        }
        drop(outbox);
        write
            .await
            .map_err(|err| Error::Internal(err.to_string()))?
    }

    /// Reads chunks until so many bytes of a journal have come.
    pub async fn receive(self, journal_bytes: usize) -> Result<(), Error> {
        let (mut read_half, _write_half) = tokio::io::split(self.io);
        let (mut reader, mut whole) = (self.reader, Whole::default());
        let mut missing = journal_bytes;
        while missing > 0 {
            let frame = reader.next(&mut read_half, PATIENCE).await?;
            if let Frame::Data(piece) = frame.ok_or(Error::Closed)? {
                missing = missing.saturating_sub(whole.push(piece)?.map_or(0, |whole| whole.len()));
            }
        }
        Ok(())
    }

    /// Sends a small frame of control.
    pub async fn ping(&mut self, number: u64) -> Result<(), Error> {
        let mut out = BytesMut::new();
        encode_control(Body::Ping(Ping { number }), &mut out);
        let written = self.io.write_all(&out).await;
        written.map_err(broken("writing"))?;
        self.io.flush().await.map_err(broken("writing"))
    }

    /// Waits for the other end's.
    pub async fn answer(&mut self) -> Result<(), Error> {
        let frame = self.reader.next(&mut self.io, PATIENCE).await?;
        frame.map(drop).ok_or(Error::Closed)
    }
}

fn broken(operation: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Broken { operation, source }
}
