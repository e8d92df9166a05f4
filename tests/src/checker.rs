//! What is right, once everything has come to rest.
//!
//! 1. **Equal.** Every table holds the same rows at every site: the same count and the same md5 over
//!    the rows in the order of their primary key.
//! 2. **Of one piece.** Every row is what one write made of it: no column of another version.
//! 3. **Accounted for.** Let W(k) be the committed writes of a key k: rows, deletes, moves away, and
//!    each TRUNCATE of its table. The journals give each its version, so there is a greatest one, however the
//!    clocks went; in a table with a policy the version begins with a rank, and a write stands above what it
//!    has seen. If it is a row, that row is at k; or, in a table with a second unique key, there is no row
//!    at k and a conflict history lists that one as lost. If it is a delete, there is no row at k.
//! 4. **Causal.** A write that replaced another by its own reading under a lock has the greater version,
//!    and its vector covers what it saw.
//! 5. **Nothing hidden.** A row version that is not there in the end, and that nobody who knew it has
//!    replaced, is listed as lost in a conflict history, with its version; one that is there is not listed. Under the
//!    policy `park` it is listed as parked, or was until somebody retried or discarded it.
//!
//! Tables that are merged have rules of their own: [`merged::check`](crate::merged::check).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use tokio_postgres::Client;

use everywrite_conflict::{Position, Version};

use crate::conflicts::Conflict;
use crate::history::{Effect, Stamped, Transaction, Write};
use crate::postgres;
use crate::workload::{Shape, Table, rows_query};

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
    for table in tables.iter().filter(|t| t.shape == Shape::Rows) {
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

/// One write of a key.
struct Event<'a> {
    transaction: usize,
    stamped: &'a Stamped,
    /// Its rank included.
    version: Version,
    effect: &'a Effect,
    /// Its transaction truncated the table before.
    truncates: bool,
}

impl Event<'_> {
    fn tag(&self) -> Option<&str> {
        match self.effect {
            Effect::Row { tag, .. } => Some(tag),
            Effect::Gone => None,
        }
    }

    /// Whether it stays and the other one goes.
    fn beats(&self, other: &Event<'_>) -> bool {
        beats((self.stamped, self.version), (other.stamped, other.version))
    }

    /// Whether its site had seen another one when it was committed, or it came later there.
    fn has_seen(&self, other: &Stamped) -> bool {
        has_seen(self.stamped, other)
    }
}

/// Whether a write with its version stays and the other one goes.
pub(crate) fn beats(one: (&Stamped, Version), other: (&Stamped, Version)) -> bool {
    if !one.1.is_ranked() && !other.1.is_ranked() {
        return one.1 > other.1;
    }
    match (has_seen(one.0, other.0), has_seen(other.0, one.0)) {
        (true, false) => true,
        (false, true) => false,
        _ => one.1 > other.1,
    }
}

/// Whether `one` came behind `other` at the same site, or its vector names it.
pub(crate) fn has_seen(one: &Stamped, other: &Stamped) -> bool {
    let (site, place) = (other.version.origin, other.position);
    if one.version.origin == site {
        one.position >= place
    } else {
        one.vector.covers(Position {
            origin: site,
            lsn: place,
        })
    }
}

/// The tags of the rows that conflict histories list.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// As lost, in whatever way.
    pub lost: BTreeSet<String>,
    /// As parked; also those that somebody has retried or discarded since.
    pub parked: BTreeSet<String>,
}

impl Listed {
    /// Where a row has to be that lost a conflict in this table.
    fn of(&self, table: Option<&Table>) -> &BTreeSet<String> {
        match table.is_some_and(Table::is_parked) {
            true => &self.parked,
            false => &self.lost,
        }
    }
}

/// Accounts for every committed write, given the rows (equal at all sites by then) and what the conflict
/// histories list.
pub fn account(
    committed: &[Transaction],
    rows: &Rows,
    tables: &[Table],
    listed: &Listed,
) -> Account {
    let mut account = Account::default();
    let replaced: BTreeSet<&str> = committed
        .iter()
        .flat_map(|t| &t.writes)
        .filter_map(|write| write.saw.as_deref())
        .collect();
    causal(committed, &mut account);
    let mut keys = events(committed, &mut account);
    for (table, key) in rows.keys() {
        keys.entry((table, *key)).or_default();
    }
    for ((table, key), events) in &keys {
        let row = rows.get(&((*table).to_owned(), *key));
        let of = tables.iter().find(|t| t.name == *table);
        let removable = of.is_some_and(|t| t.codes > 0);
        let verdict = match row {
            Some(row) => present(row, events, &listed.lost),
            None => absent(events, removable, &listed.lost),
        };
        let hidden = hidden(row, events, &replaced, listed.of(of));
        for reason in verdict.err().into_iter().chain(hidden) {
            let mut newest: Vec<&Event<'_>> = events.iter().collect();
            newest.sort_by_key(|e| std::cmp::Reverse(e.version));
            let newest = newest.iter().take(3);
            let newest: Vec<_> = newest.map(|e| (e.version, e.stamped, e.effect)).collect();
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

/// What the conflict histories say against the journals: the row that came has the version that its writer
/// was given. The row that was there has the version named, or had lost to that one before it arrived; where
/// `ranks` come before the stamps, these do not tell which of the two is greater.
pub fn misnamed(
    conflicts: &[Conflict],
    writers: &BTreeMap<String, Transaction>,
    ranks: impl Fn(&Conflict) -> bool,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for conflict in conflicts {
        for (side, exact) in [(&conflict.local, false), (&conflict.incoming, true)] {
            let (Some(tag), Some(named)) = (side.column("tag"), side.version) else {
                continue;
            };
            let written = writers.get(&tag).and_then(|t| t.stamped.as_ref());
            let Some(Stamped { version, .. }) = written else {
                wrong.push(format!("a row that nobody committed: {conflict:?}"));
                continue;
            };
            let version = (version.stamp.to_unix_us(), i64::from(version.origin.0));
            if (version > named && (exact || !ranks(conflict))) || (exact && version < named) {
                wrong.push(format!("{tag} has the version {version:?}: {conflict:?}"));
            }
        }
    }
    wrong
}

/// What was replaced on sight is older, whatever the clocks say.
fn causal(committed: &[Transaction], account: &mut Account) {
    let mut writers: BTreeMap<&str, &Stamped> = BTreeMap::new();
    for transaction in committed {
        let Some(stamped) = &transaction.stamped else {
            continue;
        };
        for write in &transaction.writes {
            if let Effect::Row { tag, .. } = &write.effect {
                writers.insert(tag, stamped);
            }
        }
    }
    for transaction in committed {
        let Some(stamped) = &transaction.stamped else {
            continue;
        };
        let seen = transaction.writes.iter().filter_map(|w| w.saw.as_deref());
        for (tag, older) in seen.filter_map(|tag| Some((tag, *writers.get(tag)?))) {
            if stamped.version <= older.version || !has_seen(stamped, older) {
                account.violations.push(format!(
                    "{stamped:?} replaced {tag}, which is {older:?}: the greater version, or not in its vector"
                ));
            }
        }
    }
}

fn events<'a>(
    committed: &'a [Transaction],
    account: &mut Account,
) -> BTreeMap<(&'a str, i64), Vec<Event<'a>>> {
    let mut keys: BTreeMap<(&str, i64), Vec<Event<'_>>> = BTreeMap::new();
    let mut truncates: Vec<(&str, Event<'_>)> = Vec::new();
    for (transaction, t) in committed.iter().enumerate() {
        let Some(stamped) = &t.stamped else {
            let told = format!("{} of site {} has no version", t.xid, t.site);
            account.violations.push(told);
            continue;
        };
        for Write {
            table, key, effect, ..
        } in &t.writes
        {
            let event = Event {
                transaction,
                stamped,
                version: stamped.version_of(table, *key),
                effect,
                truncates: key.is_none(),
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
            let own = |e: &&mut Event<'_>| e.transaction == truncate.transaction;
            match events.iter_mut().find(own) {
                Some(own) => own.truncates = true,
                None => events.push(Event { ..truncate }),
            }
        }
    }
    keys
}

/// The write that no other one beats.
fn newest<'a, 'b>(events: &'b [Event<'a>]) -> Option<&'b Event<'a>> {
    let greater = |one: &'b Event<'a>, other: &'b Event<'a>| match other.beats(one) {
        true => other,
        false => one,
    };
    let newest = events.iter().reduce(greater)?;
    let beaten = events.iter().any(|other| other.beats(newest));
    (!beaten).then_some(newest)
}

fn present(row: &Row, events: &[Event<'_>], lost: &BTreeSet<String>) -> Result<(), String> {
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
    if newest(events).is_none_or(|e| e.tag() != Some(row.tag.as_str())) {
        return Err("a newer write was lost".to_owned());
    }
    if lost.contains(&row.tag) {
        return Err("the row is there and listed as lost".to_owned());
    }
    Ok(())
}

/// `removable`: another row may have taken a second unique key.
fn absent(events: &[Event<'_>], removable: bool, lost: &BTreeSet<String>) -> Result<(), String> {
    let Some(newest) = newest(events) else {
        return match events.is_empty() {
            true => Ok(()),
            false => Err("each of its writes is beaten by another".to_owned()),
        };
    };
    let Some(tag) = newest.tag() else {
        return Ok(());
    };
    if removable && lost.contains(tag) {
        return Ok(());
    }
    Err("the row is gone, nobody deleted it and no history lists it as lost".to_owned())
}

/// Row versions that are gone, that nobody has replaced knowingly, and that no history lists.
fn hidden(
    row: Option<&Row>,
    events: &[Event<'_>],
    replaced: &BTreeSet<&str>,
    lost: &BTreeSet<String>,
) -> Option<String> {
    let stands = |tag: &str| row.is_some_and(|row| row.tag == tag);
    let known = |tag: &str| replaced.contains(tag) || lost.contains(tag) || stands(tag);
    // A TRUNCATE reads no rows: its vector tells what was there.
    let truncated = |stamped: &Stamped| {
        let mut gone = events.iter().filter(|e| e.tag().is_none() || e.truncates);
        gone.any(|e| e.stamped.version > stamped.version && e.has_seen(stamped))
    };
    let hidden: Vec<(&str, Version)> = events
        .iter()
        .filter_map(|e| Some((e.tag()?, e.stamped)))
        .filter(|(tag, stamped)| !known(tag) && !truncated(stamped))
        .map(|(tag, stamped)| (tag, stamped.version))
        .collect();
    (!hidden.is_empty()).then(|| format!("gone, and listed nowhere as lost: {hidden:?}"))
}
