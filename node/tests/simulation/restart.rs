//! What a daemon that starts makes of its server and its journals: what `runtime/node.rs` and
//! `replay/rebuild.rs` do.

use std::sync::Arc;

use everywrite_conflict::{Entry, Lsn, Position};
use everywrite_node::journal::Chain;
use everywrite_node::replay::SecondLooks;
use everywrite_node::settle::Ledger;

use crate::data::{self, Op, Transaction};
use crate::link::Links;
use crate::rules::Rule;
use crate::site::{Daemon, Look, Site, end_of, node, site_of};

/// So many keys stay in memory: more are let go.
const KEYS_IN_MEMORY: u64 = 2;
const KEY_BYTES: u64 = 112;

/// What a look after a restart needs.
type Recent = (u8, Option<data::Key>);

impl Site {
    /// The server dies, and starts again: what was not flushed is lost, and who has a session will notice.
    pub(crate) fn server_crashes(&mut self) {
        self.paths.servers += 1;
        tell!("the server of site {} crashes", site_of(self.me));
        self.server.crash();
        self.daemon.noticed = false;
        self.daemon.capture_lost = true;
        for stream in self.daemon.streams.values_mut() {
            stream.lost = stream.connected;
            stream.dead = true;
        }
    }

    /// The daemon dies and starts again.
    pub(crate) fn crash(&mut self) {
        self.paths.crashes += 1;
        tell!("site {} crashes", site_of(self.me));
        self.count_files();
        self.start();
    }

    fn ledger(&self) -> Ledger {
        let ledger = Ledger::new(self.me);
        match &self.folder {
            None => ledger,
            Some(folder) => ledger
                .spilling(&folder.path().join("spilled"), KEYS_IN_MEMORY * KEY_BYTES)
                .expect("a folder for what leaves memory"),
        }
    }

    /// The daemon starts.
    pub(crate) fn start(&mut self) {
        self.daemon = Daemon::new(self.me, self.sites, self.ledger());
        self.links = Links::new(self.me, self.sites);
        let applied = self.progress();
        let here = self.server.now.insert;
        let last = self.journal.last().cloned();
        let own = last.as_ref().map(|t| &t.header);
        let own = own.map(|h| (h.position, h.stamp, &h.vector, &h.seen));
        self.daemon.ledger.restore(own, &applied);
        self.daemon.ledger.restored_to(here);
        let end = end_of(&self.journal);
        self.daemon.next_record = self.server.wal.partition_point(|r| r.end <= end);
        for setting in self.server.now.policies.clone().into_values() {
            let at = Position {
                origin: self.me,
                lsn: end,
            };
            self.daemon.set_policy(&setting, at);
        }
        let stamp = self.released_stamp;
        self.daemon.ledger.rebuild(stamp, &Arc::default(), []);
        let mut looks = SecondLooks::default();
        // The own one first: the others are compared with what is recent in it.
        let me = site_of(self.me);
        let others = (0..self.sites).filter(|x| *x != me);
        for origin in std::iter::once(me).chain(others) {
            let own = origin == me;
            let journal = self.durably(origin).to_vec();
            let last = journal.last().map(|t| t.header.clone());
            self.chains[origin] = Chain::behind(last);
            let end = end_of(&journal);
            let up_to = match own {
                true => end,
                false => applied.get(node(origin)).min(end),
            };
            let cut = self.released.get(node(origin));
            let left = journal.iter();
            let left = left.filter(|t| t.position() > cut && t.position() <= up_to);
            for transaction in left {
                if !own {
                    let seen = &transaction.header.seen;
                    self.daemon.stability.replayed(transaction.origin, seen);
                }
                self.remember(transaction, here, &mut looks);
            }
            // Also when everything of it is released: stamps only go up.
            if let Some(last) = journal.last().filter(|t| t.position() <= up_to) {
                let header = &last.header;
                self.daemon
                    .ledger
                    .rebuild(header.stamp, &Arc::default(), []);
                self.daemon.stability.replayed(last.origin, &header.seen);
            }
        }
        for (key, version) in self.server.now.outbox.values() {
            let mut touched = Vec::new();
            data::touched(&Op::Lost(*key, *version), &mut touched);
            let entry = Entry {
                version: *version,
                source: None,
                deleted: true,
                local_lsn: here,
            };
            let touched = touched.into_iter().map(|(t, _)| (t, entry));
            let ledger = &self.daemon.ledger;
            ledger.is_to_leave(data::hash(*key), *version);
            ledger.rebuild(version.stamp, &Arc::default(), touched);
        }
        let left_out = self.server.now.left_out.iter();
        let left_out = left_out.filter(|left| !applied.covers(left.newer));
        let left_out: Vec<_> = left_out.copied().collect();
        self.daemon.ledger.has_left_out(&left_out);
        for ((table, key), version) in looks.asked(&self.daemon.ledger) {
            self.look_again(Look {
                table,
                key,
                version,
            });
        }
        // The index must know every local write that was committed before the first replayed one.
        self.set_barrier();
    }

    fn remember(
        &mut self,
        transaction: &Transaction,
        local_lsn: Lsn,
        looks: &mut SecondLooks<Recent>,
    ) {
        let (header, plain) = (&transaction.header, transaction.plain());
        let own = transaction.origin == self.me;
        let source = Position {
            origin: transaction.origin,
            lsn: header.position,
        };
        let looked = if self.rules.has(Rule::Looked) {
            self.looked
        } else {
            Lsn::ZERO
        };
        let recent = own && header.position > looked;
        let mut ranks = transaction.ranks.clone();
        let (mut touched, mut versions) = (Vec::new(), Vec::new());
        for op in &transaction.ops {
            if let Op::Policy(setting) = op {
                self.daemon.set_policy(setting, source);
            }
            let first = touched.len();
            data::touched(op, &mut touched);
            for (t, key) in &touched[first..] {
                let version = match (t.version, t.key) {
                    (Some(version), _) => version,
                    (None, Some(hash)) => ranks.version(t.relation, hash, plain),
                    (None, None) => ranks.pass_truncate(t.relation, plain),
                };
                versions.push(version);
                if recent {
                    let look = (data::number(t.relation), *key);
                    looks.recent(t, version, &header.seen, look);
                } else if !own {
                    looks.met(t, version, source);
                }
            }
        }
        let entries = touched.into_iter().zip(versions).map(|((t, _), version)| {
            let entry = Entry {
                version,
                source: Some(source),
                deleted: t.deleted,
                local_lsn,
            };
            (t, entry)
        });
        let ledger = &self.daemon.ledger;
        ledger.rebuild(header.stamp, &transaction.vector, entries);
        if ledger.is_full() {
            // All of it is committed.
            ledger.spill(&[None], Lsn::MAX, self.now());
            ledger.merge_files(|| false);
        }
    }
}
