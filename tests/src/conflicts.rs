//! What a site's conflict history (`everywrite.conflicts`) says.

use anyhow::{Context, bail};
use serde_json::Value;
use tokio_postgres::Client;

use crate::checker::Listed;
use crate::postgres;

/// One decision.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// The site that decided, when, and where the local write stands in its stream.
    pub decided: String,
    /// `update_origin_differs` and so on.
    pub kind: String,
    /// What was done.
    pub decision: String,
    /// What became of what was parked or to be merged.
    pub done: Option<String>,
    /// The table, with its schema.
    pub table: String,
    /// The row that was there.
    pub local: Side,
    /// The row that came.
    pub incoming: Side,
}

/// One of the two that met.
#[derive(Clone, Debug)]
pub struct Side {
    /// The row; none for a delete, or if there was none.
    pub row: Option<Value>,
    /// The name of the site that wrote it.
    pub site: Option<String>,
    /// Its version: stamp (Unix microseconds) and origin.
    pub version: Option<(i64, i64)>,
}

impl Side {
    /// A column of the row, as text.
    pub fn column(&self, name: &str) -> Option<String> {
        match self.row.as_ref()?.get(name)? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

impl Conflict {
    /// Whether the incoming change was applied (and the local row lost).
    pub fn applied(&self) -> bool {
        self.decision.starts_with("applied")
    }

    /// Whether the incoming change waits for a person, or did until one decided.
    pub fn is_parked(&self) -> bool {
        let by_a_person = |done| matches!(done, "retried" | "discarded");
        self.decision == "parked" && self.done.as_deref().is_none_or(by_a_person)
    }

    /// The one that stayed.
    pub fn winner(&self) -> &Side {
        if self.applied() {
            &self.incoming
        } else {
            &self.local
        }
    }

    /// The one that went.
    pub fn loser(&self) -> &Side {
        if self.applied() {
            &self.local
        } else {
            &self.incoming
        }
    }

    /// What is wrong with it by itself: the winner's version must be the higher one.
    pub fn contradiction(&self) -> Option<String> {
        let (winner, loser) = (self.winner().version?, self.loser().version?);
        (winner < loser).then(|| format!("the lower version won: {self:?}"))
    }
}

/// Everything decided at a site, oldest first.
pub async fn conflicts(client: &Client) -> anyhow::Result<Vec<Conflict>> {
    conflicts_without(client, "").await
}

/// The same, with one column of the rows (a large one) left out.
pub async fn conflicts_without(client: &Client, column: &str) -> anyhow::Result<Vec<Conflict>> {
    let sql = format!(
        "select concat(c.decided_by, ' ', c.decided_at, ', local ', c.local_position), \
          c.kind, c.decision, c.done, c.\"table\", \
         c.local_row - '{column}', c.local_site, extract(epoch from c.local_written_at) * 1000000, h.local_origin, \
         c.incoming_row - '{column}', c.incoming_site, extract(epoch from c.incoming_written_at) * 1000000, \
         h.incoming_origin \
         from everywrite.conflicts c join everywrite.conflict_entries h using (id) order by id"
    );
    let rows = postgres::rows(client, &sql).await?;
    rows.iter().map(|row| read(row)).collect()
}

fn read(row: &[Option<String>]) -> anyhow::Result<Conflict> {
    let [
        Some(decided),
        Some(kind),
        Some(decision),
        done,
        Some(table),
        sides @ ..,
    ] = row
    else {
        bail!("an unexpected conflict: {row:?}");
    };
    let Some((local, incoming)) = sides.split_at_checked(4) else {
        bail!("an unexpected conflict: {row:?}");
    };
    Ok(Conflict {
        decided: decided.clone(),
        kind: kind.clone(),
        decision: decision.clone(),
        done: done.clone(),
        table: table.clone(),
        local: side(local)?,
        incoming: side(incoming)?,
    })
}

fn side(columns: &[Option<String>]) -> anyhow::Result<Side> {
    let [row, site, stamp, origin] = columns else {
        bail!("an unexpected side of a conflict: {columns:?}");
    };
    let row = row.as_deref().map(serde_json::from_str).transpose();
    let whole = |text: &String| text.split('.').next()?.parse().ok();
    Ok(Side {
        row: row.context("a row of the conflict history")?,
        site: site.clone(),
        version: stamp
            .as_ref()
            .and_then(whole)
            .zip(origin.as_ref().and_then(whole)),
    })
}

/// The tags of a workload's rows that these histories list.
pub fn listed_tags(conflicts: &[Conflict]) -> Listed {
    let tags = |of: &dyn Fn(&&Conflict) -> bool| {
        let losers = conflicts
            .iter()
            .filter(|c| c.winner().column("tag") != c.loser().column("tag"));
        let losers = losers.filter(of).map(Conflict::loser);
        losers.filter_map(|side| side.column("tag")).collect()
    };
    Listed {
        lost: tags(&|_| true),
        parked: tags(&|c| c.is_parked()),
    }
}
