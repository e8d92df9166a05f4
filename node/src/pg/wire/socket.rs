//! The byte stream below the protocol: TCP, unix socket, or TLS over TCP, whole and in halves.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream, tcp, unix};
use tokio_rustls::client::TlsStream;

use crate::pg::target::TlsMode;
use crate::pg::{Error, Target, tls};

/// A connected socket.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What can be read from. Reading never waits for writing.
pub(super) enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
    Tls(tokio::io::ReadHalf<TlsStream<TcpStream>>),
}

/// What can be written to. Writing never waits for reading.
pub(super) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
    Tls(tokio::io::WriteHalf<TlsStream<TcpStream>>),
}

/// Code of the SSLRequest message, in the place of a protocol version.
const SSL_REQUEST: i32 = 80_877_103;

impl Socket {
    pub(super) async fn connect(target: &Target) -> Result<Self, Error> {
        let failed = |source| Error::Connect {
            address: target.address(),
            source,
        };
        if target.is_unix() {
            let stream = UnixStream::connect(target.address())
                .await
                .map_err(failed)?;
            return Ok(Socket::Unix(stream));
        }
        let stream = tcp_connect(target).await.map_err(failed)?;
        let Some(config) = tls::client_config(target)? else {
            return Ok(Socket::Tcp(stream));
        };
        encrypt(stream, target, config).await
    }

    /// The server's certificate, if there is TLS.
    pub(super) fn certificate(&self) -> Option<CertificateDer<'static>> {
        let Socket::Tls(stream) = self else {
            return None;
        };
        let (_, session) = stream.get_ref();
        session
            .peer_certificates()?
            .first()
            .cloned()
            .map(CertificateDer::into_owned)
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Socket::Tls(_))
    }

    pub(super) fn split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Socket::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Socket::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
            Socket::Tls(stream) => {
                let (read, write) = tokio::io::split(*stream);
                (ReadHalf::Tls(read), WriteHalf::Tls(write))
            }
        }
    }
}

async fn tcp_connect(target: &Target) -> io::Result<TcpStream> {
    let mut last = None;
    for address in tokio::net::lookup_host((target.host.as_str(), target.port)).await? {
        let socket = match address.is_ipv4() {
            true => TcpSocket::new_v4()?,
            false => TcpSocket::new_v6()?,
        };
        socket.set_keepalive(true)?;
        // Small answers must not wait for the next packet.
        socket.set_nodelay(true)?;
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

async fn encrypt(
    mut stream: TcpStream,
    target: &Target,
    config: rustls::ClientConfig,
) -> Result<Socket, Error> {
    let asking = "asking for TLS";
    let [a, b, c, d] = SSL_REQUEST.to_be_bytes();
    stream
        .write_all(&[0, 0, 0, 8, a, b, c, d])
        .await
        .map_err(Error::io(asking))?;
    match stream.read_u8().await.map_err(Error::io(asking))? {
        b'S' => {}
        b'N' if target.tls.mode == TlsMode::Prefer => return Ok(Socket::Tcp(stream)),
        b'N' => {
            return Err(Error::TlsNotOffered {
                address: target.address(),
            });
        }
        other => {
            return Err(Error::Protocol(format!(
                "{:?} in answer to the request for TLS",
                char::from(other)
            )));
        }
    }
    let name = rustls_pki_types::ServerName::try_from(target.host.clone()).map_err(|_| {
        Error::TlsSettings {
            problem: format!("\"{}\" is neither a host name nor an address", target.host),
            source: None,
        }
    })?;
    tokio_rustls::TlsConnector::from(std::sync::Arc::new(config))
        .connect(name, stream)
        .await
        .map(|stream| Socket::Tls(Box::new(stream)))
        .map_err(|source| Error::TlsHandshake {
            address: target.address(),
            source,
        })
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ReadHalf::Tcp(half) => Pin::new(half).poll_read(cx, buf),
            ReadHalf::Unix(half) => Pin::new(half).poll_read(cx, buf),
            ReadHalf::Tls(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            WriteHalf::Tcp(half) => Pin::new(half).poll_write(cx, buf),
            WriteHalf::Unix(half) => Pin::new(half).poll_write(cx, buf),
            WriteHalf::Tls(half) => Pin::new(half).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            WriteHalf::Tcp(half) => Pin::new(half).poll_flush(cx),
            WriteHalf::Unix(half) => Pin::new(half).poll_flush(cx),
            WriteHalf::Tls(half) => Pin::new(half).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            WriteHalf::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            WriteHalf::Unix(half) => Pin::new(half).poll_shutdown(cx),
            WriteHalf::Tls(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}
