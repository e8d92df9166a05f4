//! One connection between two nodes that know each other.
//!
//! ```text
//!             ┌ read ───► feeds (receive), beats, answers; never waits for anybody
//!  TLS stream ┤
//!             └ write ◄── control queue first, then bulk queue
//!                           ▲ pings, gossip, credit      ▲ served subscriptions, row answers
//! ```
//!
//! Both directions are alike: whoever dialled, each side may subscribe at the other. The first task
//! that ends decides why the connection ends; the others are stopped.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::error::Error;
use super::frame::{Frame, FrameReader, malformed};
use super::gossip;
use super::hello::Agreed;
use super::hub::Event;
use super::message::{Body, Goodbye, Ping, Pong};
use super::node::Node;
use super::peer::PeerState;
use super::questions;
use super::receive::Inlets;
use super::routing::{SessionId, Via};
use super::rows::{self, ANSWERS_AT_ONCE, PendingRows, REQUESTS_WAITING};
use super::serve::Serving;
use super::writer::{self, CONTROL_QUEUE, Outbox};

/// A goodbye may take so long; then the socket is simply closed.
const GOODBYE_WAIT: std::time::Duration = std::time::Duration::from_millis(500);
/// Pings whose answers are waited for: more than fit into the longest silence are pointless.
const PINGS_KEPT: usize = 8;

/// A connection that is up.
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) via: Via,
    /// What the other side understands.
    pub(super) agreed: Agreed,
    pub(super) outbox: Outbox,
    pub(super) inlets: Inlets,
    pub(super) rows: PendingRows,
    pings: Mutex<VecDeque<SentPing>>,
    closing: CancellationToken,
    reason: Mutex<Option<Error>>,
}

struct SentPing {
    number: u64,
    sent: Instant,
    sent_unix_us: i64,
}

impl Session {
    /// Sends a control message. Never waits: a peer that lets a thousand of them wait is given up.
    pub(super) fn post(&self, body: Body) {
        if let Err(tokio::sync::mpsc::error::TrySendError::Full(_)) =
            self.outbox.control.try_send(body)
        {
            self.close(Error::NotReading(CONTROL_QUEUE));
        }
    }

    /// Ends the connection; the first reason counts.
    pub(super) fn close(&self, reason: Error) {
        self.reason.lock().get_or_insert(reason);
        self.closing.cancel();
    }

    fn answered(&self, pong: &Pong, peer: &PeerState) {
        let mut pings = self.pings.lock();
        while let Some(ping) = pings.pop_front() {
            if ping.number == pong.number {
                let rtt = ping.sent.elapsed();
                peer.with_skew(|skew| skew.add(ping.sent_unix_us, rtt, pong.clock_unix_us));
                return;
            }
        }
    }
}

/// Runs a connection from the welcome to its end, and says why it ended.
pub(super) async fn run<S>(
    node: Arc<Node>,
    io: S,
    reader: FrameReader,
    via: Via,
    agreed: Agreed,
    peer: Arc<PeerState>,
) -> Error
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (outbox, queues) = writer::queues();
    // Perhaps it is another process than the one before.
    peer.told.is_connected_with(&[]);
    let session = Arc::new(Session {
        id: node.next_session(),
        via,
        agreed,
        outbox,
        inlets: Inlets::default(),
        rows: PendingRows::default(),
        pings: Mutex::default(),
        closing: CancellationToken::new(),
        reason: Mutex::default(),
    });
    info!(peer = %via.node, dialled = via.dialled, session = session.id, packed_by = ?agreed.packed_by, "connected");
    let (mut read_half, mut write_half) = tokio::io::split(io);
    let writes = Arc::clone(&peer);
    let mut writer =
        tokio::spawn(async move { writer::write_all(&mut write_half, queues, writes).await });
    let mut tasks = JoinSet::new();
    {
        let (node, session, peer) = (Arc::clone(&node), Arc::clone(&session), Arc::clone(&peer));
        tasks.spawn(async move { read(node, session, &mut read_half, reader, peer).await });
    }
    {
        let (node, session) = (Arc::clone(&node), Arc::clone(&session));
        tasks.spawn(async move { match ping(&node, &session).await {} });
    }
    {
        let (node, session, peer) = (Arc::clone(&node), Arc::clone(&session), Arc::clone(&peer));
        tasks.spawn(async move { match gossip::run(node, session, peer).await {} });
    }
    node.tell(Event::Up(Arc::clone(&session))).await;

    let mut paused = peer.paused.subscribe();
    let me = node.options.me;
    // All arms are cancellation-safe: joins, tokens and a watch.
    let error = tokio::select! {
        biased;
        () = node.shutdown.cancelled() => Error::ShuttingDown(me),
        () = session.closing.cancelled() => session.reason.lock().take().unwrap_or(Error::Closed),
        _ = paused.wait_for(|paused| *paused) => Error::Paused(me, via.node),
        ended = tasks.join_next() => match ended {
            Some(Ok(error)) => error,
            Some(Err(panic)) => Error::Internal(panic.to_string()),
            None => Error::Closed,
        },
        ended = &mut writer => match ended {
            Ok(Ok(())) => Error::Closed,
            Ok(Err(error)) => error,
            Err(panic) => Error::Internal(panic.to_string()),
        },
    };
    tasks.shutdown().await;
    session.rows.clear();
    node.tell(Event::Down(session.id)).await;
    if !writer.is_finished() {
        let reason = error.to_string();
        let goodbye = Body::Goodbye(Goodbye { reason });
        if !is_dead(&error) && session.outbox.control.try_send(goodbye).is_ok() {
            let _ = tokio::time::timeout(GOODBYE_WAIT, &mut writer).await;
        }
        writer.abort();
    }
    info!(peer = %via.node, dialled = via.dialled, session = session.id, error = %error, "disconnected");
    error
}

/// Whether there is nobody left to say goodbye to.
fn is_dead(error: &Error) -> bool {
    matches!(
        error,
        Error::Broken { .. }
            | Error::Closed
            | Error::Silent(_)
            | Error::Goodbye { .. }
            | Error::NotReading(_)
    )
}

/// Sends pings until it is stopped.
async fn ping(node: &Node, session: &Session) -> Infallible {
    let mut ticks = tokio::time::interval(node.options.timing.ping);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut number = 0;
    loop {
        number += 1;
        ticks.tick().await;
        {
            let mut pings = session.pings.lock();
            if pings.len() == PINGS_KEPT {
                pings.pop_front();
            }
            pings.push_back(SentPing {
                number,
                sent: Instant::now(),
                sent_unix_us: node.options.clock.now_unix_us(),
            });
        }
        session.post(Body::Ping(Ping { number }));
    }
}

async fn read(
    node: Arc<Node>,
    session: Arc<Session>,
    io: &mut (impl AsyncRead + Unpin),
    mut reader: FrameReader,
    peer: Arc<PeerState>,
) -> Error {
    let mut incoming = Incoming {
        serving: Serving::default(),
        answers: JoinSet::new(),
        turns: Arc::new(Semaphore::new(ANSWERS_AT_ONCE)),
        node,
        session,
        peer,
    };
    let silence = incoming.node.options.timing.silence;
    let mut counted = 0;
    loop {
        let frame = reader.next(io, silence).await;
        incoming.peer.received(reader.received_bytes - counted);
        counted = reader.received_bytes;
        let handled = match frame {
            Ok(Some(Frame::Control(Some(body)))) => incoming.control(body).await,
            // A newer node's message: not for this version.
            Ok(Some(Frame::Control(None))) => Ok(()),
            Ok(Some(Frame::Data(piece))) => incoming.session.inlets.push(piece).map(|credit| {
                if let Some(credit) = credit {
                    incoming.session.post(Body::Credit(credit));
                }
            }),
            Ok(Some(Frame::Row(piece))) => incoming.session.rows.push(piece),
            Ok(None) => Err(Error::Closed),
            Err(error) => Err(error),
        };
        if let Err(error) = handled {
            return error;
        }
    }
}

/// What is done with what comes.
struct Incoming {
    node: Arc<Node>,
    session: Arc<Session>,
    peer: Arc<PeerState>,
    serving: Serving,
    answers: JoinSet<()>,
    turns: Arc<Semaphore>,
}

impl Incoming {
    /// Another answer may be worked on.
    fn room_for_an_answer(&mut self) -> Result<(), Error> {
        while self.answers.try_join_next().is_some() {}
        if self.answers.len() >= REQUESTS_WAITING {
            return Err(malformed("too many requests at once".to_owned()));
        }
        Ok(())
    }

    async fn control(&mut self, body: Body) -> Result<(), Error> {
        match body {
            Body::Ping(Ping { number }) => self.session.post(Body::Pong(Pong {
                number,
                clock_unix_us: self.node.options.clock.now_unix_us(),
            })),
            Body::Pong(pong) => self.session.answered(&pong, &self.peer),
            Body::Beats(list) => {
                self.peer.told.is_connected_with(&list.direct);
                for beat in &list.beats {
                    let beat = beat
                        .decode_beat()
                        .ok_or_else(|| malformed("a beat of no node".to_owned()))?;
                    self.peer.told.has(&beat);
                    self.node.beats.offer(beat);
                }
            }
            Body::Subscribe(subscribe) => {
                self.serving
                    .subscribe(&self.node, &self.session, &subscribe)?;
            }
            Body::Unsubscribe(ended) => self.serving.unsubscribe(ended.subscription),
            Body::Credit(credit) => self.serving.credit(credit.subscription, credit.bytes)?,
            Body::Refused(refused) => {
                let event = Event::Refused {
                    session: self.session.id,
                    number: refused.subscription,
                    reason: refused.reason,
                };
                self.node.tell(event).await;
            }
            Body::RowRequest(request) => {
                self.room_for_an_answer()?;
                let answer = rows::answer(
                    Arc::clone(&self.session),
                    Arc::clone(&self.node.rows),
                    Arc::clone(&self.turns),
                    request,
                    self.node.options.timing.fetch * 2,
                );
                self.answers.spawn(self.node.tasks.track_future(answer));
            }
            Body::Question(question) => {
                self.room_for_an_answer()?;
                let source = self.node.questions.get().map(Arc::clone);
                let answer = questions::answer(Arc::clone(&self.session), source, question);
                self.answers.spawn(self.node.tasks.track_future(answer));
            }
            Body::Goodbye(Goodbye { reason }) => {
                return Err(Error::Goodbye {
                    who: format!("node {}", self.session.via.node),
                    reason,
                });
            }
            Body::Hello(_) | Body::Welcome(_) => {
                return Err(malformed("a second hello".to_owned()));
            }
        }
        Ok(())
    }
}
