//! The checker on histories made up for it: it accepts what is right and finds each kind of wrong.

use std::collections::BTreeSet;

use everywrite_tests::checker::{Row, Rows, TOLERANCE_US, account};
use everywrite_tests::history::{Effect, Outcome, Transaction, Write};

/// A committed transaction at `site`, so many tolerances after the beginning.
fn at(site: usize, when: i64, writes: Vec<Write>) -> Transaction {
    Transaction {
        site,
        xid: 1,
        outcome: Outcome::Acknowledged,
        committed_at_us: Some(when * (TOLERANCE_US + 1)),
        writes,
    }
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
    account(history, &rows(end), &lost).violations
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
fn the_last_write_stays() {
    let history = [at(0, 1, vec![put(1, "a")]), at(1, 2, vec![put(1, "b")])];
    assert_right(&history, &[(1, "b")], &["a"]);
    assert_wrong(&history, &[(1, "a")], &[], "newer write was lost");
    assert_wrong(&history, &[], &[], "nobody deleted it");
}

#[test]
fn writes_too_close_to_order_may_end_either_way() {
    let close = |site, tag, us| Transaction {
        committed_at_us: Some(us),
        ..at(site, 0, vec![put(1, tag)])
    };
    let history = [close(0, "a", 1), close(1, "b", 2)];
    assert_right(&history, &[(1, "a")], &["b"]);
    assert_right(&history, &[(1, "b")], &["a"]);
    assert_wrong(&history, &[(1, "b")], &["b"], "listed as lost");
    let same_site = [close(0, "a", 1), close(0, "b", 2)];
    assert_wrong(&same_site, &[(1, "a")], &[], "newer write was lost");
}

#[test]
fn what_was_replaced_on_sight_is_older_whatever_the_clock_says() {
    let seen = write(1, Some("a"), effect("b"));
    let history = [at(0, 5, vec![put(1, "a")]), at(1, 5, vec![seen])];
    assert_right(&history, &[(1, "b")], &[]);
    assert_wrong(&history, &[(1, "a")], &[], "newer write was lost");
}

#[test]
fn deletes_and_truncates_account_for_what_is_gone() {
    let delete = write(1, Some("a"), Effect::Gone);
    let deleted = [at(0, 1, vec![put(1, "a")]), at(1, 2, vec![delete])];
    assert_right(&deleted, &[], &[]);
    assert_wrong(&deleted, &[(1, "a")], &[], "newer write was lost");

    let truncate = || Write {
        key: None,
        ..write(0, None, Effect::Gone)
    };
    let truncated = [at(0, 1, vec![put(1, "a")]), at(1, 2, vec![truncate()])];
    assert_right(&truncated, &[], &[]);
    assert_wrong(&truncated, &[(1, "a")], &[], "newer write was lost");
    let survived = [at(0, 3, vec![put(1, "a")]), at(1, 2, vec![truncate()])];
    assert_right(&survived, &[(1, "a")], &[]);
    assert_wrong(&survived, &[], &[], "nobody deleted it");
    let refilled = [at(0, 1, vec![truncate(), put(1, "a")])];
    assert_right(&refilled, &[(1, "a")], &[]);
}

#[test]
fn a_row_that_lost_its_unique_value_is_gone_and_listed() {
    let history = [at(0, 1, vec![put(1, "a")])];
    assert_right(&history, &[], &["a"]);
    assert_wrong(&history, &[], &[], "nobody deleted it");
}

#[test]
fn rows_from_nowhere_and_rows_of_two_writes_show() {
    assert_wrong(&[], &[(1, "x")], &[], "no committed transaction");
    let mut end = rows(&[(1, "a")]);
    for row in end.values_mut() {
        row.body_tag = Some("b".to_owned());
    }
    let history = [at(0, 1, vec![put(1, "a")])];
    let found = account(&history, &end, &BTreeSet::new()).violations;
    assert!(found[0].contains("not the row that was written"));
}

#[test]
fn counts_versions() {
    let history = [
        at(0, 1, vec![put(1, "a"), put(2, "b")]),
        at(1, 2, vec![put(1, "c")]),
    ];
    let account = account(&history, &rows(&[(1, "c"), (2, "b")]), &BTreeSet::new());
    assert_eq!((account.present, account.superseded), (2, 1));
}
