//! Local WAL → transactions, as `capture/service.rs` and `capture/assembler.rs` do it.

use everywrite_conflict::policy::Rank;
use everywrite_conflict::policy::columns::Merge;
use everywrite_conflict::{ColumnChange, Lsn, Position, Vector, Version};
use everywrite_node::settle::{Merged, Stamped, Touched};

use super::looks::Look;
use super::{Barrier, Local, Site, What, Written};
use crate::data::{
    Changed, Event, Key, Op, Part, RULES, Rnd, Row, Rule, TABLE, Transaction, Update, hash,
};

impl Site {
    /// The next step of capture; false: there is none, or it has to wait.
    pub(crate) fn capture(&mut self, rnd: &mut Rnd) -> bool {
        if !self.connected {
            self.asks_for_progress();
            self.ledger.server_started();
            self.connected = true;
            return true;
        }
        let Some(next) = self.written.front() else {
            self.tell();
            return false;
        };
        if self.ledger.any_merging() && self.has(Rule::Exact) && !self.ledger.knows_before(next.at)
        {
            self.told.add(What::CommitWaitedFor, 1);
            return false;
        }
        let Some(local) = self.written.pop_front() else {
            return false;
        };
        self.untold = Some(local.at);
        match local.what {
            Written::Barrier(token) => self.ledger.barrier(token),
            _ => self.stamp(local),
        }
        if rnd.below(2) == 0 || self.written.is_empty() {
            self.tell();
        }
        true
    }

    /// Says how far capture has come: not for each transaction.
    pub(super) fn tell(&mut self) {
        if let Some(lsn) = self.untold.take() {
            self.ledger.captured(lsn);
        }
    }

    /// The server says that there is nothing for capture up to here.
    pub(crate) fn keepalive(&mut self) {
        if self.connected {
            let end = self.server.flushed.wal;
            let next = self.written.front().map(|l| Lsn(l.at.0 - 1));
            self.ledger.captured(next.map_or(end, |next| next.min(end)));
        }
    }

    /// Asks the server how far it is, and notices what a crash of it has taken back.
    pub(super) fn asks_for_progress(&mut self) -> Vector {
        let asked = self.ledger.asks();
        self.server.flush();
        let progress = self.server.now.applied.clone();
        assert!(self.ledger.reconcile(&asked, &progress), "asked at once");
        progress
    }

    /// What is captured is on disk.
    pub(crate) fn sync(&mut self) {
        self.durable = self.journal.len();
        self.stamped.clear();
    }

    /// Sets a barrier, or sees whether the last one is passed.
    pub(crate) fn barrier(&mut self) {
        let met = self.ledger.watch_captured().borrow().barrier;
        if let Some(barrier) = self.barriers.waiting.take_if(|b| b.token <= met) {
            self.barriers.passed = barrier.token;
            self.barriers.horizon = barrier.here;
            self.ledger.flushed_is(&barrier.progress, barrier.here);
        } else if self.barriers.waiting.is_none() {
            let asked = self.ledger.asks();
            let (progress, here) = (self.server.now.applied.clone(), self.server.now.wal);
            self.barriers.last += 1;
            let token = self.barriers.last;
            self.commit(everywrite_conflict::Stamp::MIN, Written::Barrier(token));
            // An answer that is too old: the streams ask for themselves.
            let _ = self.ledger.reconcile(&asked, &progress);
            self.ledger.reaches(here);
            self.barriers.waiting = Some(Barrier {
                token,
                progress,
                here,
            });
        }
    }

    fn stamp(&mut self, local: Local) {
        let (origin, lsn) = (self.me, local.at);
        let at = Position { origin, lsn };
        if let Written::Policy(number, policy) = &local.what {
            let setting = self.setting(*number, policy.clone());
            self.ledger.set_policy(setting, self.since(at));
        }
        let merged = match &local.what {
            Written::Update(key, old, new) => self.update(lsn, *key, old, new),
            _ => None,
        };
        let touched: Vec<Touched> = match &local.what {
            Written::Event(key, row) => vec![touched(Some(*key), row.is_none())],
            Written::Move(from, to, _) => {
                vec![touched(Some(*from), true), touched(Some(*to), false)]
            }
            Written::Update(key, ..) if merged.is_none() => vec![touched(Some(*key), false)],
            Written::Truncate => vec![touched(None, true)],
            Written::Update(..) | Written::Policy(..) | Written::Barrier(_) => Vec::new(),
        };
        let told = merged.as_ref().map(|(merged, _)| merged);
        let stamped = self.ledger.capture(
            lsn,
            local.time,
            &touched,
            &[],
            told.map_or(&[], std::slice::from_ref),
        );
        let plain = Version::new(stamped.stamp, origin);
        let (version, op) = op(&local.what, plain, &stamped, merged, self);
        if matches!(op, Op::Update(..)) {
            self.told.add(What::Merged, 1);
        }
        for t in &stamped.repairs {
            let ranks = stamped.ranks.as_deref();
            let version = ranks.map_or(plain, |r| r.greatest(TABLE, t.key, plain));
            let key = t.key.map(|k| k.0 as Key);
            self.look_again(Look { key, version });
        }
        self.journal.push(Transaction {
            at,
            version,
            vector: stamped.vector,
            seen: stamped.seen,
            op,
        });
        self.stamped.push_back(local);
    }

    /// Behind which place a policy begins.
    pub(super) fn since(&self, at: Position) -> Option<Vector> {
        let since = [(at.origin, at.lsn)].into_iter().collect();
        self.has(Rule::Late).then_some(since)
    }

    /// An update as one of a merged row, if the table is merged by now.
    fn update(&self, at: Lsn, key: Key, old: &Row, new: &Row) -> Option<(Merged, Update)> {
        let merges = self.ledger.merges(TABLE)?;
        let is = |rule: &[Merge]| {
            (0..)
                .zip(rule)
                .all(|(n, m): (usize, _)| merges.of(&n.to_string()) == *m)
        };
        let rules = RULES.iter().position(|rule| is(rule))?;
        let changed = Part::of(rules).filter(|part| part.value(old) != part.value(new));
        let changes: Vec<Changed> = changed
            .map(|part| Changed {
                part,
                by: part.value(new) - part.value(old),
                height: RULES[rules][part.column].height(part.value(new)),
            })
            .collect();
        let merged = Merged {
            relation: TABLE,
            key: hash(key),
            epoch: merges.epoch,
            columns: self.columns(rules, &changes),
        };
        if self.has(Rule::Back)
            && self
                .ledger
                .brings_back(at, &[], std::slice::from_ref(&merged))
        {
            return None;
        }
        let image = *new;
        let update = Update {
            rules,
            image,
            changes,
        };
        Some((merged, update))
    }

    /// What the index is told of an update.
    pub(super) fn columns(&self, rules: usize, changes: &[Changed]) -> Vec<ColumnChange> {
        let column = |c: &Changed| ColumnChange {
            column: self.name(c.part),
            merge: RULES[rules][c.part.column],
            height: c.height,
        };
        changes.iter().map(column).collect()
    }
}

fn touched(key: Option<Key>, deleted: bool) -> Touched {
    Touched {
        relation: TABLE,
        key: key.map(hash),
        deleted,
        version: None,
    }
}

/// What the journal says of a transaction: its version and what it does.
fn op(
    written: &Written,
    plain: Version,
    stamped: &Stamped,
    merged: Option<(Merged, Update)>,
    site: &Site,
) -> (Version, Op) {
    let ranks = stamped.ranks.as_deref();
    let version = |key| ranks.map_or(plain, |r| r.greatest(TABLE, key, plain));
    let event = |key: Key, row, inserts| Event {
        key,
        row,
        inserts,
        version: version(Some(hash(key))),
    };
    match written {
        Written::Event(key, row) => (plain, Op::Events(vec![event(*key, *row, row.is_some())])),
        Written::Move(from, to, row) => {
            let events = vec![event(*from, None, false), event(*to, Some(*row), true)];
            (plain, Op::Events(events))
        }
        Written::Update(key, _, new) => match merged {
            None => (plain, Op::Events(vec![event(*key, Some(*new), false)])),
            Some((merged, mut update)) => {
                for change in &mut update.changes {
                    let column = site.name(change.part);
                    let known = stamped.heights.iter().find(|h| h.column == column);
                    change.height = known.map_or(change.height, |h| h.height);
                }
                let (epoch, height) = (merged.epoch, 0);
                let version = plain.ranked(Rank { epoch, height });
                (version, Op::Update(*key, update))
            }
        },
        Written::Truncate => (version(None), Op::Truncate),
        Written::Policy(number, policy) => {
            (plain, Op::Policy(site.setting(*number, policy.clone())))
        }
        Written::Barrier(_) => (plain, Op::Events(Vec::new())),
    }
}
