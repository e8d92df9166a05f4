//! The sending side of subscriptions: journal → connection.
//!
//! Each subscription is one task: it reads whole journal frames as they are on disk, cuts them into
//! pieces without copying, compresses these if the site wants it, and sends a piece when it has credit for it. So a slow receiver makes
//! it hold one chunk of its journal reader, not more. The pieces of all subscriptions go
//! through one short queue, in turn.

use std::collections::HashMap;
use std::sync::Arc;

use everywrite_conflict::{Lsn, NodeId};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tracing::debug;

use super::error::Error;
use super::frame::{Bulk, malformed, pieces};
use super::message::{self, Body, Refused, Subscribe};
use super::node::Node;
use super::pack::Packer;
use super::peer::with_causes;
use super::session::Session;

/// What a piece costs besides its bytes, so that a flood of tiny ones is bounded too.
pub(super) const PIECE_COST: usize = 64;
/// No sensible receiver gives more credit than this.
const CREDIT_MAX: usize = 1 << 30;
/// No sensible receiver has more subscriptions on one connection.
const SUBSCRIPTIONS_MAX: usize = 4096;

/// The subscriptions served on one connection.
#[derive(Default)]
pub(super) struct Serving {
    tasks: JoinSet<()>,
    subscriptions: HashMap<u32, (Arc<Semaphore>, AbortHandle)>,
}

impl Serving {
    pub(super) fn subscribe(
        &mut self,
        node: &Arc<Node>,
        session: &Arc<Session>,
        subscribe: &Subscribe,
    ) -> Result<(), Error> {
        while self.tasks.try_join_next().is_some() {}
        self.subscriptions
            .retain(|_, (_, task)| !task.is_finished());
        let number = subscribe.subscription;
        if self.subscriptions.len() >= SUBSCRIPTIONS_MAX || self.subscriptions.contains_key(&number)
        {
            return Err(malformed(format!("subscription {number} a second time")));
        }
        let Some(origin) = message::node(subscribe.origin) else {
            return Err(malformed("a subscription of no origin".to_owned()));
        };
        let credit = Arc::new(Semaphore::new(
            (subscribe.window_bytes as usize).min(CREDIT_MAX),
        ));
        let from = Lsn(subscribe.from);
        debug!(peer = %session.via.node, %origin, %from, number, "subscription begins");
        let serve = serve(
            Arc::clone(node),
            Arc::clone(session),
            number,
            origin,
            from,
            Arc::clone(&credit),
        );
        let task = self.tasks.spawn(node.tasks.track_future(serve));
        self.subscriptions.insert(number, (credit, task));
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, number: u32) {
        if let Some((_, task)) = self.subscriptions.remove(&number) {
            task.abort();
        }
    }

    /// Credit for a subscription that has just ended is normal and dropped.
    pub(super) fn credit(&mut self, number: u32, bytes: u32) -> Result<(), Error> {
        let Some((credit, _)) = self.subscriptions.get(&number) else {
            return Ok(());
        };
        if credit.available_permits() + bytes as usize > CREDIT_MAX {
            return Err(malformed("credit beyond every window".to_owned()));
        }
        credit.add_permits(bytes as usize);
        Ok(())
    }
}

async fn serve(
    node: Arc<Node>,
    session: Arc<Session>,
    number: u32,
    origin: NodeId,
    from: Lsn,
    credit: Arc<Semaphore>,
) {
    if let Err(reason) = send(&node, &session, number, origin, from, &credit).await {
        debug!(peer = %session.via.node, %origin, %from, reason, "subscription refused");
        session.post(Body::Refused(Refused {
            subscription: number,
            reason,
        }));
    }
}

/// Ends with the connection (`Ok`) or with a reason for the receiver.
async fn send(
    node: &Node,
    session: &Session,
    number: u32,
    origin: NodeId,
    from: Lsn,
    credit: &Semaphore,
) -> Result<(), String> {
    let Some(journal) = node.journals.get(origin) else {
        return Err("it has no journal of that origin".to_owned());
    };
    // What an origin shipped was durable there. If it has less now, it lost what others have, and
    // new transactions may get positions that are taken: nothing may be built on that.
    let holds = journal.end();
    if origin == node.options.me && from > holds {
        return Err(Error::OriginBehind {
            origin,
            holds,
            asked: from,
        }
        .to_string());
    }
    let mut reader = journal.reader(from).map_err(|err| describe(&err))?;
    let mut packer = Packer::new(session.agreed.packed_by).map_err(|err| describe(&err))?;
    loop {
        let chunk = reader.next().await.map_err(|err| describe(&err))?;
        for piece in pieces(number, chunk) {
            let piece = packer.pack(piece);
            // At most a piece and its cost, far below any window: fits in 32 bits.
            let cost = (piece.bytes.len() + PIECE_COST) as u32;
            let Ok(paid) = credit.acquire_many(cost).await else {
                return Ok(());
            };
            paid.forget();
            if session.outbox.bulk.send(Bulk::Data(piece)).await.is_err() {
                return Ok(());
            }
        }
    }
}

fn describe(err: &(dyn std::error::Error + 'static)) -> String {
    with_causes(err)
}
