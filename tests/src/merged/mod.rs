//! Tables of the workload whose rows are merged: by columns, or by a function.
//!
//! [`writes`] says what a transaction did to such a row, [`session`] does it, [`check`] says what must
//! have become of it.

pub mod check;
pub(crate) mod session;
mod sets;
pub mod writes;

use anyhow::Context;

use crate::cluster::Cluster;
use crate::wait;
use crate::workload::{Shape, Table};

/// How the columns of a table of [`Shape::Columns`] are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// The last change; every change has a tag of its own.
    Tag,
    /// The sum of all differences.
    Sum,
    /// The greatest of values that have not seen each other.
    Greatest,
    /// The same, and nobody ever lowers it: the greatest of all.
    Raised,
    /// The least of values that have not seen each other.
    Least,
    /// The same, and nobody ever raises it: the least of all.
    Lowered,
    /// A set: of each element the last change.
    Set,
}

/// The columns behind the key.
pub const COLUMNS: [(&str, Merge); 11] = [
    ("label", Merge::Tag),
    ("place", Merge::Tag),
    ("note", Merge::Tag),
    ("balance", Merge::Sum),
    ("paid", Merge::Sum),
    ("high", Merge::Greatest),
    ("top", Merge::Raised),
    ("low", Merge::Least),
    ("deep", Merge::Lowered),
    ("tags", Merge::Set),
    ("attrs", Merge::Set),
];

/// What `set_policy` is told of them.
const BY_COLUMNS: &str = r#"{"delta": ["balance", "paid"], "greatest": ["high", "top"],
    "least": ["low", "deep"], "union": ["tags", "attrs"]}"#;

/// The same, and somebody is told of a balance that falls below.
const WITH_FLOOR: &str = r#"{"delta": ["balance", "paid"], "greatest": ["high", "top"],
    "least": ["low", "deep"], "union": ["tags", "attrs"], "floor": {"balance": -200}}"#;

/// The tag that every column of a row has which is there from the beginning.
pub const BEGIN: &str = "begin";

/// Tables that are merged, two of each kind: in one no row ever comes or goes, so that what must be in it follows
/// from the committed writes alone; and one where whole rows are inserted, deleted, moved and truncated too. And one
/// whose policy changes in mid stream: for a while its updates are whole rows.
pub const MERGED: [Table; 5] = [
    Table {
        shape: Shape::Columns,
        kept: true,
        policies: &[("column_wise", BY_COLUMNS)],
        ..Table::plain("sums", 8)
    },
    Table {
        shape: Shape::Columns,
        moves: true,
        truncated: 2,
        policies: &[("column_wise", BY_COLUMNS)],
        ..Table::plain("columns", 24)
    },
    Table {
        shape: Shape::Columns,
        moves: true,
        truncated: 1,
        policies: &[
            ("column_wise", BY_COLUMNS),
            ("last_update_wins", "{}"),
            ("column_wise", WITH_FLOOR),
        ],
        ..Table::plain("turned", 16)
    },
    Table {
        shape: Shape::Things,
        kept: true,
        policies: &[("function", r#"{"function": "public.merge_gathered"}"#)],
        ..Table::plain("gathered", 8)
    },
    Table {
        shape: Shape::Things,
        policies: &[("function", r#"{"function": "public.merge_loose"}"#)],
        ..Table::plain("loose", 16)
    },
];

/// The statements that make a table that is merged.
pub(crate) fn schema(table: &Table) -> String {
    let name = table.name;
    match table.shape {
        Shape::Rows => String::new(),
        Shape::Columns => format!(
            "create table {name} (id bigint primary key, label text, place text, note text, \
             balance bigint not null, paid numeric(14, 2) not null, high int, top bigint, low int, deep bigint, \
             tags text[] not null, attrs jsonb not null);\n\
             alter table {name} replica identity full;\n"
        ),
        // What is summed up shows a row that was put together otherwise than by the function.
        Shape::Things => format!(
            "create table {name} (id bigint primary key, things text[] not null, amount int not null);\n\
             create function public.merge_{name}(l {name}, i {name}, lt timestamptz, it timestamptz, kind text) \
             returns {name} language plpgsql immutable security definer set search_path = public as $$ begin \
             l.things := array(select distinct unnest(l.things || i.things) order by 1); \
             l.amount := hashtext(l.things::text); return l; end $$;\n"
        ),
    }
}

/// What has to be added where the schema `everywrite` is there: at every site, before the policy is set.
pub(crate) fn checks(table: &Table) -> Option<String> {
    let sets = COLUMNS.iter().filter(|(_, merge)| *merge == Merge::Set);
    let checks = sets.map(|(column, _)| format!("add check (everywrite.is_set({column}))"));
    let checks: Vec<String> = checks.collect();
    let alter = || format!("alter table {} {}", table.name, checks.join(", "));
    (table.shape == Shape::Columns).then(alter)
}

/// The rows that are there from the beginning: written at one site, before anything else.
pub(crate) fn beginning(table: &Table) -> Option<String> {
    let (name, last) = (table.name, table.keys.saturating_sub(1));
    let row = match (table.kept, table.shape) {
        (true, Shape::Columns) => {
            format!("'{BEGIN}', '{BEGIN}', '{BEGIN}', 0, 0, 0, 0, 0, 0, '{{}}', '{{}}'")
        }
        (true, Shape::Things) => "'{}', hashtext('{}')".to_owned(),
        _ => return None,
    };
    let rows = format!("generate_series(0, {last}) g");
    Some(format!("insert into {name} select g, {row} from {rows}"))
}

/// Waits until the policy of every table that has one holds at every site. Columns are merged only from then
/// on (`begun_at`); what is written before is whole rows.
pub(crate) async fn begun(cluster: &Cluster, tables: &[Table]) -> anyhow::Result<()> {
    for table in tables {
        let Some((policy, _)) = table.policies.first() else {
            continue;
        };
        let holds = format!(
            "select case when policy = 'column_wise' and begun_at is null then 'not begun' else policy end \
             from everywrite.policies where table_name = '{}'",
            table.name
        );
        for site in &cluster.sites {
            site.wait_value(&holds, policy).await?;
        }
    }
    Ok(())
}

/// Waits until nothing is left to be merged at any site, and all of that has arrived everywhere.
pub(crate) async fn merged(cluster: &Cluster, limit: std::time::Duration) -> anyhow::Result<u64> {
    let open = "select count(*)::text || coalesce(' ' || min(error), '') from everywrite.merging";
    // A merge that arrives may meet another one: quiet is what it is after the last one has arrived.
    loop {
        let mut waited = false;
        for site in &cluster.sites {
            let what = format!("nothing to be merged at {}", site.node.name());
            wait::until(&what, limit, async || {
                let open = site.value(open).await.map_err(|err| format!("{err:#}"))?;
                waited |= open != "0";
                (open == "0").then_some(()).ok_or(open)
            })
            .await?;
        }
        let rows = cluster.converged_within(limit).await;
        let rows = rows.context("after the last merge")?;
        if !waited {
            return Ok(rows);
        }
    }
}
