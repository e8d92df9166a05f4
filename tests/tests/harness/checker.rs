//! The checker on histories made up for it: it accepts what is right and finds each kind of wrong.

use std::collections::BTreeSet;
use std::sync::Arc;

use everywrite_conflict::{Lsn, NodeId, Stamp, Vector, Version};
use everywrite_tests::checker::{Account, Listed, Row, Rows, account};
use everywrite_tests::history::{Effect, History, Outcome, Stamped, Transaction, Write};
use everywrite_tests::workload::Table;

/// A committed transaction at `site` with this stamp and position, which has seen nothing of others.
fn at(site: u16, when: u32, writes: Vec<Write>) -> Transaction {
    Transaction {
        site: usize::from(site),
        xid: 1,
        outcome: Outcome::Acknowledged,
        stamped: Some(Stamped {
            version: Version::new(Stamp(i64::from(when)), NodeId(site + 1)),
            position: Lsn(u64::from(when)),
            vector: Vector::new(),
            ranks: Arc::default(),
            columns: Arc::default(),
        }),
        writes,
        merged: Vec::new(),
        passing: Vec::new(),
    }
}

/// The same, after it has seen everything of another site up to a place.
fn knowing(mut transaction: Transaction, site: u16, place: u64) -> Transaction {
    let stamped = transaction.stamped.as_mut().unwrap();
    stamped.vector.set(NodeId(site + 1), Lsn(place));
    transaction
}

/// The table `t`, with a second unique key if there are codes.
fn judge(history: &[Transaction], rows: &Rows, codes: u64, lost: &BTreeSet<String>) -> Account {
    let table = Table {
        codes,
        ..Table::plain("t", 9)
    };
    let lost = lost.clone();
    let listed = Listed {
        lost,
        ..Listed::default()
    };
    account(history, rows, &[table], &listed)
}

fn effect(tag: &str) -> Effect {
    Effect::Row {
        tag: tag.to_owned(),
        body_tag: None,
        code: None,
    }
}

fn write(key: i64, saw: Option<&str>, effect: Effect) -> Write {
    Write {
        table: "t",
        key: Some(key),
        saw: saw.map(str::to_owned),
        effect,
    }
}

fn put(key: i64, tag: &str) -> Write {
    write(key, None, effect(tag))
}

fn rows(rows: &[(i64, &str)]) -> Rows {
    rows.iter()
        .map(|&(key, tag)| {
            let row = Row {
                tag: tag.to_owned(),
                body_tag: None,
                code: None,
                of_one_piece: true,
            };
            (("t".to_owned(), key), row)
        })
        .collect()
}

fn violations(history: &[Transaction], end: &[(i64, &str)], lost: &[&str]) -> Vec<String> {
    let lost: BTreeSet<String> = lost.iter().map(|&tag| tag.to_owned()).collect();
    judge(history, &rows(end), 0, &lost).violations
}

fn assert_right(history: &[Transaction], end: &[(i64, &str)], lost: &[&str]) {
    let found = violations(history, end, lost);
    assert!(found.is_empty(), "{found:?}");
}

fn assert_wrong(history: &[Transaction], end: &[(i64, &str)], lost: &[&str], part: &str) {
    let found = violations(history, end, lost);
    assert!(found.len() == 1 && found[0].contains(part), "{found:?}");
}

#[test]
fn the_greatest_version_stays() {
    let history = [at(0, 1, vec![put(1, "a")]), at(1, 2, vec![put(1, "b")])];
    assert_right(&history, &[(1, "b")], &["a"]);
    assert_wrong(&history, &[(1, "a")], &["b"], "newer write was lost");
    assert_wrong(&history, &[(1, "b")], &["a", "b"], "listed as lost");
    assert_wrong(&history, &[], &["a", "b"], "nobody deleted it");
    let equal_stamps = [at(1, 1, vec![put(1, "b")]), at(0, 1, vec![put(1, "a")])];
    assert_right(&equal_stamps, &[(1, "b")], &["a"]);
    assert_wrong(&equal_stamps, &[(1, "a")], &["b"], "newer write was lost");
}

#[test]
fn a_row_that_lost_and_is_listed_nowhere_is_hidden() {
    let history = [at(0, 1, vec![put(1, "a")]), at(1, 2, vec![put(1, "b")])];
    assert_wrong(&history, &[(1, "b")], &[], "listed nowhere as lost");
}

#[test]
fn what_was_replaced_on_sight_is_older() {
    let seen = || write(1, Some("a"), effect("b"));
    let history = [
        at(0, 5, vec![put(1, "a")]),
        knowing(at(1, 6, vec![seen()]), 0, 5),
    ];
    assert_right(&history, &[(1, "b")], &[]);
    let unnamed = [at(0, 5, vec![put(1, "a")]), at(1, 6, vec![seen()])];
    assert_wrong(&unnamed, &[(1, "b")], &[], "not in its vector");
    let upside_down = [
        at(0, 5, vec![put(1, "a")]),
        knowing(at(1, 4, vec![seen()]), 0, 5),
    ];
    assert_wrong(&upside_down, &[(1, "a")], &["b"], "the greater version");
}

#[test]
fn deletes_and_truncates_account_for_what_is_gone() {
    let delete = write(1, Some("a"), Effect::Gone);
    let deleted = [
        at(0, 1, vec![put(1, "a")]),
        knowing(at(1, 2, vec![delete]), 0, 1),
    ];
    assert_right(&deleted, &[], &[]);
    assert_wrong(&deleted, &[(1, "a")], &[], "newer write was lost");

    let truncate = || Write {
        key: None,
        ..write(0, None, Effect::Gone)
    };
    let truncated = [
        at(0, 1, vec![put(1, "a")]),
        knowing(at(1, 2, vec![truncate()]), 0, 1),
    ];
    assert_right(&truncated, &[], &[]);
    assert_wrong(&truncated, &[(1, "a")], &[], "newer write was lost");
    let unseen = [at(0, 1, vec![put(1, "a")]), at(1, 2, vec![truncate()])];
    assert_right(&unseen, &[], &["a"]);
    assert_wrong(&unseen, &[], &[], "listed nowhere as lost");
    let survived = [at(0, 3, vec![put(1, "a")]), at(1, 2, vec![truncate()])];
    assert_right(&survived, &[(1, "a")], &[]);
    assert_wrong(&survived, &[], &["a"], "nobody deleted it");
    // What it had seen is gone knowingly, also where its own transaction writes the key anew.
    let anew = || at(1, 2, vec![truncate(), put(1, "b")]);
    let over = [at(0, 1, vec![put(1, "a")]), knowing(anew(), 0, 1)];
    assert_right(&over, &[(1, "b")], &[]);
    let over_unseen = [at(0, 1, vec![put(1, "a")]), anew()];
    assert_wrong(&over_unseen, &[(1, "b")], &[], "listed nowhere");
    let refilled = [at(0, 1, vec![truncate(), put(1, "a")])];
    assert_right(&refilled, &[(1, "a")], &[]);
}

#[test]
fn a_row_that_lost_its_unique_value_is_gone_and_listed() {
    let history = [at(0, 1, vec![put(1, "a")])];
    let lost = BTreeSet::from(["a".to_owned()]);
    assert!(judge(&history, &rows(&[]), 1, &lost).violations.is_empty());
    let unlisted = judge(&history, &rows(&[]), 1, &BTreeSet::new()).violations;
    assert!(unlisted[0].contains("nobody deleted it"), "{unlisted:?}");
    assert_wrong(&history, &[], &["a"], "nobody deleted it");
}

#[test]
fn a_transaction_without_a_version_shows() {
    let mut history = [at(0, 1, vec![put(1, "a")])];
    history[0].stamped = None;
    let found = violations(&history, &[(1, "a")], &[]);
    assert!(found[0].contains("no version"), "{found:?}");
}

#[test]
fn rows_from_nowhere_and_rows_of_two_writes_show() {
    assert_wrong(&[], &[(1, "x")], &[], "no committed transaction");
    let mut end = rows(&[(1, "a")]);
    for row in end.values_mut() {
        row.body_tag = Some("b".to_owned());
    }
    let history = [at(0, 1, vec![put(1, "a")])];
    let found = judge(&history, &end, 0, &BTreeSet::new()).violations;
    assert!(found[0].contains("not the row that was written"));
}

#[test]
fn what_is_parked_is_on_the_list_and_not_only_in_the_history() {
    let parks = Table {
        policies: &[("park", "{}")],
        ..Table::plain("t", 9)
    };
    let history = [at(0, 1, vec![put(1, "a")]), at(1, 2, vec![put(1, "b")])];
    let tags = BTreeSet::from(["a".to_owned()]);
    let judge = |listed| account(&history, &rows(&[(1, "b")]), &[parks], &listed).violations;
    let parked = Listed {
        lost: tags.clone(),
        parked: tags.clone(),
    };
    assert!(judge(parked).is_empty());
    let only_lost = Listed {
        lost: tags,
        ..Listed::default()
    };
    let found = judge(only_lost);
    assert!(
        found.len() == 1 && found[0].contains("listed nowhere"),
        "{found:?}"
    );
}

#[test]
fn counts_versions() {
    let history = [
        at(0, 1, vec![put(1, "a"), put(2, "b")]),
        at(1, 2, vec![put(1, "c")]),
    ];
    let end = rows(&[(1, "c"), (2, "b")]);
    let account = judge(&history, &end, 0, &BTreeSet::new());
    assert_eq!((account.present, account.superseded), (2, 1));
}

/// A server that was killed gives the ids of transactions that it lost a second time.
#[test]
fn a_transaction_whose_id_was_given_again_is_lost() {
    let history = History::default();
    let lost = Transaction {
        outcome: Outcome::Unknown,
        ..at(0, 1, vec![put(1, "lost")])
    };
    history.record(lost);
    history.record(at(0, 2, vec![put(2, "committed")]));
    history.record(at(1, 3, vec![put(3, "elsewhere")]));
    let unknown = Transaction {
        outcome: Outcome::Unknown,
        ..at(2, 4, vec![put(4, "unknown")])
    };
    history.record(unknown);
    let outcomes: Vec<Outcome> = history.transactions().iter().map(|t| t.outcome).collect();
    let (acknowledged, unknown) = (Outcome::Acknowledged, Outcome::Unknown);
    assert_eq!(
        outcomes,
        [Outcome::RolledBack, acknowledged, acknowledged, unknown]
    );
}
