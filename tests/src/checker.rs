//! What is right, once everything has come to rest.
//!
//! 1. **Equal.** Every table holds the same rows at every site: the same count and the same md5 over
//!    the rows in the order of their primary key.
//! 2. **Of one piece.** Every row is what one write made of it: no column of another version.
//! 3. **Accounted for.** Let W(k) be the committed writes of a key k: rows, deletes, moves away, and
//!    each TRUNCATE of its table. A write of W(k) is *superseded* when another one is certainly newer:
//!    - it replaced exactly this one, by its own reading under a lock (so it was caused by it), or
//!    - it was committed at the same site later (locks on the key order them), or
//!    - it was committed at another site later by more than [`TOLERANCE_US`].
//!
//!    The row at k, if there is one, is a write of W(k) that is not superseded and that no conflict
//!    history lists as lost. If there is none, then W(k) is empty, or has a delete that is not superseded,
//!    or a row that is not superseded and is listed as lost (its second unique key belongs to another
//!    row). So every committed row version is present, or a higher version stands in its place.
//!
//! All servers of a test share one clock, therefore commit timestamps order writes of different
//! sites, but not to the microsecond: a server takes a transaction's timestamp a little before its
//! place in the WAL, and a stamp may be raised above an earlier neighbour's.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use tokio_postgres::Client;

use crate::history::{Effect, Transaction, Write};
use crate::postgres;
use crate::workload::{Table, rows_query};

/// How much a stamp may differ from the commit timestamp on one machine: how long a session may
/// be off the CPU between taking its timestamp and writing its commit record.
pub const TOLERANCE_US: i64 = 250_000;

/// What each table of a site holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The site's name.
    pub site: String,
    /// Table → number of rows, md5 over them.
    pub tables: BTreeMap<String, (u64, String)>,
}

/// The digest of all of a site's replicated tables.
pub async fn digest(site: &str, client: &Client) -> anyhow::Result<Digest> {
    let mut tables = BTreeMap::new();
    for (table, key) in replicated_tables(client).await? {
        let sql = format!(
            "select count(*), md5(string_agg(md5(t::text), '' order by {key})) from {table} t"
        );
        let rows = postgres::rows(client, &sql).await?;
        let row = rows.into_iter().next().context("no digest")?;
        let [Some(count), md5] = row.as_slice() else {
            bail!("an unexpected digest: {row:?}");
        };
        let count = count.parse().context("a count")?;
        tables.insert(table, (count, md5.clone().unwrap_or_default()));
    }
    Ok(Digest {
        site: site.to_owned(),
        tables,
    })
}

/// Each table with its primary key's columns, quoted; the daemon's own are left out.
async fn replicated_tables(client: &Client) -> anyhow::Result<Vec<(String, String)>> {
    let sql = "select c.oid::regclass, string_agg(quote_ident(a.attname), ', ' order by a.attnum) \
        from pg_class c join pg_index i on i.indrelid = c.oid and i.indisprimary \
        join pg_attribute a on a.attrelid = c.oid and a.attnum = any (i.indkey) \
        where c.relkind = 'r' and c.relnamespace::regnamespace::text \
        not in ('everywrite', 'pg_catalog', 'information_schema') group by c.oid";
    let rows = postgres::rows(client, sql).await?;
    rows.into_iter()
        .map(|row| match row.as_slice() {
            [Some(table), Some(key)] => Ok((table.clone(), key.clone())),
            _ => bail!("an unexpected table: {row:?}"),
        })
        .collect()
}

/// Whether all digests are the same; the number of rows, or what differs.
pub fn same_everywhere(digests: &[Digest]) -> Result<u64, String> {
    let Some((first, others)) = digests.split_first() else {
        return Ok(0);
    };
    let mut differences = Vec::new();
    for other in others {
        let names: BTreeSet<&String> = first.tables.keys().chain(other.tables.keys()).collect();
        for name in names {
            let (here, there) = (first.tables.get(name), other.tables.get(name));
            if here != there {
                differences.push(format!(
                    "{name}: {} has {here:?}, {} has {there:?}",
                    first.site, other.site
                ));
            }
        }
    }
    if differences.is_empty() {
        Ok(first.tables.values().map(|(rows, _)| rows).sum())
    } else {
        Err(differences.join("; "))
    }
}

/// Up to `limit` rows of a table that are not the same at two servers.
pub async fn differing_rows(
    table: &str,
    one: &Client,
    other: &Client,
    limit: usize,
) -> anyhow::Result<Vec<String>> {
    let sql = format!("select t::text from {table} t");
    let mut sets = Vec::new();
    for client in [one, other] {
        let rows = postgres::rows(client, &sql).await?;
        sets.push(
            rows.into_iter()
                .flatten()
                .flatten()
                .collect::<BTreeSet<String>>(),
        );
    }
    let [one, other] = sets.as_slice() else {
        bail!("two sets are two sets");
    };
    let short = |row: &String| row.chars().take(100).collect::<String>();
    Ok(one
        .difference(other)
        .map(|row| format!("< {}", short(row)))
        .chain(other.difference(one).map(|row| format!("> {}", short(row))))
        .take(limit)
        .collect())
}

/// A row of a workload's table, as it is in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The write that made it.
    pub tag: String,
    /// The write that gave it its large value.
    pub body_tag: Option<String>,
    /// Its second unique key.
    pub code: Option<i64>,
    /// Whether its columns belong together.
    pub of_one_piece: bool,
}

/// (table, key) → row.
pub type Rows = BTreeMap<(String, i64), Row>;

/// The rows of a workload's tables at one server.
pub async fn rows(client: &Client, tables: &[Table]) -> anyhow::Result<Rows> {
    let mut found = Rows::new();
    for table in tables {
        for row in postgres::rows(client, &rows_query(table.name)).await? {
            let [Some(key), Some(tag), body_tag, code, whole] = row.as_slice() else {
                bail!("an unexpected row of {}: {row:?}", table.name);
            };
            let row = Row {
                tag: tag.clone(),
                body_tag: body_tag.clone(),
                code: code.as_deref().and_then(|code| code.parse().ok()),
                of_one_piece: whole.as_deref() == Some("t"),
            };
            found.insert((table.name.to_owned(), key.parse().context("a key")?), row);
        }
    }
    Ok(found)
}

/// What the checker found.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Committed row versions that are there.
    pub present: usize,
    /// Committed row versions that another write stands in place of.
    pub superseded: usize,
    /// What is wrong; empty when all is well.
    pub violations: Vec<String>,
}

/// One write of a key, with when and where.
struct Event<'a> {
    transaction: usize,
    site: usize,
    at_us: i64,
    effect: &'a Effect,
}

impl Event<'_> {
    fn tag(&self) -> Option<&str> {
        match self.effect {
            Effect::Row { tag, .. } => Some(tag),
            Effect::Gone => None,
        }
    }

    /// Whether another write of the key is certainly newer, by time alone. `last_us` tells when each
    /// site last wrote the key; those of one transaction share a timestamp.
    fn is_outdated(&self, last_us: &BTreeMap<usize, i64>) -> bool {
        last_us.iter().any(|(&site, &last_us)| {
            let margin = if site == self.site { 0 } else { TOLERANCE_US };
            last_us > self.at_us.saturating_add(margin)
        })
    }
}

/// Accounts for every committed write, given the rows (equal at all sites by then) and the tags of
/// the rows that conflict histories list as lost.
pub fn account(committed: &[Transaction], rows: &Rows, lost: &BTreeSet<String>) -> Account {
    let mut account = Account::default();
    let replaced: BTreeSet<&str> = committed
        .iter()
        .flat_map(|t| &t.writes)
        .filter_map(|write| write.saw.as_deref())
        .collect();
    let mut keys = events(committed, &mut account);
    for (table, key) in rows.keys() {
        keys.entry((table, *key)).or_default();
    }
    for ((table, key), events) in &keys {
        let mut last_us = BTreeMap::new();
        for event in events {
            let last = last_us.entry(event.site).or_insert(event.at_us);
            *last = event.at_us.max(*last);
        }
        let newest: Vec<&Event<'_>> = events
            .iter()
            .filter(|e| !e.tag().is_some_and(|tag| replaced.contains(tag)))
            .filter(|e| !e.is_outdated(&last_us))
            .collect();
        let row = rows.get(&((*table).to_owned(), *key));
        let verdict = match row {
            Some(row) => present(row, events, &newest, lost),
            None => absent(events, &newest, lost),
        };
        if let Err(reason) = verdict {
            let newest: Vec<_> = newest.iter().map(|e| (e.site, e.at_us, e.effect)).collect();
            let told = format!("{table} {key}: {reason}; row {row:?}; newest writes {newest:?}");
            account.violations.push(told);
        }
        let versions = events.iter().filter(|e| e.tag().is_some()).count();
        let there = usize::from(row.is_some());
        account.present += there;
        account.superseded += versions.saturating_sub(there);
    }
    account
}

fn events<'a>(
    committed: &'a [Transaction],
    account: &mut Account,
) -> BTreeMap<(&'a str, i64), Vec<Event<'a>>> {
    let mut keys: BTreeMap<(&str, i64), Vec<Event<'_>>> = BTreeMap::new();
    let mut truncates: Vec<(&str, Event<'_>)> = Vec::new();
    for (transaction, t) in committed.iter().enumerate() {
        let Some(at_us) = t.committed_at_us else {
            let told = format!("no commit timestamp of {} at site {}", t.xid, t.site);
            account.violations.push(told);
            continue;
        };
        for Write {
            table, key, effect, ..
        } in &t.writes
        {
            let event = Event {
                transaction,
                site: t.site,
                at_us,
                effect,
            };
            match key {
                Some(key) => keys.entry((table, *key)).or_default().push(event),
                None => truncates.push((table, event)),
            }
        }
    }
    // A TRUNCATE is a write of every key of its table, except those that its own transaction wrote after it.
    for (table, truncate) in truncates {
        for (_, events) in keys.iter_mut().filter(|((t, _), _)| *t == table) {
            if !events.iter().any(|e| e.transaction == truncate.transaction) {
                events.push(Event { ..truncate });
            }
        }
    }
    keys
}

fn present(
    row: &Row,
    events: &[Event<'_>],
    newest: &[&Event<'_>],
    lost: &BTreeSet<String>,
) -> Result<(), String> {
    let written = events.iter().find(|e| e.tag() == Some(row.tag.as_str()));
    let Some(written) = written else {
        return Err("no committed transaction wrote this row".to_owned());
    };
    let expected = Effect::Row {
        tag: row.tag.clone(),
        body_tag: row.body_tag.clone(),
        code: row.code,
    };
    if *written.effect != expected || !row.of_one_piece {
        return Err(format!(
            "not the row that was written: {:?}",
            written.effect
        ));
    }
    if !newest.iter().any(|e| e.tag() == Some(row.tag.as_str())) {
        return Err("a newer write was lost".to_owned());
    }
    if lost.contains(&row.tag) {
        return Err("the row is there and listed as lost".to_owned());
    }
    Ok(())
}

fn absent(
    events: &[Event<'_>],
    newest: &[&Event<'_>],
    lost: &BTreeSet<String>,
) -> Result<(), String> {
    let accounted = events.is_empty()
        || newest.iter().any(|e| match e.tag() {
            None => true,
            Some(tag) => lost.contains(tag),
        });
    if accounted {
        Ok(())
    } else {
        Err("the row is gone, nobody deleted it and no history lists it as lost".to_owned())
    }
}
