//! Asking the sites, each over a connection of its own to the local daemon.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use everywrite_conflict::NodeId;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::error::Error;
use crate::verify::control::{self, Request, Response};
use crate::verify::question::{Answer, Asked, Failed, Said};

/// A question that may succeed later is asked so often in all.
const TRIES: u32 = 8;
/// And first again after so long; then each time twice as long.
const AGAIN: Duration = Duration::from_millis(250);
/// But not after longer.
const AGAIN_MAX: Duration = Duration::from_secs(4);

/// The sites that are compared.
pub(super) struct Sites {
    names: BTreeMap<NodeId, String>,
    workers: BTreeMap<NodeId, mpsc::UnboundedSender<Job>>,
}

struct Job {
    asked: Asked,
    answer: oneshot::Sender<Result<Said, String>>,
}

impl Sites {
    /// Asks the daemon who there is, and keeps those that are `wanted`: all when it is empty. `share` is the
    /// part of a session's time that each site gives at most.
    pub(super) async fn connect(
        folder: &Path,
        wanted: &[String],
        share: f64,
    ) -> Result<Self, Error> {
        let socket = |source| Error::Daemon {
            socket: control::path(folder),
            source,
        };
        let mut stream = control::connect(folder).await.map_err(socket)?;
        let request = Request {
            node: 0,
            question: None,
        };
        let response: Response = exchange(&mut stream, &request).await.map_err(socket)?;
        let all: BTreeMap<NodeId, String> = response
            .sites
            .into_iter()
            .filter_map(|site| Some((NodeId(u16::try_from(site.node).ok()?), site.name)))
            .collect();
        if let Some(unknown) = wanted.iter().find(|w| !all.values().any(|name| name == *w)) {
            return Err(Error::NoSuchSite {
                site: unknown.clone(),
                sites: all.into_values().collect(),
            });
        }
        let names: BTreeMap<NodeId, String> = all
            .into_iter()
            .filter(|(_, name)| wanted.is_empty() || wanted.contains(name))
            .collect();
        if names.len() < 2 {
            return Err(Error::OneSite);
        }
        let workers = names
            .keys()
            .map(|&node| {
                let (jobs, queue) = mpsc::unbounded_channel();
                tokio::spawn(work(node, folder.to_owned(), share, queue));
                (node, jobs)
            })
            .collect();
        Ok(Sites { names, workers })
    }

    /// All of them.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.names.keys().copied().collect()
    }

    /// A site's name.
    pub(super) fn name(&self, node: NodeId) -> String {
        let name = self.names.get(&node).cloned();
        name.unwrap_or_else(|| format!("node {node}"))
    }

    /// A site's number.
    pub(super) fn node(&self, name: &str) -> Option<NodeId> {
        let found = self.names.iter().find(|(_, n)| *n == name);
        found.map(|(&node, _)| node)
    }

    /// Asks one site. Questions to one site are answered one after the other.
    pub(super) fn ask(
        &self,
        node: NodeId,
        asked: Asked,
    ) -> impl Future<Output = Result<Said, Error>> + Send + 'static {
        let (answer, wait) = oneshot::channel();
        let sent = match self.workers.get(&node) {
            Some(worker) => worker.send(Job { asked, answer }).is_ok(),
            None => false,
        };
        let site = self.name(node);
        async move {
            let answered = if sent { wait.await.ok() } else { None };
            let ended = || Err("nobody asks it any more".to_owned());
            answered
                .unwrap_or_else(ended)
                .map_err(|reason| Error::Site { site, reason })
        }
    }
}

/// Asks one site, one question after the other, and leaves it in peace for the rest of the time.
async fn work(node: NodeId, folder: PathBuf, share: f64, mut queue: mpsc::UnboundedReceiver<Job>) {
    let mut stream = None;
    while let Some(Job { asked, answer }) = queue.recv().await {
        let request = Request {
            node: u32::from(node.0),
            question: Some(asked.into()),
        };
        let (said, took) = insist(&mut stream, &folder, &request).await;
        let _ = answer.send(said);
        tokio::time::sleep(took.mul_f64(1.0 / share - 1.0)).await;
    }
}

/// Asks again while that may help. Also what it cost the site.
async fn insist(
    stream: &mut Option<UnixStream>,
    folder: &Path,
    request: &Request,
) -> (Result<Said, String>, Duration) {
    let mut took = Duration::ZERO;
    let mut pause = AGAIN;
    for tries in 1.. {
        let reason = match once(stream, folder, request).await {
            Ok(Answer { took_us, said }) => {
                took += Duration::from_micros(took_us.into());
                match said {
                    Some(Said::Failed(Failed {
                        reason,
                        again: true,
                    })) => reason,
                    Some(Said::Failed(Failed { reason, .. })) => return (Err(reason), took),
                    Some(said) => return (Ok(said), took),
                    None => {
                        let why = "it answered what this release does not know: upgrade this site";
                        return (Err(why.to_owned()), took);
                    }
                }
            }
            Err(error) => {
                *stream = None;
                format!("the daemon of this site does not answer: {error}")
            }
        };
        if tries >= TRIES {
            return (Err(reason), took);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(AGAIN_MAX);
    }
    (Err("not asked".to_owned()), took)
}

async fn once(
    stream: &mut Option<UnixStream>,
    folder: &Path,
    request: &Request,
) -> std::io::Result<Answer> {
    let connected = match stream {
        Some(stream) => stream,
        None => stream.insert(control::connect(folder).await?),
    };
    let response: Response = exchange(connected, request).await?;
    Ok(response.answer.unwrap_or_default())
}

async fn exchange(stream: &mut UnixStream, request: &Request) -> std::io::Result<Response> {
    control::send(stream, request).await?;
    let response = control::receive(stream).await?;
    response.ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
}
