//! pgoutput's messages → journal frames. No I/O but the spool of large transactions.

mod large;

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use everywrite_conflict::{Lsn, NodeId, Position, Stamp, Version};
use rustc_hash::{FxHashMap, FxHashSet};

use super::touched::{key_cells, touch, travelling};
use super::{Error, Shapes, merged, policies, spool};
use crate::admin::message::{Command, SetPolicy, WalMessage};
use crate::journal::ranks::Ranks;
use crate::journal::record::{self, Header};
use crate::pg::pgoutput::{self, Message, OwnedRelation};
use crate::settle::{Identity, Ledger, Touched};

pub(super) use large::LargeCommit;

/// The schema whose tables never travel: the daemon's own.
const OWN_SCHEMA: &str = "everywrite";
/// The one of them whose rows are turned into messages that travel.
const POLICY_TABLE: &str = "policy_log";
/// Prefix of our own replication origins and messages.
const OWN_PREFIX: &str = "everywrite";

/// Something a local transaction tells the daemon.
#[derive(Clone, Debug, PartialEq)]
pub enum Signal {
    /// Everything before this barrier is announced.
    Barrier(u64),
    /// A person's command.
    Command(Command),
    /// A key or table to look at again: see [`crate::settle::Stamped::repairs`].
    Repair(Repair),
}

/// A row that may stand although it is gone: see [`crate::settle::Stamped::repairs`].
#[derive(Clone, Debug, PartialEq)]
pub struct Repair {
    /// The table, as the stream describes it.
    pub relation: std::sync::Arc<OwnedRelation>,
    /// The row's key; `None` for all rows of a table that was truncated.
    pub row: Option<RepairRow>,
    /// The version of the local write. If the row is gone, then by this one or a greater one.
    pub version: Version,
}

/// The key of a row to look at again.
#[derive(Clone, Debug, PartialEq)]
pub struct RepairRow {
    /// How many cells.
    pub count: u16,
    /// The cells of a row with that key, as pgoutput writes them.
    pub cells: Bytes,
}

/// What one message brought about.
#[derive(Debug)]
pub enum Assembled {
    /// Nothing to do yet, or frames were added.
    Done,
    /// A large transaction was committed: drive [`Assembler::step`] until it ends.
    Large(Box<LargeCommit>),
}

pub(super) struct Relation {
    shape: u32,
    pub(super) identity: Identity,
    pub(super) owned: std::sync::Arc<OwnedRelation>,
    own: bool,
    /// Changes of policies.
    policies: bool,
}

/// The transaction that is coming in.
#[derive(Default)]
struct Open {
    replayed: bool,
    marked: bool,
    count: u32,
    changes: BytesMut,
    touched: Vec<Touched>,
    /// Deletes that travel and their messages.
    travelling: Vec<(Touched, Bytes)>,
    /// Policies that it sets.
    policies: Vec<SetPolicy>,
    signals: Vec<Signal>,
    xid: u32,
}

impl Open {
    /// Ready for the next transaction, keeping the allocations.
    fn reset(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        let mut touched = std::mem::take(&mut self.touched);
        touched.clear();
        *self = Open {
            changes,
            touched,
            ..Open::default()
        };
        self.changes.clear();
    }
}

/// Turns the local change stream into journal frames.
pub struct Assembler {
    me: NodeId,
    shapes: Shapes,
    relations: FxHashMap<u32, Relation>,
    open: Option<Open>,
    spare: Open,
    spools: spool::Spools,
    /// Inside a piece of this large transaction.
    streaming: Option<u32>,
    large_signals: HashMap<u32, Vec<Signal>>,
    large_marks: HashMap<u32, ()>,
    /// The last transaction in the journal, or on its way there.
    last: Lsn,
    /// When it was committed.
    last_commit: Stamp,
    frames: BytesMut,
    sending: Bytes,
    /// The end of the last commit that nobody was told of.
    captured: Lsn,
    /// Transactions and changes assembled since start.
    pub transactions: u64,
    /// Changes assembled since start.
    pub changes: u64,
}

impl Assembler {
    /// `last`: the end of the own journal; transactions up to there are skipped.
    pub fn new(me: NodeId, shapes: Shapes, last: Lsn, spools: spool::Spools) -> Self {
        Assembler {
            me,
            shapes,
            relations: FxHashMap::default(),
            open: None,
            spare: Open::default(),
            spools,
            streaming: None,
            large_signals: HashMap::new(),
            large_marks: HashMap::new(),
            last,
            last_commit: Stamp::MIN,
            frames: BytesMut::new(),
            sending: Bytes::new(),
            captured: Lsn::ZERO,
            transactions: 0,
            changes: 0,
        }
    }

    /// The stream begins anew (after a reconnect).
    pub fn restart(&mut self) {
        self.relations.clear();
        self.open = None;
        self.streaming = None;
        self.spools.clear();
        self.large_signals.clear();
        self.large_marks.clear();
    }

    /// Whether a transaction is only half in: a keepalive then says nothing.
    pub fn between_transactions(&self) -> bool {
        self.open.is_none() && self.streaming.is_none()
    }

    /// Says how far capture has come. Not for each transaction, because it wakes whoever waits for it.
    pub fn tell(&mut self, ledger: &Ledger) {
        if self.captured > Lsn::ZERO {
            ledger.captured(std::mem::take(&mut self.captured));
        }
    }

    /// The last transaction assembled.
    pub fn last(&self) -> Lsn {
        self.last
    }

    /// When that was committed, by the server's clock.
    pub fn last_commit(&self) -> Stamp {
        self.last_commit
    }

    /// Bytes of frames that the journal does not have yet.
    pub fn pending(&self) -> usize {
        self.frames.len() + self.sending.len()
    }

    /// The frames assembled so far; the same again until [`sent`](Self::sent), because a stamped
    /// transaction must never be stamped anew.
    pub fn frames(&mut self) -> Bytes {
        if self.sending.is_empty() {
            self.sending = self.frames.split().freeze();
        }
        self.sending.clone()
    }

    /// The journal has what [`frames`](Self::frames) gave.
    pub fn sent(&mut self) {
        self.sending = Bytes::new();
    }

    /// The relation that `payload` describes, if its key can only be known from the catalog
    /// (REPLICA IDENTITY FULL): (schema, name).
    pub fn wants_primary_key(
        payload: &[u8],
        streaming: bool,
    ) -> Result<Option<(String, String)>, Error> {
        if payload.first() != Some(&b'R') {
            return Ok(None);
        }
        match pgoutput::decode(payload, streaming)? {
            Message::Relation(r) if r.replica_identity == b'f' => {
                Ok(Some((r.namespace.to_owned(), r.name.to_owned())))
            }
            _ => Ok(None),
        }
    }

    /// Whether the stream is inside a piece of a large transaction.
    pub fn in_piece(&self) -> bool {
        self.streaming.is_some()
    }

    /// Takes one pgoutput message.
    pub fn feed(
        &mut self,
        payload: &Bytes,
        primary_key: Option<&[String]>,
        ledger: &Ledger,
        signal: &mut dyn FnMut(Signal),
    ) -> Result<Assembled, Error> {
        let streaming = self.streaming.is_some();
        if self.drops(payload) {
            return Ok(Assembled::Done);
        }
        match pgoutput::decode(payload, streaming)? {
            Message::Begin { xid, .. } => {
                let mut open = std::mem::take(&mut self.spare);
                open.reset();
                open.xid = xid;
                self.open = Some(open);
            }
            Message::Origin { name, .. } => {
                if name
                    .strip_prefix(OWN_PREFIX)
                    .is_some_and(|rest| rest.starts_with('_'))
                {
                    match self.streaming {
                        Some(xid) => self.spools.mark_ours(xid).map_err(Error::Spool)?,
                        None => self.open()?.replayed = true,
                    }
                }
            }
            Message::Relation(r) => {
                let skip = if streaming { 5 } else { 1 };
                let raw = payload.get(skip..).unwrap_or_default();
                self.relation(r.to_owned(), raw, primary_key);
            }
            Message::Type { .. } => {}
            message @ (Message::Insert { .. }
            | Message::Update { .. }
            | Message::Delete { .. }
            | Message::Truncate { .. }) => {
                self.change(payload, &message)?;
            }
            Message::Message {
                transactional,
                prefix,
                content,
                ..
            } => {
                self.message(payload, transactional, prefix, content, signal)?;
            }
            Message::Commit {
                end_lsn,
                commit_time,
                ..
            } => {
                let open = self
                    .open
                    .take()
                    .ok_or_else(|| Error::Order("commit without begin"))?;
                self.commit(open, end_lsn, commit_time, ledger, signal);
                self.captured = end_lsn;
            }
            Message::StreamStart { xid, .. } => self.streaming = Some(xid),
            Message::StreamStop => self.streaming = None,
            Message::StreamAbort { xid, subxid, .. } => {
                self.spools.abort(xid, subxid);
                if xid == subxid {
                    self.large_signals.remove(&xid);
                    self.large_marks.remove(&xid);
                }
            }
            Message::StreamCommit {
                xid,
                end_lsn,
                commit_time,
                ..
            } => {
                return self.stream_commit(xid, end_lsn, commit_time, ledger, signal);
            }
        }
        Ok(Assembled::Done)
    }

    fn open(&mut self) -> Result<&mut Open, Error> {
        self.open
            .as_mut()
            .ok_or_else(|| Error::Order("a change outside a transaction"))
    }

    fn relation(&mut self, owned: OwnedRelation, raw: &[u8], primary_key: Option<&[String]>) {
        let own = owned.namespace == OWN_SCHEMA;
        let identity = Identity::of(&owned, primary_key);
        let policies = own && owned.name == POLICY_TABLE;
        let mut shape = 0;
        if !own {
            let (id, new) = self.shapes.id(raw);
            shape = id;
            if new {
                record::encode_shape(&mut self.frames, id, raw);
            }
        }
        self.relations.insert(
            owned.id,
            Relation {
                shape,
                identity,
                owned: std::sync::Arc::new(owned),
                own,
                policies,
            },
        );
    }

    /// Whether `payload` is a change that replay made. While a node catches up nearly all are:
    /// they are not even decoded.
    fn drops(&self, payload: &[u8]) -> bool {
        matches!(payload.first(), Some(b'I' | b'U' | b'D' | b'T'))
            && match self.streaming {
                Some(xid) => self.spools.is_ours(xid),
                None => self.open.as_ref().is_some_and(|o| o.replayed),
            }
    }

    fn change(&mut self, payload: &Bytes, message: &Message<'_>) -> Result<(), Error> {
        if let Some(policy) = self.policy(message) {
            return self.set_policy(payload, policy);
        }
        let relations = &self.relations;
        if let Some(xid) = self.streaming {
            let mut change = BytesMut::with_capacity(payload.len());
            if !rewrite(payload, message, true, relations, &mut change)? {
                return Ok(());
            }
            let subxid = subxid(payload, xid);
            return self.spools.add(xid, subxid, &change).map_err(Error::Spool);
        }
        let open = self
            .open
            .as_mut()
            .ok_or_else(|| Error::Order("a change outside a transaction"))?;
        let start = open.changes.len();
        open.changes.put_u32(0);
        if !rewrite(payload, message, false, relations, &mut open.changes)? {
            open.changes.truncate(start);
            return Ok(());
        }
        let length = u32::try_from(open.changes.len() - start - 4).unwrap_or(u32::MAX);
        if let Some(place) = open.changes.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        touch(message, |oid| relations.get(&oid), &mut open.touched)?;
        open.count += 1;
        Ok(())
    }

    /// The policy that an insert of a row of the own schema sets.
    fn policy(&self, message: &Message<'_>) -> Option<SetPolicy> {
        let Message::Insert { relation, new, .. } = message else {
            return None;
        };
        let relation = self.relations.get(relation).filter(|r| r.policies)?;
        let policy = policies::of_row(&relation.owned, new);
        if policy.is_none() {
            tracing::warn!(
                "ignored a row of everywrite.policy_log that no policy can be read from"
            );
        }
        policy
    }

    fn set_policy(&mut self, payload: &Bytes, policy: SetPolicy) -> Result<(), Error> {
        if let Some(xid) = self.streaming {
            let subxid = subxid(payload, xid);
            let message = policies::message(&policy);
            return self.spools.add(xid, subxid, &message).map_err(Error::Spool);
        }
        self.open()?.policies.push(policy);
        Ok(())
    }

    fn message(
        &mut self,
        payload: &Bytes,
        transactional: bool,
        prefix: &str,
        content: &[u8],
        signal: &mut dyn FnMut(Signal),
    ) -> Result<(), Error> {
        if prefix != OWN_PREFIX {
            return Ok(());
        }
        let message = match WalMessage::decode(content) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(error = %error, "ignored a malformed message with our prefix");
                return Ok(());
            }
        };
        if !transactional {
            match message {
                WalMessage::Barrier(token) => signal(Signal::Barrier(token)),
                WalMessage::Command(command) => signal(Signal::Command(command)),
                WalMessage::Mark | WalMessage::Delete(_) | WalMessage::Policy(_) => {}
            }
            return Ok(());
        }
        if let Some(xid) = self.streaming {
            match message {
                WalMessage::Barrier(t) => self
                    .large_signals
                    .entry(xid)
                    .or_default()
                    .push(Signal::Barrier(t)),
                WalMessage::Command(c) => self
                    .large_signals
                    .entry(xid)
                    .or_default()
                    .push(Signal::Command(c)),
                WalMessage::Mark => {
                    self.large_marks.insert(xid, ());
                }
                WalMessage::Policy(_) => {}
                WalMessage::Delete(_) => {
                    let mut change = BytesMut::with_capacity(payload.len());
                    change.put_u8(b'M');
                    change.extend_from_slice(payload.get(5..).unwrap_or_default());
                    self.spools.add(xid, xid, &change).map_err(Error::Spool)?;
                }
            }
            return Ok(());
        }
        let open = self.open()?;
        if open.replayed {
            return Ok(());
        }
        match message {
            WalMessage::Barrier(token) => open.signals.push(Signal::Barrier(token)),
            WalMessage::Command(command) => open.signals.push(Signal::Command(command)),
            WalMessage::Mark => open.marked = true,
            // Any role may write one: the table is the authority.
            WalMessage::Policy(_) => {}
            WalMessage::Delete(delete) => {
                open.travelling.push((travelling(&delete), payload.clone()));
            }
        }
        Ok(())
    }

    fn commit(
        &mut self,
        mut open: Open,
        position: Lsn,
        commit_time: Stamp,
        ledger: &Ledger,
        signal: &mut dyn FnMut(Signal),
    ) {
        let something = open.count > 0
            || open.marked
            || !open.travelling.is_empty()
            || !open.policies.is_empty();
        if !open.replayed && something && position > self.last {
            for policy in std::mem::take(&mut open.policies) {
                open.count += 1;
                put_change(&mut open.changes, &policies::message(&policy));
                policies::set(&policy, self.at(position), ledger);
            }
            let merged = self.merged(&mut open, position, ledger);
            let leaving: Vec<Touched> = open.travelling.iter().map(|t| t.0).collect();
            let stamped = ledger.capture(
                position,
                commit_time,
                &open.touched,
                &leaving,
                merged.as_ref().map_or(&[], |found| &found.merged),
            );
            for ((_, message), leaves) in open.travelling.iter().zip(&stamped.leaves) {
                if *leaves {
                    open.count += 1;
                    put_change(&mut open.changes, message);
                }
            }
            if let Some(mut found) = merged.filter(|found| !found.columns.is_empty()) {
                open.count += 1;
                found.columns.heights(&stamped.heights);
                open.changes = policies::with_columns(&found.columns, &open.changes);
            }
            if let Some(ranks) = &stamped.ranks {
                open.count += 1;
                open.changes = policies::with_ranks(ranks, &open.changes);
            }
            let header = Header {
                position,
                previous: self.last,
                stamp: stamped.stamp,
                commit_time,
                xid: open.xid,
                vector: stamped.vector,
                seen: stamped.seen,
                changes: open.count,
            };
            record::encode_transaction(&mut self.frames, &header, &open.changes);
            self.last = position;
            self.last_commit = commit_time;
            self.transactions += 1;
            self.changes += u64::from(open.count);
            if !stamped.repairs.is_empty() {
                let version = Version::new(stamped.stamp, self.me);
                self.repairs(
                    &stamped.repairs,
                    &open.changes,
                    (version, stamped.ranks.as_deref()),
                    signal,
                );
            }
        }
        for s in open.signals.drain(..) {
            signal(s);
        }
        self.spare = open;
    }

    fn at(&self, lsn: Lsn) -> Position {
        let origin = self.me;
        Position { origin, lsn }
    }

    /// What of a transaction is merged by columns; the rest stays in `touched`.
    fn merged(&self, open: &mut Open, position: Lsn, ledger: &Ledger) -> Option<merged::Found> {
        if !ledger.any_merging() {
            return None;
        }
        let tables = merged::tables(open.touched.iter().map(|t| t.relation), ledger);
        if tables.is_empty() {
            return None;
        }
        if !ledger.knows_before(position) {
            // Was waited for a moment ago. Row events converge whatever they claim.
            tracing::error!(%position, "updates that could be merged are captured as whole rows: the answer to a commit is out");
            return None;
        }
        let by_shape = self.by_shape();
        let changes = Bytes::copy_from_slice(&open.changes);
        match merged::find(changes, |shape| by_shape.get(&shape).copied(), &tables) {
            Ok(found) if ledger.brings_back(position, &found.touched, &found.merged) => {
                tracing::info!(%position, "a row that was deleted here had come back by an older change of another site, and was updated: this transaction's updates are decided as whole rows, not by columns");
                None
            }
            Ok(mut found) => {
                open.touched = std::mem::take(&mut found.touched);
                Some(found)
            }
            Err(error) => {
                // They were read before, when they came.
                tracing::error!(error = %error, "updates that could be merged are captured as whole rows");
                None
            }
        }
    }

    fn by_shape(&self) -> FxHashMap<u32, &Relation> {
        self.relations.values().map(|r| (r.shape, r)).collect()
    }

    /// Where the transaction ends in the local WAL that a message commits.
    pub fn commits(payload: &[u8]) -> Option<Lsn> {
        match payload.first() {
            Some(b'C' | b'c') => match pgoutput::decode(payload, false).ok()? {
                Message::Commit { end_lsn, .. } | Message::StreamCommit { end_lsn, .. } => {
                    Some(end_lsn)
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Finds the changes that `repairs` speak of. Rare, so the changes are read again.
    fn repairs(
        &self,
        repairs: &[Touched],
        changes: &BytesMut,
        (plain, ranks): (Version, Option<&Ranks>),
        signal: &mut dyn FnMut(Signal),
    ) {
        let by_shape: FxHashMap<u32, &Relation> =
            self.relations.values().map(|r| (r.shape, r)).collect();
        let wanted = |t: &Touched| (t.relation, t.key, t.deleted);
        let repairs: FxHashSet<_> = repairs.iter().map(wanted).collect();
        let mut touched = Vec::new();
        for change in record::Changes::new(Bytes::copy_from_slice(changes)).flatten() {
            touched.clear();
            let Ok(message) = pgoutput::decode(&change, false) else {
                continue;
            };
            if touch(
                &message,
                |shape| by_shape.get(&shape).copied(),
                &mut touched,
            )
            .is_err()
            {
                continue;
            }
            for t in &touched {
                if repairs.contains(&wanted(t)) {
                    for relation in by_shape
                        .values()
                        .filter(|r| r.identity.relation == t.relation)
                    {
                        signal(Signal::Repair(Repair {
                            relation: std::sync::Arc::clone(&relation.owned),
                            row: key_cells(&message, t.deleted).filter(|_| t.key.is_some()),
                            version: ranks
                                .map_or(plain, |ranks| ranks.greatest(t.relation, t.key, plain)),
                        }));
                    }
                }
            }
        }
    }
}

/// The subtransaction of a change in a piece of a large transaction.
fn subxid(payload: &[u8], xid: u32) -> u32 {
    payload
        .get(1..5)
        .and_then(|b| b.try_into().ok())
        .map_or(xid, u32::from_be_bytes)
}

fn put_change(out: &mut BytesMut, change: &[u8]) {
    out.put_u32(u32::try_from(change.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(change);
}

/// Appends the change with shape ids for relation oids and without the xid of streamed pieces;
/// false, and nothing is appended, if it is of a table that does not travel.
fn rewrite(
    payload: &[u8],
    message: &Message<'_>,
    streaming: bool,
    relations: &FxHashMap<u32, Relation>,
    out: &mut BytesMut,
) -> Result<bool, Error> {
    let (Some(&tag), Some(body)) = (
        payload.first(),
        payload.get(if streaming { 5 } else { 1 }..),
    ) else {
        return Err(Error::Order("a message too short"));
    };
    let known = |oid| {
        relations
            .get(&oid)
            .ok_or_else(|| Error::Order("a change of a relation that was not described"))
    };
    let Message::Truncate {
        relations: list,
        cascade,
        restart_identity,
        ..
    } = message
    else {
        let relation = known(u32::from_be_bytes(first4(body)?))?;
        if !relation.own {
            out.put_u8(tag);
            out.put_u32(relation.shape);
            out.extend_from_slice(body.get(4..).unwrap_or_default());
        }
        return Ok(!relation.own);
    };
    let mut shapes = Vec::new();
    for oid in list.iter() {
        let relation = known(oid)?;
        if !relation.own {
            shapes.push(relation.shape);
        }
    }
    if shapes.is_empty() {
        return Ok(false);
    }
    out.put_u8(tag);
    out.put_u32(u32::try_from(shapes.len()).unwrap_or(0));
    out.put_u8(u8::from(*cascade) | u8::from(*restart_identity) << 1);
    shapes.into_iter().for_each(|s| out.put_u32(s));
    Ok(true)
}

fn first4(body: &[u8]) -> Result<[u8; 4], Error> {
    body.get(..4)
        .and_then(|b| b.try_into().ok())
        .ok_or_else(|| Error::Order("a message too short"))
}
