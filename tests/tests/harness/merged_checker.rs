//! The checker of tables that are merged, on histories made up for it: it accepts what is right and finds each
//! kind of wrong.

use std::collections::BTreeSet;
use std::sync::Arc;

use everywrite_conflict::policy::Epoch;
use everywrite_conflict::policy::columns::Column;
use everywrite_conflict::{KeyHasher, Lsn, NodeId, RelationHash, Stamp, Vector, Version};
use everywrite_node::journal::columns::{Columns, Height, Merges};
use everywrite_tests::conflicts::{Conflict, Side};
use everywrite_tests::history::{Outcome, Stamped, Transaction};
use everywrite_tests::merged::check::{Row, Rows, account};
use everywrite_tests::merged::writes::{Cell, Effect, Elements, Image, Write};
use everywrite_tests::merged::{COLUMNS, Merge};
use everywrite_tests::workload::{Shape, Table};

/// A table of two rows; where they are kept, both are there from the beginning.
fn table(shape: Shape, kept: bool) -> Table {
    Table {
        shape,
        kept,
        ..Table::plain("t", 1)
    }
}

/// A committed write of row 0 at `site`, which has seen what those sites had committed up to there.
fn at(site: u16, when: u32, seen: &[(u16, u64)], effect: Effect) -> Transaction {
    let mut vector = Vector::new();
    for (site, place) in seen {
        vector.set(NodeId(site + 1), Lsn(*place));
    }
    let mut transaction = Transaction {
        site: usize::from(site),
        xid: 1,
        outcome: Outcome::Acknowledged,
        stamped: Some(Stamped {
            version: Version::new(Stamp(i64::from(when)), NodeId(site + 1)),
            position: Lsn(u64::from(when)),
            vector,
            ranks: Arc::default(),
            columns: Arc::default(),
        }),
        writes: Vec::new(),
        merged: Vec::new(),
        passing: Vec::new(),
    };
    if let Effect::Update { changes, .. } = &effect {
        let own = changes.iter().filter_map(|(column, cell)| {
            let Cell::Number(n) = cell else { return None };
            Some((*column, height(column, *n)?))
        });
        transaction = standing(transaction, &own.collect::<Vec<_>>());
    }
    let (table, key) = ("t", Some(0));
    transaction.merged = vec![Write { table, key, effect }];
    transaction
}

fn height(column: &str, value: i64) -> Option<i64> {
    let (_, merge) = COLUMNS.iter().find(|(name, _)| *name == column)?;
    match merge {
        Merge::Greatest | Merge::Raised => Some(value),
        Merge::Least | Merge::Lowered => Some(-value),
        _ => None,
    }
}

/// The same, with those heights in its journal.
fn standing(mut transaction: Transaction, heights: &[(&str, i64)]) -> Transaction {
    let relation = RelationHash::new("public", "t");
    let mut hasher = KeyHasher::new(relation);
    let key = hasher.cell(20, Some(&0_i64.to_be_bytes()), true).finish();
    let mut columns = Columns::default();
    let merges = Merges {
        epoch: Epoch {
            number: 1,
            origin: NodeId(1),
        },
        columns: [].into(),
    };
    columns.table(relation, merges);
    let heights: Vec<Height> = heights
        .iter()
        .map(|(column, height)| Height {
            key,
            column: Column::named(column),
            height: *height,
        })
        .collect();
    columns.heights(&heights);
    transaction.stamped.as_mut().unwrap().columns = Arc::new(columns);
    transaction
}

fn tag(column: &'static str, tag: &str) -> (&'static str, Cell) {
    (column, Cell::Tag(tag.to_owned()))
}

fn number(column: &'static str, n: i64) -> (&'static str, Cell) {
    (column, Cell::Number(n))
}

fn update(cells: &[(&'static str, Cell)]) -> Effect {
    let (changes, whole) = (cells.iter().cloned().collect(), Image::new());
    Effect::Update { changes, whole }
}

/// A row that has this tag and number everywhere but in these columns.
fn row(all: &str, n: i64, but: &[(&'static str, Cell)]) -> Image {
    let cell = |merge| match merge {
        Merge::Tag => Cell::Tag(all.to_owned()),
        Merge::Set => Cell::Set(Elements::new()),
        _ => Cell::Number(n),
    };
    let mut row: Image = COLUMNS.iter().map(|&(c, m)| (c, cell(m))).collect();
    row.extend(but.iter().cloned());
    row
}

/// A conflict in whose history a tag of a column is.
fn told(column: &str, tag: &str) -> Conflict {
    let side = |row| Side {
        row,
        site: None,
        version: None,
    };
    Conflict {
        decided: String::new(),
        kind: "update_origin_differs".to_owned(),
        decision: "merged".to_owned(),
        done: None,
        table: "public.t".to_owned(),
        local: side(None),
        incoming: side(Some(serde_json::json!({ column: tag }))),
    }
}

fn judge(
    table: Table,
    history: &[Transaction],
    end: Option<Row>,
    told: &[Conflict],
) -> Vec<String> {
    let rows: Rows = end
        .map(|row| (("t".to_owned(), 0), row))
        .into_iter()
        .collect();
    account(history, &rows, &[table], told)
}

/// The row ends like this where rows are kept.
fn kept(history: &[Transaction], but: &[(&'static str, Cell)], told: &[Conflict]) -> Vec<String> {
    let end = Row::Columns(row("begin", 0, but));
    judge(table(Shape::Columns, true), history, Some(end), told)
}

/// The same where they come and go.
fn loose(history: &[Transaction], end: Option<Image>, told: &[Conflict]) -> Vec<String> {
    judge(
        table(Shape::Columns, false),
        history,
        end.map(Row::Columns),
        told,
    )
}

fn right(found: Vec<String>) {
    assert!(found.is_empty(), "{found:?}");
}

fn wrong(found: Vec<String>, part: &str) {
    assert!(found.iter().any(|f| f.contains(part)), "{found:?}");
}

#[test]
fn every_difference_counts_once() {
    let more = |site, when, n| at(site, when, &[], update(&[number("balance", n)]));
    let history = [more(0, 1, 5), more(1, 2, 7), more(0, 3, -1)];
    right(kept(&history, &[number("balance", 11)], &[]));
    wrong(kept(&history, &[number("balance", 4)], &[]), "sum up to 11");
    wrong(
        kept(&history, &[number("balance", 18)], &[]),
        "sum up to 11",
    );
    wrong(
        kept(&history, &[number("balance", 11), number("paid", 1)], &[]),
        "paid",
    );
}

#[test]
fn each_column_has_its_greatest_write() {
    let history = [
        at(0, 1, &[], update(&[tag("label", "a"), tag("place", "a")])),
        at(1, 2, &[], update(&[tag("label", "b")])),
    ];
    let lost = [told("label", "a")];
    let end = [tag("label", "b"), tag("place", "a")];
    right(kept(&history, &end, &lost));
    wrong(kept(&history, &end, &[]), "in no history");
    let whole_row = [tag("label", "b")];
    wrong(kept(&history, &whole_row, &lost), "place: ");
    let older = [tag("label", "a"), tag("place", "a")];
    let found = kept(&history, &older, &[told("label", "b")]);
    wrong(found, "stands");
    // Who has seen it replaces it, and nothing has to be in a history.
    let history = [
        at(0, 1, &[], update(&[tag("label", "a")])),
        at(1, 2, &[(0, 1)], update(&[tag("label", "b")])),
    ];
    right(kept(&history, &[tag("label", "b")], &[]));
    wrong(kept(&history, &[tag("label", "a")], &[]), "stands");
    wrong(kept(&[], &[tag("label", "a")], &[]), "nobody changed");
    let gone = judge(table(Shape::Columns, true), &[], None, &[]);
    wrong(gone, "nobody deleted it");
}

#[test]
fn the_greatest_of_what_had_not_seen_each_other_stays() {
    let high = |site, when, seen: &[_], n| at(site, when, seen, update(&[number("high", n)]));
    let apart = [high(0, 1, &[], 9), high(1, 2, &[], 5)];
    right(kept(&apart, &[number("high", 9)], &[]));
    wrong(kept(&apart, &[number("high", 5)], &[]), "Number(9) stands");
    // Lowered knowingly: it inherits, so that it still stands above the third.
    let lowered = standing(high(2, 3, &[(0, 1)], 1), &[("high", 9)]);
    let history = [apart[0].clone(), apart[1].clone(), lowered.clone()];
    right(kept(&history, &[number("high", 1)], &[]));
    wrong(
        kept(&history, &[number("high", 9)], &[]),
        "Number(1) stands",
    );
    // The journal says less than its own value.
    let low = standing(high(2, 3, &[], 7), &[("high", 6)]);
    wrong(kept(&[low], &[number("high", 7)], &[]), "stands at 6");
    let whole = at(0, 1, &[], update(&[number("low", -3)]));
    right(kept(
        std::slice::from_ref(&whole),
        &[number("low", -3)],
        &[],
    ));
    let mut unmerged = whole;
    unmerged.stamped.as_mut().unwrap().columns = Arc::default();
    wrong(kept(&[unmerged], &[number("low", -3)], &[]), "not merged");
}

/// Whatever the heights in the journals say.
#[test]
fn what_nobody_lowers_is_the_greatest_of_all() {
    let top = |site, when, n| at(site, when, &[], update(&[number("top", n)]));
    let wild = standing(top(1, 2, 5), &[("top", 99)]);
    let history = [top(0, 1, 9), wild];
    wrong(kept(&history, &[number("top", 5)], &[]), "9 was written");
    let deep = [
        at(0, 1, &[], update(&[number("deep", -9)])),
        at(1, 2, &[], update(&[number("deep", -5)])),
    ];
    right(kept(&deep, &[number("deep", -9)], &[]));
    wrong(kept(&deep, &[number("deep", -5)], &[]), "-9 was written");
}

#[test]
fn a_row_event_wins_against_what_has_not_seen_it() {
    let insert = at(0, 1, &[], Effect::Row(row("i", 4, &[])));
    let mine = at(0, 2, &[], update(&[number("balance", 3)]));
    let seen = at(
        1,
        3,
        &[(0, 1)],
        update(&[number("balance", 2), tag("note", "u")]),
    );
    let history = [insert.clone(), mine, seen];
    let end = row("i", 4, &[number("balance", 9), tag("note", "u")]);
    right(loose(&history, Some(end.clone()), &[]));
    wrong(loose(&history, None, &[]), "nobody deleted it");
    let delete = |when, seen: &[_]| at(2, when, seen, Effect::Gone);
    let deleted = |seen: &[_]| [&history[..], &[delete(4, seen)]].concat();
    let unseen = deleted(&[(0, 1)]);
    wrong(loose(&unseen, None, &[]), "in no history");
    right(loose(&unseen, None, &[told("note", "u")]));
    wrong(loose(&unseen, Some(end), &[]), "a row that is deleted");
    right(loose(&deleted(&[(0, 2), (1, 3)]), None, &[]));
    // A newer row takes nothing of the differences of the one before.
    let again = at(1, 9, &[(0, 2), (2, 4)], Effect::Row(row("n", 1, &[])));
    let history = [&deleted(&[(0, 2), (1, 3)])[..], &[again]].concat();
    right(loose(&history, Some(row("n", 1, &[])), &[]));
    let mixed = row("n", 1, &[number("balance", 6)]);
    wrong(loose(&history, Some(mixed), &[]), "balance");
    wrong(loose(&[], Some(row("x", 1, &[])), &[]), "never was");
}

#[test]
fn a_truncate_is_a_row_event_of_every_row() {
    let insert = at(0, 1, &[], Effect::Row(row("i", 4, &[])));
    let mut truncate = at(1, 2, &[(0, 1)], Effect::Gone);
    truncate.merged[0].key = None;
    let history = [insert, truncate];
    right(loose(&history, None, &[]));
    wrong(
        loose(&history, Some(row("i", 4, &[])), &[]),
        "a row that is deleted",
    );
}

/// A table whose policy changes, and the row in the end.
fn turned(history: &[Transaction], end: Image, told: &[Conflict]) -> Vec<String> {
    let table = Table {
        policies: &[("column_wise", "{}"), ("last_update_wins", "{}")],
        ..table(Shape::Columns, false)
    };
    judge(table, history, Some(Row::Columns(end)), told)
}

/// An update that was captured while the policy was another one.
fn unmerged(site: u16, when: u32, seen: &[(u16, u64)], whole: Image) -> Transaction {
    let changes = [tag("label", "w")].into_iter().collect();
    let mut update = at(site, when, seen, Effect::Update { changes, whole });
    update.stamped.as_mut().unwrap().columns = Arc::default();
    update
}

#[test]
fn an_update_that_is_not_merged_is_a_whole_row() {
    let insert = at(0, 1, &[], Effect::Row(row("i", 4, &[])));
    let more = |site, when, seen: &[_], n| at(site, when, seen, update(&[number("balance", n)]));
    let mine = more(1, 2, &[(0, 1)], 5);
    let label = [tag("label", "w")];
    // It has not seen the difference, which is lost.
    let whole = row("i", 4, &label);
    let unseen = unmerged(0, 3, &[], whole.clone());
    let behind = more(1, 9, &[(0, 3)], 2);
    let history = [insert.clone(), mine.clone(), unseen, behind.clone()];
    let both = |n| row("i", 4, &[tag("label", "w"), number("balance", n)]);
    right(turned(&history, both(6), &[]));
    wrong(turned(&history, both(11), &[]), "sum up to 6");
    // The difference is in it.
    let seen = unmerged(0, 3, &[(1, 2)], both(9));
    let history = [insert.clone(), mine, seen, behind];
    right(turned(&history, both(11), &[]));
    wrong(turned(&history, both(16), &[]), "sum up to 11");
    // Of two whole rows the later one stands, and the other is told of.
    let apart = [
        insert,
        unmerged(0, 3, &[], whole),
        unmerged(1, 4, &[(0, 1)], row("x", 1, &[])),
    ];
    let lost = [told("label", "w"), told("place", "i"), told("note", "i")];
    right(turned(&apart, row("x", 1, &[]), &lost));
    wrong(turned(&apart, row("x", 1, &[]), &[]), "in no history");
    wrong(turned(&apart, row("i", 4, &label), &lost), "nobody changed");
    // Where the policy never changes that is an error.
    let high = Effect::Update {
        changes: [number("high", 9)].into_iter().collect(),
        whole: row("i", 4, &[number("high", 9)]),
    };
    let mut high = at(0, 2, &[], high);
    high.stamped.as_mut().unwrap().columns = Arc::default();
    let history = [apart[0].clone(), high];
    let end = row("i", 4, &[number("high", 9)]);
    right(turned(&history, end.clone(), &[]));
    wrong(loose(&history, Some(end), &[]), "not merged");
}

fn elements(column: &'static str, elements: &[(&str, Option<&str>)]) -> (&'static str, Cell) {
    let own =
        |(element, value): &(&str, Option<&str>)| ((*element).to_owned(), value.map(str::to_owned));
    (column, Cell::Set(elements.iter().map(own).collect()))
}

#[test]
fn each_element_of_a_set_is_as_its_last_change_left_it() {
    let tags = |site, when, seen: &[_], changes: &[_]| {
        at(site, when, seen, update(&[elements("tags", changes)]))
    };
    let there = |names: &[&'static str]| {
        let all: Vec<_> = names.iter().map(|name| (*name, Some(""))).collect();
        [elements("tags", &all)]
    };
    let history = [
        tags(0, 1, &[], &[("a", Some("")), ("b", Some(""))]),
        tags(1, 2, &[], &[("c", Some(""))]),
        tags(2, 3, &[(0, 1)], &[("b", None)]),
    ];
    right(kept(&history, &there(&["a", "c"]), &[]));
    // A column that was taken whole from one of them.
    wrong(
        kept(&history, &there(&["c"]), &[]),
        "a is gone, and nobody took it out",
    );
    wrong(
        kept(&history, &there(&["a"]), &[]),
        "c is gone, and nobody took it out",
    );
    wrong(kept(&history, &there(&["a", "b", "c"]), &[]), "b is Some");
    wrong(kept(&history, &there(&["a", "c", "x"]), &[]), "x is Some");
    // Taken out and put in again, apart: the later one.
    let again = tags(1, 4, &[(0, 1)], &[("b", Some(""))]);
    let history = [&history[..], &[again]].concat();
    right(kept(&history, &there(&["a", "b", "c"]), &[]));
    wrong(kept(&history, &there(&["a", "c"]), &[]), "b is None");
}

#[test]
fn a_key_has_the_value_of_its_last_change_and_the_others_are_told() {
    let attrs = |site, when, seen: &[_], value| {
        at(
            site,
            when,
            seen,
            update(&[elements("attrs", &[("k", value)])]),
        )
    };
    let now = |value| [elements("attrs", &[("k", Some(value))])];
    let apart = [attrs(0, 1, &[], Some("one")), attrs(1, 2, &[], Some("two"))];
    let mut lost = told("attrs", "");
    lost.local.row = Some(serde_json::json!({ "attrs": { "k": "one" } }));
    let lost = [lost];
    right(kept(&apart, &now("two"), &lost));
    wrong(kept(&apart, &now("two"), &[]), "in no history");
    wrong(kept(&apart, &now("one"), &lost), "\"two\"");
    let known = [attrs(0, 1, &[], Some("one")), attrs(1, 2, &[(0, 1)], None)];
    right(kept(&known, &[], &[]));
    wrong(kept(&known, &now("one"), &[]), "attrs: k");
}

fn set(things: &[&str]) -> BTreeSet<String> {
    things.iter().map(|&thing| thing.to_owned()).collect()
}

fn things(added: &[&str], removed: &[&str], deleted: bool) -> Effect {
    Effect::Things {
        added: set(added),
        removed: set(removed),
        deleted,
    }
}

fn united(history: &[Transaction], end: Option<&[&str]>) -> Vec<String> {
    let end = end.map(|things| Row::Things(set(things), true));
    judge(table(Shape::Things, false), history, end, &[])
}

#[test]
fn what_was_added_is_there_unless_it_was_taken_out() {
    let history = [
        at(0, 1, &[], things(&["a"], &[], false)),
        at(1, 2, &[], things(&["b"], &[], false)),
        at(1, 3, &[], things(&["c"], &["b"], false)),
    ];
    right(united(&history, Some(&["a", "c"])));
    // Somebody who had not seen that it was taken out may bring it back.
    right(united(&history, Some(&["a", "b", "c"])));
    wrong(united(&history, Some(&["c"])), r#"["a"] is missing"#);
    wrong(united(&history, Some(&["a", "c", "x"])), "nobody has added");
    let by_hand = Row::Things(set(&["a", "c"]), false);
    let found = judge(table(Shape::Things, true), &history, Some(by_hand), &[]);
    wrong(found, "not what the function makes");
}

#[test]
fn a_delete_excuses_what_it_has_seen_and_what_is_older() {
    let delete = at(1, 3, &[], things(&[], &["x"], true));
    let older = at(0, 1, &[], things(&["a"], &[], false));
    let newer = at(0, 5, &[], things(&["b"], &[], false));
    let history = [older, delete, newer];
    right(united(&history, Some(&["b"])));
    wrong(united(&history, None), "is missing");
}
