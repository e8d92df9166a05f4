//! Nodes without PostgreSQL: a journal, beats, and the link.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use everywrite_conflict::{Lsn, NodeId, Stamp, Vector};
use futures_util::future::BoxFuture;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::proxy::{Mode, Proxy};
use crate::journal::record::{self, Header};
use crate::journal::tests::patiently;
use crate::journal::{Journals, Options as JournalOptions};
use crate::link::certificates::{issue, new_authority};
use crate::link::{Clock, Compression, FetchRow, Handle, Link, Options, Peer, RowSource, Timing};
use crate::settle::{Beat, Beats};
use crate::telemetry::PeerStatus;

pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for a level, not for an edge.
pub(super) async fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let began = Instant::now();
    while !reached() {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A CA and the files of its nodes.
pub(super) struct Authority {
    pub(super) dir: TempDir,
    pub(super) ca: String,
    pub(super) ca_key: String,
}

impl Authority {
    pub(super) fn new(cluster: &str) -> Authority {
        let (ca, ca_key) = new_authority(cluster).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.crt"), &ca).unwrap();
        Authority { dir, ca, ca_key }
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    pub(super) fn issue(&self, cluster: &str, node: NodeId) {
        let hosts = ["127.0.0.1".to_owned()];
        let (cert, key) = issue(&self.ca, &self.ca_key, cluster, node, "test", &hosts, 30).unwrap();
        self.put(node, &cert, &key);
    }

    pub(super) fn put(&self, node: NodeId, cert: &str, key: &str) {
        std::fs::write(self.path(&format!("{node}.crt")), cert).unwrap();
        std::fs::write(self.path(&format!("{node}.key")), key).unwrap();
    }
}

/// Answers with what it was asked.
pub(super) struct Echo;

impl RowSource for Echo {
    fn fetch(
        &self,
        row: FetchRow,
    ) -> BoxFuture<'static, Result<Option<Vec<Option<Bytes>>>, String>> {
        Box::pin(async move {
            match row.table.as_str() {
                "empty" => Ok(None),
                "broken" => Err("no such table".to_owned()),
                "slow" => {
                    tokio::time::sleep(Duration::from_secs(60)).await;
                    Ok(None)
                }
                "big" => Ok(Some(vec![Some(Bytes::from(vec![7; 5 << 20])), None])),
                _ => Ok(Some(
                    row.key.into_iter().map(|(_, value)| Some(value)).collect(),
                )),
            }
        })
    }
}

pub(super) struct Node {
    pub(super) me: NodeId,
    pub(super) dir: TempDir,
    pub(super) journals: Arc<Journals>,
    pub(super) beats: Arc<Beats>,
    pub(super) handle: Handle,
    pub(super) shutdown: CancellationToken,
    settle: tokio::task::JoinHandle<()>,
}

/// Short where the defaults would make tests wait; the rest as it is.
pub(super) fn quick() -> Timing {
    Timing {
        silence: Duration::from_millis(1500),
        ping: Duration::from_millis(100),
        backoff_max: Duration::from_millis(300),
        fetch: Duration::from_secs(2),
        ..Timing::default()
    }
}

pub(super) fn options(authority: &Authority, cluster: &str, me: u16, peers: Vec<Peer>) -> Options {
    Options {
        me: NodeId(me),
        name: format!("node{me}"),
        cluster: cluster.to_owned(),
        listen: "127.0.0.1:0".to_owned(),
        peers,
        ca: authority.path("ca.crt"),
        certificate: authority.path(&format!("{me}.crt")),
        key: authority.path(&format!("{me}.key")),
        timing: quick(),
        window_bytes: Options::WINDOW_BYTES,
        compression: Compression::None,
        clock: Clock::default(),
    }
}

pub(super) fn peer(node: u16, address: SocketAddr) -> Peer {
    Peer {
        node: NodeId(node),
        name: format!("node{node}"),
        address: address.to_string(),
    }
}

impl Node {
    pub(super) fn start(options: Options) -> Node {
        Node::start_in(
            tempfile::tempdir().unwrap(),
            options,
            JournalOptions::default(),
        )
    }

    pub(super) fn start_in(dir: TempDir, options: Options, journal: JournalOptions) -> Node {
        let me = options.me;
        let journals = Arc::new(open(dir.path(), journal));
        let beats = Arc::new(Beats::default());
        let shutdown = CancellationToken::new();
        let handle = Link::start(
            options,
            Arc::clone(&journals),
            Arc::clone(&beats),
            Arc::new(Echo),
            shutdown.clone(),
        )
        .unwrap();
        let settle = settle(me, &journals, &beats, &shutdown);
        Node {
            me,
            dir,
            journals,
            beats,
            handle,
            shutdown,
            settle,
        }
    }

    /// Appends `count` transactions of about `bytes` each to the own journal, and waits until
    /// they are durable.
    pub(super) async fn commit(&self, count: usize, bytes: usize) {
        let journal = self.journals.get_or_open(self.me).unwrap();
        let mut end = journal.end();
        let mut frames = BytesMut::new();
        for i in 0..count {
            let position = Lsn(end.0 + 100);
            record::encode_transaction(&mut frames, &header(position, end), &change(bytes));
            end = position;
            if frames.len() > 1 << 20 || i + 1 == count {
                journal.append(frames.split().freeze()).await.unwrap();
            }
        }
        journal.subscribe().wait_for(|d| *d >= end).await.unwrap();
    }

    /// One transaction in parts of `part` bytes.
    pub(super) async fn commit_large(&self, parts: usize, part: usize) {
        let journal = self.journals.get_or_open(self.me).unwrap();
        let end = journal.end();
        let position = Lsn(end.0 + 100);
        let mut frames = BytesMut::new();
        record::encode_large_begin(&mut frames, &header(position, end));
        for _ in 0..parts {
            record::encode_large_part(&mut frames, position, &change(part));
            journal.append(frames.split().freeze()).await.unwrap();
        }
        record::encode_large_end(&mut frames, position, parts as u32);
        journal.append(frames.freeze()).await.unwrap();
        journal
            .subscribe()
            .wait_for(|d| *d >= position)
            .await
            .unwrap();
    }

    pub(super) fn end_of(&self, origin: NodeId) -> Lsn {
        self.journals.get(origin).map_or(Lsn::ZERO, |j| j.end())
    }

    pub(super) fn status(&self, of: NodeId) -> PeerStatus {
        let all = self.handle.peers();
        all.into_iter().find(|p| p.node == of).unwrap()
    }

    /// Every transaction and change of an origin, as its journal here has it.
    pub(super) async fn history(&self, origin: NodeId) -> Vec<(Lsn, usize)> {
        let journal = self.journals.get(origin).unwrap();
        let mut reader = journal.reader(journal.first()).unwrap();
        let mut seen: Vec<(Lsn, usize)> = Vec::new();
        while reader.position() < journal.end() {
            let mut chunk = reader.next().await.unwrap();
            while let Some(frame) = record::decode(&mut chunk).unwrap() {
                match frame {
                    record::Frame::Transaction { header, changes } => {
                        seen.push((header.position, changes.len()));
                    }
                    record::Frame::LargeBegin { header } => seen.push((header.position, 0)),
                    record::Frame::LargePart { position, changes } => {
                        let last = seen.last_mut().unwrap();
                        assert_eq!(last.0, position);
                        last.1 += changes.len();
                    }
                    _ => {}
                }
            }
        }
        seen
    }

    pub(super) async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.handle.closed())
            .await
            .expect("the link ends when it is told to");
        self.settle.await.unwrap();
        self.dir
    }
}

/// Stands in for settle: tells what is held as soon as it changes.
fn settle(
    me: NodeId,
    journals: &Arc<Journals>,
    beats: &Arc<Beats>,
    shutdown: &CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let (journals, beats) = (Arc::clone(journals), Arc::clone(beats));
    let shutdown = shutdown.clone();
    let mut sequence = unix_us();
    tokio::spawn(async move {
        let mut told = None;
        while !shutdown.is_cancelled() {
            let holds = journals.holds();
            if told.as_ref() != Some(&holds) {
                sequence += 1;
                beats.offer(Beat {
                    node: me,
                    sequence,
                    journal_end: holds.get(me),
                    applied: holds.clone(),
                    holds: holds.clone(),
                });
                told = Some(holds);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
}

fn open(dir: &Path, options: JournalOptions) -> Journals {
    patiently(|| Journals::open(&dir.join("journal"), options))
}

fn header(position: Lsn, previous: Lsn) -> Header {
    Header {
        position,
        previous,
        stamp: Stamp(position.0 as i64),
        commit_time: Stamp(position.0 as i64),
        xid: 7,
        vector: Vector::new(),
        seen: Vector::new(),
        changes: 1,
    }
}

fn change(bytes: usize) -> BytesMut {
    let mut changes = BytesMut::new();
    let mut message = vec![b'M'];
    message.extend((1..bytes).map(|i| i as u8));
    record::push_change(&mut changes, &message);
    changes
}

pub(super) fn unix_us() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_micros() as u64
}

/// Nodes 1..=n, each reaching each other one through a proxy of its own.
pub(super) struct Cluster {
    pub(super) authority: Authority,
    nodes: BTreeMap<u16, Node>,
    /// By (from, to).
    proxies: BTreeMap<(u16, u16), Proxy>,
}

impl Cluster {
    pub(super) async fn start(n: u16) -> Cluster {
        Cluster::start_with(n, |_| {}).await
    }

    pub(super) async fn start_with(n: u16, tune: impl Fn(&mut Options)) -> Cluster {
        let authority = Authority::new("test");
        let mut proxies = BTreeMap::new();
        for from in 1..=n {
            authority.issue("test", NodeId(from));
            for to in (1..=n).filter(|to| *to != from) {
                proxies.insert((from, to), Proxy::start().await);
            }
        }
        let mut cluster = Cluster {
            authority,
            nodes: BTreeMap::new(),
            proxies,
        };
        for me in 1..=n {
            cluster.add(me, &tune, tempfile::tempdir().unwrap());
        }
        cluster
    }

    pub(super) fn add(&mut self, me: u16, tune: &impl Fn(&mut Options), dir: TempDir) {
        let peers = self
            .proxies
            .iter()
            .filter(|((from, _), _)| *from == me)
            .map(|(&(_, to), proxy)| peer(to, proxy.address))
            .collect();
        let mut options = options(&self.authority, "test", me, peers);
        tune(&mut options);
        let node = Node::start_in(dir, options, JournalOptions::default());
        for ((_, to), proxy) in &self.proxies {
            if *to == me {
                proxy.target(node.handle.listening());
            }
        }
        self.nodes.insert(me, node);
    }

    pub(super) fn node(&self, n: u16) -> &Node {
        &self.nodes[&n]
    }

    pub(super) fn take(&mut self, n: u16) -> Node {
        self.nodes.remove(&n).unwrap()
    }

    pub(super) fn proxy(&self, from: u16, to: u16) -> &Proxy {
        &self.proxies[&(from, to)]
    }

    /// Both directions.
    pub(super) fn set(&self, a: u16, b: u16, mode: Mode) {
        self.proxy(a, b).set(mode);
        self.proxy(b, a).set(mode);
    }

    pub(super) async fn all_connected(&self) {
        wait_until("all are connected", || {
            self.nodes.values().all(|node| {
                node.handle
                    .peers()
                    .iter()
                    .all(|p| p.connected && p.connected_inbound)
            })
        })
        .await;
    }

    /// Everybody has everything of everybody, the same, once, and in order.
    pub(super) async fn level(&self) {
        for origin in self.nodes.values() {
            let end = origin.end_of(origin.me);
            for node in self.nodes.values() {
                let what = format!("node {} has all of node {}", node.me, origin.me);
                wait_until(&what, || node.end_of(origin.me) >= end).await;
            }
        }
        for origin in self.nodes.values() {
            let truth = origin.history(origin.me).await;
            for node in self.nodes.values() {
                assert_eq!(node.history(origin.me).await, truth, "{:?}", node.me);
            }
        }
    }
}
