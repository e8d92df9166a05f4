//! The socket through which a command on this machine asks its daemon, and through it the others.
//!
//! `<data directory>/control/socket`, a unix socket in a folder that only the daemon's own user can
//! enter: that is who may ask. Frames in both directions: u32 length, protobuf. One question at a time
//! a connection; a command opens one for each site.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use everywrite_conflict::NodeId;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::answers::Answers;
use super::question::{Answer, Failed, Question, Said, VERSION};
use crate::link;

/// The largest frame: the hashes of a range.
const FRAME_BYTES_MAX: usize = 256 << 20;
/// The longest that a site may take for an answer: a statement and the wait for its turn.
const ANSWER: Duration = Duration::from_secs(120);
/// A path that is longer does not fit into a socket's address everywhere.
const PATH_BYTES_MAX: usize = 100;

/// What the command says.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// Whom to ask; 0: nobody, say who there is.
    #[prost(uint32, tag = "1")]
    pub node: u32,
    /// What to ask.
    #[prost(message, optional, tag = "2")]
    pub question: Option<Question>,
}

/// What the daemon says.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Response {
    /// Everybody, if that was asked.
    #[prost(message, repeated, tag = "1")]
    pub sites: Vec<Site>,
    /// The site's answer.
    #[prost(message, optional, tag = "2")]
    pub answer: Option<Answer>,
}

/// A site of the cluster.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Site {
    /// Its number.
    #[prost(uint32, tag = "1")]
    pub node: u32,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// It is the one that says so.
    #[prost(bool, tag = "3")]
    pub local: bool,
}

/// Where the socket is.
pub fn path(data_directory: &Path) -> PathBuf {
    data_directory.join("control").join("socket")
}

/// The socket's path as its address: a long one by way of its folder, held open meanwhile.
fn addressed<T>(path: &Path, use_it: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    use std::os::fd::AsRawFd as _;
    if path.as_os_str().len() <= PATH_BYTES_MAX {
        return use_it(path);
    }
    let folder = std::fs::File::open(path.parent().unwrap_or_else(|| Path::new("/")))?;
    let short = format!("/proc/self/fd/{}/socket", folder.as_raw_fd());
    use_it(Path::new(&short))
}

/// Connects to the daemon whose data is in this folder.
///
/// # Errors
/// The daemon does not run, or belongs to another user.
pub async fn connect(data_directory: &Path) -> io::Result<UnixStream> {
    let path = path(data_directory);
    let stream = addressed(&path, |path| {
        let stream = std::os::unix::net::UnixStream::connect(path)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    })?;
    UnixStream::from_std(stream)
}

/// Sends one frame.
///
/// # Errors
/// The other side is gone.
pub async fn send(stream: &mut UnixStream, message: &impl Message) -> io::Result<()> {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(4 + length);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    let _ = message.encode(&mut frame);
    stream.write_all(&frame).await
}

/// Receives one frame; `None` when the other side has closed.
///
/// # Errors
/// The other side is gone in the middle of a frame, or speaks something else.
pub async fn receive<M: Message + Default>(stream: &mut UnixStream) -> io::Result<Option<M>> {
    let length = match stream.read_u32().await {
        Ok(length) => length as usize,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes"),
        ));
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    M::decode(Bytes::from(frame))
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The daemon's side.
pub struct Control {
    /// This site.
    pub me: NodeId,
    /// All sites by number.
    pub names: BTreeMap<NodeId, String>,
    /// Answers for this site.
    pub answers: Arc<Answers>,
    /// Asks the others.
    pub link: link::Handle,
}

impl Control {
    /// Makes the socket; whatever was there of an earlier process is replaced.
    ///
    /// # Errors
    /// The folder cannot be made or written.
    pub fn listen(data_directory: &Path) -> io::Result<UnixListener> {
        use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
        let path = path(data_directory);
        let folder = path.parent().unwrap_or(data_directory);
        match std::fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
            }
            made => made?,
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = addressed(&path, |path| std::os::unix::net::UnixListener::bind(path))?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    }

    /// Serves until shutdown.
    pub async fn run(self, listener: UnixListener, shutdown: CancellationToken) {
        let control = Arc::new(self);
        loop {
            // Cancellation-safe: an accept that is given up has taken nobody.
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (control, shutdown) = (Arc::clone(&control), shutdown.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = shutdown.cancelled() => {}
                            served = control.serve(stream) => if let Err(error) = served {
                                tracing::debug!(%error, "a command's connection ended");
                            }
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket does not accept");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn serve(&self, mut stream: UnixStream) -> io::Result<()> {
        while let Some(request) = receive::<Request>(&mut stream).await? {
            let response = match request.question {
                None => Response {
                    sites: self.sites(),
                    answer: None,
                },
                Some(question) => Response {
                    sites: Vec::new(),
                    answer: Some(self.ask(request.node, question).await),
                },
            };
            send(&mut stream, &response).await?;
        }
        Ok(())
    }

    fn sites(&self) -> Vec<Site> {
        let site = |(&node, name): (&NodeId, &String)| Site {
            node: u32::from(node.0),
            name: name.clone(),
            local: node == self.me,
        };
        self.names.iter().map(site).collect()
    }

    async fn ask(&self, node: u32, question: Question) -> Answer {
        if node == u32::from(self.me.0) {
            return self.answers.answer(question).await;
        }
        let failed = |reason: String, again: bool| Answer {
            took_us: 0,
            said: Some(Said::Failed(Failed { reason, again })),
        };
        let Some(node) = u16::try_from(node).ok().filter(|&n| n > 0).map(NodeId) else {
            return failed("there is no such node".to_owned(), false);
        };
        let question = question.encode_to_vec().into();
        match self.link.ask(node, VERSION, question, ANSWER).await {
            Ok(answer) => Answer::decode(answer)
                .unwrap_or_else(|error| failed(format!("not an answer: {error}"), false)),
            Err(error) => {
                let again = !matches!(
                    error,
                    link::Error::TooOldToAsk(_) | link::Error::QuestionTooLarge(_)
                );
                failed(error.to_string(), again)
            }
        }
    }
}
