//! A load's transactions, as a walsender sends them.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use everywrite_conflict::{Lsn, Stamp, Vector};
use everywrite_node::journal::record::Header;
use everywrite_node::pg::pgoutput::{Message, decode};

/// One transaction.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// As replay would find it in the journal.
    pub(crate) header: Header,
    /// Its changes, as they came.
    pub(crate) changes: Vec<Bytes>,
}

/// All of a load.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// Descriptions of the tables.
    pub(crate) relations: Vec<Bytes>,
    pub(crate) transactions: Vec<Transaction>,
}

impl Backlog {
    /// Takes the next message of the stream.
    pub(crate) fn push(&mut self, payload: Bytes) -> Result<()> {
        match payload.first() {
            Some(b'R') => self.relations.push(payload),
            Some(b'I' | b'U' | b'D') => {
                let last = self.transactions.last_mut();
                last.context("a change outside of a transaction")?
                    .changes
                    .push(payload);
            }
            Some(b'B' | b'C') => {
                match decode(&payload, false).context("decode what the walsender sent")? {
                    Message::Begin {
                        xid, commit_time, ..
                    } => self.begin(xid, commit_time),
                    Message::Commit { end_lsn, .. } => {
                        let last = self.transactions.last_mut();
                        last.context("a commit of nothing")?.header.position = end_lsn;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, xid: u32, commit_time: Stamp) {
        let before = self.transactions.last();
        let header = Header {
            position: Lsn::ZERO,
            previous: before.map_or(Lsn::ZERO, |before| before.header.position),
            stamp: commit_time,
            commit_time,
            xid,
            vector: Vector::default(),
            seen: Vector::default(),
            changes: 0,
        };
        let changes = Vec::new();
        self.transactions.push(Transaction { header, changes });
    }
}

/// Cuts transactions into groups of at least so many changes; the last one may have fewer.
pub(crate) fn groups(transactions: &[Transaction], changes: usize) -> Vec<&[Transaction]> {
    let mut groups = Vec::new();
    let (mut start, mut count) = (0, 0);
    for (at, transaction) in transactions.iter().enumerate() {
        count += transaction.changes.len();
        if count >= changes || at + 1 == transactions.len() {
            groups.extend(transactions.get(start..=at));
            (start, count) = (at + 1, 0);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_end_with_whole_transactions() {
        let mut backlog = Backlog::default();
        for xid in 0..7 {
            backlog.begin(xid, Stamp(0));
            for _ in 0..10 {
                backlog.push(Bytes::from_static(b"I")).unwrap();
            }
        }
        let sizes = |changes| -> Vec<usize> {
            let groups = groups(&backlog.transactions, changes);
            groups.iter().map(|group| group.len()).collect()
        };
        assert_eq!(sizes(1), [1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(sizes(25), [3, 3, 1]);
        assert_eq!(sizes(1000), [7]);
        assert!(groups(&[], 10).is_empty());
    }
}
