//! One operation of the workload on a table that is merged. What it changes it says exactly: differences, and
//! new values, of those columns only that are others afterwards.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use tokio_postgres::Client;

use super::writes::{Cell, Effect, Image, Pending, note, note_truncate};
use super::{COLUMNS, Merge, sets};
use crate::postgres;
use crate::random::Random;
use crate::workload::{Shape, Table};

/// Sets are not let grow longer.
const THINGS: usize = 24;

/// A client about to write a row.
pub(crate) struct Operation<'a> {
    pub client: &'a Client,
    pub table: Table,
    pub key: i64,
    /// Where the row goes if its key is changed.
    pub other: i64,
    /// Of this write, and no other.
    pub tag: String,
    /// 0 to 99: which operation.
    pub dice: u64,
}

impl Operation<'_> {
    /// Does it, and adds what it did.
    pub(crate) async fn run(
        self,
        random: &mut Random,
        pending: &mut Pending,
    ) -> anyhow::Result<()> {
        let name = self.table.name;
        if self.table.truncated > 0 && random.below(1_000) < self.table.truncated {
            let sql = format!("truncate {name}");
            self.client.batch_execute(&sql).await?;
            note_truncate(pending, name);
            return Ok(());
        }
        let done = match self.table.shape {
            Shape::Rows => bail!("{name} is not merged"),
            Shape::Columns => self.columns(random).await?,
            Shape::Things => self.things(random).await?,
        };
        for (key, effect) in done {
            note(pending, name, key, effect);
        }
        Ok(())
    }

    async fn columns(&self, random: &mut Random) -> anyhow::Result<Vec<(i64, Effect)>> {
        let (name, key) = (self.table.name, self.key);
        let update = match self.dice {
            _ if self.table.kept => true,
            0..18 => false,
            18..26 => {
                let sql = format!("delete from {name} where id = {key} returning id");
                let gone = !postgres::rows(self.client, &sql).await?.is_empty();
                return Ok(gone.then_some((key, Effect::Gone)).into_iter().collect());
            }
            26..34 if self.table.moves => return self.move_row().await,
            _ => true,
        };
        if update && let Some(done) = self.update(random).await? {
            return Ok(vec![(key, done)]);
        }
        if self.table.kept {
            bail!("{name} {key} is not there");
        }
        let mut row = Image::new();
        for (column, merge) in COLUMNS {
            let cell = match merge {
                Merge::Tag => Cell::Tag(self.tag.clone()),
                Merge::Set => Cell::Set(sets::first(random, column, &self.tag)),
                _ => Cell::Number(number(random, 1_000)),
            };
            row.insert(column, cell);
        }
        let values: Vec<String> = COLUMNS.iter().map(|(c, _)| sql(c, &row[c])).collect();
        let sql = format!(
            "insert into {name} values ({key}, {}) on conflict do nothing returning id",
            values.join(", ")
        );
        let there = postgres::rows(self.client, &sql).await?.is_empty();
        Ok((!there)
            .then_some((key, Effect::Row(row)))
            .into_iter()
            .collect())
    }

    /// Changes some columns: after a look at the row, under a lock, or without one.
    async fn update(&self, random: &mut Random) -> anyhow::Result<Option<Effect>> {
        let found = match random.percent(70) {
            true => match self.find().await? {
                Some(row) => Some(row),
                None => return Ok(None),
            },
            false => None,
        };
        let (mut image, mut set) = (Image::new(), Vec::new());
        let always = COLUMNS[random.index(5)].0;
        for (column, merge) in COLUMNS {
            if column != always && !random.percent(25) {
                continue;
            }
            let was = match found.as_ref().map(|row| &row[column]) {
                Some(Cell::Number(was)) => Some(*was),
                Some(Cell::Set(was)) => {
                    let changes = sets::change(random, column, was, &self.tag);
                    set.push(format!("{column} = {}", sets::changed(column, &changes)));
                    image.insert(column, Cell::Set(changes));
                    continue;
                }
                _ => None,
            };
            let cell = match (merge, was) {
                (Merge::Tag, _) => Cell::Tag(self.tag.clone()),
                (Merge::Sum, _) => Cell::Number(number(random, 200) - 100),
                (Merge::Raised, Some(was)) => Cell::Number(was + 1 + number(random, 4)),
                (Merge::Lowered, Some(was)) => Cell::Number(was - 1 - number(random, 4)),
                (Merge::Greatest | Merge::Least, Some(_)) => Cell::Number(number(random, 1_000)),
                // Whether it becomes another value cannot be known.
                (Merge::Set, _) | (_, None) => continue,
            };
            match (&cell, was) {
                (Cell::Number(more), Some(was)) if merge == Merge::Sum => {
                    // Whoever writes a value means the difference.
                    if *more == 0 {
                        continue;
                    }
                    set.push(match random.percent(50) {
                        true => format!("{column} = {}", sql(column, &Cell::Number(was + more))),
                        false => format!("{column} = {column} + {}", sql(column, &cell)),
                    });
                }
                (Cell::Number(now), Some(was)) if *now == was => continue,
                (Cell::Number(_), None) => {
                    set.push(format!("{column} = {column} + {}", sql(column, &cell)));
                }
                _ => set.push(format!("{column} = {}", sql(column, &cell))),
            }
            image.insert(column, cell);
        }
        if set.is_empty() {
            set.push(format!("label = '{}'", self.tag));
            image.insert("label", Cell::Tag(self.tag.clone()));
        }
        let whole = self.change(&set.join(", ")).await?;
        if whole.is_none() && found.is_some() {
            bail!("a locked row was not there to be updated");
        }
        let changes = image;
        Ok(whole.map(|whole| Effect::Update { changes, whole }))
    }

    async fn move_row(&self) -> anyhow::Result<Vec<(i64, Effect)>> {
        if self.other == self.key {
            return Ok(Vec::new());
        }
        let Some(mut row) = self.find().await? else {
            return Ok(Vec::new());
        };
        row.insert("label", Cell::Tag(self.tag.clone()));
        let set = format!("id = {}, label = '{}'", self.other, self.tag);
        if self.change(&set).await?.is_none() {
            bail!("a locked row was not there to be moved");
        }
        Ok(vec![
            (self.key, Effect::Gone),
            (self.other, Effect::Row(row)),
        ])
    }

    /// Locks and reads a row that is merged by columns.
    async fn find(&self) -> anyhow::Result<Option<Image>> {
        let names = columns_read();
        let sql = format!(
            "select {names} from {} where id = {} for update",
            self.table.name, self.key
        );
        let rows = postgres::rows(self.client, &sql).await?;
        rows.first().map(|row| image(row)).transpose()
    }

    /// Changes the row, and returns it as it is then.
    async fn change(&self, set: &str) -> anyhow::Result<Option<Image>> {
        let names = columns_read();
        let sql = format!(
            "update {} set {set} where id = {} returning {names}",
            self.table.name, self.key
        );
        let rows = postgres::rows(self.client, &sql).await?;
        rows.first().map(|row| image(row)).transpose()
    }

    async fn things(&self, random: &mut Random) -> anyhow::Result<Vec<(i64, Effect)>> {
        let (name, key, tag) = (self.table.name, self.key, &self.tag);
        let found = format!("select unnest(things) from {name} where id = {key}");
        let lock = format!("select id from {name} where id = {key} for update");
        let there = !postgres::rows(self.client, &lock).await?.is_empty();
        let found = postgres::rows(self.client, &found).await?;
        let found: BTreeSet<String> = found.into_iter().flatten().flatten().collect();
        let one = BTreeSet::from([tag.clone()]);
        let (added, removed, deleted, sql) = if !there {
            let insert = format!(
                "insert into {name} values ({key}, '{{{tag}}}', hashtext('{{{tag}}}')) on conflict do nothing returning id"
            );
            (one, BTreeSet::new(), false, insert)
        } else if !self.table.kept && self.dice < 12 {
            let delete = format!("delete from {name} where id = {key} returning id");
            (BTreeSet::new(), found, true, delete)
        } else {
            let many = found.len() > THINGS;
            let leaves = |random: &mut Random| random.percent(if many { 50 } else { 3 });
            let removed: BTreeSet<String> =
                found.iter().filter(|_| leaves(random)).cloned().collect();
            let now: Vec<String> = (&(&found - &removed) | &one).into_iter().collect();
            let now = format!(
                "array(select unnest('{{{}}}'::text[]) order by 1)",
                now.join(",")
            );
            let update = format!(
                "update {name} set things = {now}, amount = hashtext({now}::text) where id = {key} returning id"
            );
            (one, removed, false, update)
        };
        let done = !postgres::rows(self.client, &sql).await?.is_empty();
        if there && !done {
            bail!("a locked row was not there to be written");
        }
        let effect = Effect::Things {
            added,
            removed,
            deleted,
        };
        Ok(done.then_some((key, effect)).into_iter().collect())
    }
}

fn number(random: &mut Random, below: u64) -> i64 {
    i64::try_from(random.below(below)).unwrap_or(0)
}

/// As SQL; money is counted in hundredths.
fn sql(column: &str, cell: &Cell) -> String {
    match cell {
        Cell::Tag(tag) => format!("'{tag}'"),
        Cell::Number(n) if column == "paid" => format!("({n}) / 100.0"),
        Cell::Number(n) => format!("({n})"),
        Cell::Set(elements) => sets::literal(column, elements),
    }
}

/// The columns as they are read.
pub(super) fn columns_read() -> String {
    let names = COLUMNS.iter().map(|(name, merge)| match (*name, merge) {
        ("paid", _) => "(paid * 100)::bigint".to_owned(),
        (name, Merge::Set) => sets::read(name),
        (name, _) => name.to_owned(),
    });
    names.collect::<Vec<_>>().join(", ")
}

/// A row as it was read.
pub(super) fn image(row: &[Option<String>]) -> anyhow::Result<Image> {
    let mut image = Image::new();
    for ((column, merge), value) in COLUMNS.iter().zip(row) {
        let value = value.clone().with_context(|| format!("{column} is null"))?;
        let cell = match merge {
            Merge::Tag => Cell::Tag(value),
            Merge::Set => Cell::Set(sets::parse(&value)),
            _ => Cell::Number(value.parse().context("a number")?),
        };
        image.insert(column, cell);
    }
    Ok(image)
}
