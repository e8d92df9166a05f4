//! Deciding with care, as `replay/careful.rs` and `replay/columns.rs` do it: lock, let capture catch up, ask the
//! ledger, write.

use everywrite_conflict::policy::columns::{Merge, Take};
use everywrite_conflict::{Entry, Lsn, Operation, decide};

use super::stream::{Group, Step};
use super::{Site, What};
use crate::data::{Changed, Key, Op, RULES, Rule, TABLE, Transaction, Update, hash};
use crate::server::{Session, Write};

impl Site {
    /// Locks what the group is about. A row that is not there, or that a local transaction wrote behind the
    /// horizon, is decided behind a barrier.
    pub(super) fn lock(&mut self, session: Session, group: &mut Group) -> bool {
        let truncates = matches!(group.transaction.op, Op::Truncate);
        let keys = group.keys();
        let locked = match truncates {
            true => self.server.lock_table(session),
            false => self.server.lock(session, &keys),
        };
        if !locked {
            return false;
        }
        let stored = |key: &Key| self.server.now.rows.get(key);
        let recent = |key: &Key| {
            let local = stored(key).map(|s| s.local);
            local.is_none_or(|l| l > Some(self.barriers.horizon))
        };
        let waits = truncates || keys.iter().any(recent);
        let found = |key: &Key| {
            let stored = stored(key);
            (stored.is_some(), stored.is_some_and(|s| s.local.is_some()))
        };
        group.found = keys.iter().map(found).collect();
        // One that is set from now on.
        group.barrier = match waits && self.has(Rule::Barrier) {
            true => self.barriers.last + 1,
            false => 0,
        };
        group.step = Step::Locked;
        true
    }

    pub(super) fn decide(&mut self, group: &mut Group) {
        let t = group.transaction.clone();
        group.durable = Lsn::ZERO;
        group.writes = match &t.op {
            Op::Policy(_) => Vec::new(),
            Op::Truncate => self.decide_truncate(group),
            Op::Events(_) => self.decide_events(&t, group),
            Op::Update(key, update) => {
                let present = group.found.iter().any(|f| f.0);
                self.decide_update(&t, *key, update, present, group)
            }
        };
    }

    fn decide_events(&mut self, t: &Transaction, group: &mut Group) -> Vec<Write> {
        let keys = t.events().iter().map(|e| hash(e.key));
        let looked = self.ledger.look(TABLE, keys);
        let mut writes = Vec::new();
        for (n, event) in t.events().iter().enumerate() {
            let (present, own) = group.found[n];
            let (now, beneath) = looked[n];
            let prior = group.met[n];
            let later = |e: &Entry| {
                e.source
                    .is_some_and(|s| s.origin == t.at.origin && s.lsn > t.at.lsn)
            };
            let before = prior.filter(|p| p.version != event.version);
            let before = beneath.into_iter().chain(before).max_by_key(|e| e.version);
            let other = now.filter(|e| !later(e) && e.version != event.version);
            let stored = match now {
                Some(_) if other.is_none() => before,
                Some(entry) => Some(entry),
                None => prior,
            };
            let beneath = beneath.filter(|e| own && !e.deleted);
            let sources = stored.iter().chain(&beneath).filter_map(|e| e.source);
            for source in sources.filter(|s| s.origin == self.me) {
                group.durable = group.durable.max(source.lsn);
            }
            let operation = match (event.row, event.inserts) {
                (None, _) => Operation::Delete,
                (Some(_), true) => Operation::Insert,
                (Some(_), false) => Operation::Update,
            };
            let mut decision = decide(
                operation,
                event.version,
                |p| t.has_seen(p),
                |p| t.claims(p),
                stored.as_ref(),
                present,
            );
            // The index knows of the other one what it claims to have seen. That goes before ranks.
            decision.apply &= other.is_none_or(|e| !e.version.is_ranked());
            group.binds |= decision.conflict.is_some() || beneath.is_some();
            if !decision.apply {
                group.kept.insert((hash(event.key), event.version));
                continue;
            }
            match event.row {
                None if present => writes.push(Write::Delete(event.key)),
                None => {}
                Some(row) if present => writes.push(Write::Update(event.key, row)),
                Some(row) => writes.push(Write::Insert(event.key, row)),
            }
        }
        writes
    }

    fn decide_update(
        &mut self,
        t: &Transaction,
        key: Key,
        update: &Update,
        present: bool,
        group: &mut Group,
    ) -> Vec<Write> {
        let Update {
            rules,
            image,
            changes,
        } = update;
        let columns = self.columns(*rules, changes);
        let asked = everywrite_conflict::Update {
            relation: TABLE,
            key: hash(key),
            version: t.version,
            source: t.at,
            columns: &columns,
            present,
        };
        let merging = self.ledger.merge(&asked, |p| t.claims(p));
        let merging = merging.expect("no row is lost to another's unique value");
        let adds = |merge: &Merge| *merge == Merge::Delta;
        let others = || merging.unseen.iter();
        let added = others().all(|(_, m, _)| adds(m)) && columns.iter().all(|c| adds(&c.merge));
        let met = !columns.is_empty() && others().count() > 0 && !added;
        group.binds |= !merging.belongs || !present || met;
        let takes = match (merging.belongs, self.has(Rule::Belongs)) {
            (true, _) => merging.takes,
            (false, true) => return Vec::new(),
            (false, false) => vec![Take::Value; changes.len()],
        };
        let stored = self.server.now.rows.get(&key).filter(|_| present);
        let Some(mut row) = stored.map(|s| s.row) else {
            // Its event lost to one that was on its way, and that a crash has taken back: that comes again.
            self.told.add(What::CameBack, 1);
            return vec![Write::Insert(key, *image)];
        };
        let (difference, touched) = (self.has(Rule::Difference), self.has(Rule::Touched));
        for (&Changed { part, by, .. }, take) in changes.iter().zip(takes) {
            debug_assert!(take != Take::Difference || RULES[*rules][part.column] == Merge::Delta);
            match take {
                Take::Difference if difference => row[part.column] += by,
                Take::Value if !touched => row[part.column] = image[part.column],
                Take::Value | Take::Difference => part.copy(&mut row, image),
                Take::Nothing => {}
            }
        }
        if !self.has(Rule::Changed) {
            row = *image;
        }
        vec![Write::Update(key, row)]
    }
}
