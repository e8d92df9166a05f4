//! Large transactions: they came in pieces before their commit, and leave in parts.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use everywrite_conflict::{Lsn, Stamp, Vector, Version};
use rustc_hash::FxHashMap;

use super::{Assembled, Assembler, Error, Relation, Signal, merged, policies, put_change, spool};
use crate::admin::message::WalMessage;
use crate::capture::touched::{touch, travelling};
use crate::journal::record::{self, Header};
use crate::pg::pgoutput::{self, Message};
use crate::settle::Ledger;

/// A part of a large transaction is cut at about this size: small enough to be checked and sent
/// in one piece, large enough that its frame costs nothing.
const PART_BYTES: usize = 1 << 20;

/// A committed large transaction on its way into the journal.
#[derive(Debug)]
pub struct LargeCommit {
    position: Lsn,
    stamp: Stamp,
    vector: Vector,
    pieces: spool::Pieces,
    count: u32,
    /// Its vector is known well enough for its updates to be merged.
    merges: bool,
}

impl Assembler {
    pub(super) fn stream_commit(
        &mut self,
        xid: u32,
        position: Lsn,
        commit_time: Stamp,
        ledger: &Ledger,
        signal: &mut dyn FnMut(Signal),
    ) -> Result<Assembled, Error> {
        let pieces = self.spools.commit(xid).map_err(Error::Spool)?;
        for s in self.large_signals.remove(&xid).unwrap_or_default() {
            signal(s);
        }
        let marked = self.large_marks.remove(&xid).is_some();
        if position <= self.last || (pieces.is_none() && !marked) {
            ledger.captured(position);
            return Ok(Assembled::Done);
        }
        let merges = ledger.any_merging() && ledger.knows_before(position);
        let stamped = ledger.capture(position, commit_time, &[], &[], &[]);
        let header = Header {
            position,
            previous: self.last,
            stamp: stamped.stamp,
            commit_time,
            xid,
            vector: stamped.vector.clone(),
            seen: stamped.seen,
            changes: 0,
        };
        let Some(pieces) = pieces else {
            record::encode_transaction(&mut self.frames, &header, &[]);
            self.last = position;
            ledger.captured(position);
            return Ok(Assembled::Done);
        };
        record::encode_large_begin(&mut self.frames, &header);
        self.last_commit = commit_time;
        Ok(Assembled::Large(Box::new(LargeCommit {
            position,
            stamp: stamped.stamp,
            vector: stamped.vector,
            pieces,
            count: 0,
            merges,
        })))
    }

    /// Adds the next part of a large transaction to the frames; true when it is whole.
    pub fn step(
        &mut self,
        large: &mut LargeCommit,
        ledger: &Ledger,
        signal: &mut dyn FnMut(Signal),
    ) -> Result<bool, Error> {
        let by_shape: FxHashMap<u32, &Relation> =
            self.relations.values().map(|r| (r.shape, r)).collect();
        let mut part = BytesMut::with_capacity(PART_BYTES + (PART_BYTES >> 2));
        let mut touched = Vec::new();
        while part.len() < PART_BYTES {
            let Some(change) = large.pieces.next_change().map_err(Error::Spool)? else {
                break;
            };
            let message = pgoutput::decode(&change, false)?;
            if let Message::Message { content, .. } = &message {
                match WalMessage::decode(content) {
                    Ok(WalMessage::Delete(delete)) => touched.push(travelling(&delete)),
                    Ok(WalMessage::Policy(policy)) => {
                        policies::set(&policy, self.at(large.position), ledger);
                    }
                    _ => {}
                }
            } else {
                touch(
                    &message,
                    |shape| by_shape.get(&shape).copied(),
                    &mut touched,
                )?;
            }
            large.count += 1;
            put_change(&mut part, &change);
        }
        let mut found = merged::Found::default();
        let tables = match large.merges {
            true => merged::tables(touched.iter().map(|t| t.relation), ledger),
            false => HashMap::new(),
        };
        if !tables.is_empty() {
            let changes = Bytes::copy_from_slice(&part);
            found = merged::find(changes, |shape| by_shape.get(&shape).copied(), &tables)?;
            if ledger.brings_back(large.position, &found.touched, &found.merged) {
                found = merged::Found::default();
            } else {
                touched.retain(|t| t.version.is_some());
                touched.append(&mut found.touched);
            }
        }
        let (repairs, ranks, heights) = ledger.capture_more(
            large.position,
            large.stamp,
            &large.vector,
            &touched,
            &found.merged,
        );
        if !found.columns.is_empty() {
            large.count += 1;
            found.columns.heights(&heights);
            part = policies::with_columns(&found.columns, &part);
        }
        if let Some(ranks) = &ranks {
            large.count += 1;
            part = policies::with_ranks(ranks, &part);
        }
        if part.is_empty() {
            record::encode_large_end(&mut self.frames, large.position, large.count);
            self.last = large.position;
            self.transactions += 1;
            self.changes += u64::from(large.count);
            ledger.captured(large.position);
            return Ok(true);
        }
        if !repairs.is_empty() {
            let version = Version::new(large.stamp, self.me);
            self.repairs(&repairs, &part, (version, ranks.as_deref()), signal);
        }
        record::encode_large_part(&mut self.frames, large.position, &part);
        Ok(false)
    }
}
