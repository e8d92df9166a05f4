//! A node played by hand: real TLS and frames, with whatever words a test wants.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use everywrite_conflict::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::cluster::Authority;
use crate::link::error::Error;
use crate::link::frame::{Frame, FrameReader, encode_control};
use crate::link::hello::{JOURNAL_FORMAT, PROTOCOL_MAX};
use crate::link::message::{Body, Hello, Welcome};
use crate::link::tls;

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(super) struct Raw {
    io: Box<dyn Stream>,
    reader: FrameReader,
}

pub(super) fn hello(node: u16, protocol: u32) -> Hello {
    Hello {
        protocol_min: protocol,
        protocol_max: protocol,
        journal_format: JOURNAL_FORMAT,
        node: u32::from(node),
        name: format!("node{node}"),
        cluster: "test".to_owned(),
        release: "test".to_owned(),
        unpacks: Vec::new(),
        answers: 0,
    }
}

impl Raw {
    /// Dials with the certificate of `node`.
    pub(super) async fn dial(
        authority: &Authority,
        node: u16,
        to: SocketAddr,
    ) -> Result<Raw, Error> {
        let configs = configs(authority, node);
        let tcp = TcpStream::connect(to).await.unwrap();
        let io = TlsConnector::from(Arc::clone(&configs.client))
            .connect(tls::server_name("127.0.0.1:1"), tcp)
            .await
            .map_err(|err| tls::explain("the node", err))?;
        Ok(Raw {
            io: Box::new(io),
            reader: FrameReader::default(),
        })
    }

    /// Takes one connection with the certificate of `node`.
    pub(super) async fn accept(authority: &Authority, node: u16, listener: &TcpListener) -> Raw {
        let configs = configs(authority, node);
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = TlsAcceptor::from(Arc::clone(&configs.server));
            if let Ok(io) = acceptor.accept(tcp).await {
                return Raw {
                    io: Box::new(io),
                    reader: FrameReader::default(),
                };
            }
        }
    }

    pub(super) async fn send(&mut self, body: Body) {
        let mut frame = BytesMut::new();
        encode_control(body, &mut frame);
        self.send_bytes(&frame).await;
    }

    pub(super) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    pub(super) async fn frame(&mut self) -> Result<Option<Frame>, Error> {
        self.reader.next(&mut self.io, Duration::from_secs(5)).await
    }

    /// The next control message of a kind; `None` when the connection ends first.
    pub(super) async fn control<T>(&mut self, pick: impl Fn(Body) -> Option<T>) -> Option<T> {
        loop {
            match self.frame().await {
                Ok(Some(Frame::Control(Some(body)))) => {
                    if let Some(found) = pick(body) {
                        return Some(found);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    pub(super) async fn goodbye(&mut self) -> Option<String> {
        self.control(|body| match body {
            Body::Goodbye(goodbye) => Some(goodbye.reason),
            _ => None,
        })
        .await
    }

    /// The dialler's part of the hello, as `node`.
    pub(super) async fn introduce(&mut self, node: u16) {
        self.send(Body::Hello(hello(node, PROTOCOL_MAX))).await;
        self.control(|body| match body {
            Body::Welcome(Welcome {}) => Some(()),
            _ => None,
        })
        .await
        .expect("welcome");
    }
}

fn configs(authority: &Authority, node: u16) -> tls::Configs {
    let node = NodeId(node);
    tls::load(
        &authority.path("ca.crt"),
        &authority.path(&format!("{node}.crt")),
        &authority.path(&format!("{node}.key")),
    )
    .unwrap()
}
