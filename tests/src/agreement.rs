//! When all sites have applied everything of each other, and whether they then hold the same rows.
//!
//! Each round leaves a mark behind everything that a site has committed (`everywrite.last_commit()`,
//! which makes a transaction behind that place travel), waits until every other site has applied that
//! place, and compares. A delete that has to travel leaves after the row that it removes, so a round
//! that finds a difference is followed by another one.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use everywrite_conflict::Lsn;
use everywrite_node::telemetry::OriginStatus;

use crate::checker::{self, Digest};
use crate::cluster::Site;
use crate::wait;

/// Waits until every site has applied what every other one has committed, and all hold the same rows
/// in every table. The number of rows; what differs in the end is the error.
pub async fn reached(sites: &[Site], limit: Duration) -> anyhow::Result<u64> {
    let begin = Instant::now();
    let mut difference = None;
    loop {
        let left = limit.saturating_sub(begin.elapsed());
        let outcome = match round(sites, left).await {
            Ok(Ok(rows)) => return Ok(rows),
            Ok(Err(found)) => {
                difference = Some(found.clone());
                found
            }
            Err(err) => format!("{err:#}"),
        };
        if begin.elapsed() < limit {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        // The last round has no time left: what the last whole one has found says more.
        let reason = difference.unwrap_or(outcome);
        let rows = differing_rows(sites).await.unwrap_or_default();
        bail!("the sites do not agree after {limit:?}: {reason}\n{rows}");
    }
}

async fn round(sites: &[Site], limit: Duration) -> anyhow::Result<Result<u64, String>> {
    let begin = Instant::now();
    for origin in sites {
        let place = mark(origin, limit.saturating_sub(begin.elapsed())).await?;
        for reader in sites.iter().filter(|s| s.node.id() != origin.node.id()) {
            applied(reader, origin, place, limit.saturating_sub(begin.elapsed())).await?;
        }
    }
    Ok(checker::same_everywhere(&digests(sites).await?))
}

/// A place behind all that a site has committed until now. Waits for a server that is not up yet.
pub async fn mark(site: &Site, limit: Duration) -> anyhow::Result<Lsn> {
    let what = format!("a mark at {}", site.node.name());
    wait::until(&what, limit, async || {
        let place = site.value("select everywrite.last_commit()").await;
        let place = place.map_err(|err| format!("{err:#}"))?;
        place.parse().map_err(|_| format!("not a place: {place}"))
    })
    .await
}

/// Waits until `reader` has applied `origin` up to `place`.
pub async fn applied(
    reader: &Site,
    origin: &Site,
    place: Lsn,
    limit: Duration,
) -> anyhow::Result<()> {
    until(reader, origin, place, limit, |stream| stream.applied).await
}

/// Waits until `reader` has received `origin` up to `place`, applied or not.
pub async fn received(
    reader: &Site,
    origin: &Site,
    place: Lsn,
    limit: Duration,
) -> anyhow::Result<()> {
    until(reader, origin, place, limit, |stream| stream.journal_end).await
}

async fn until(
    reader: &Site,
    origin: &Site,
    place: Lsn,
    limit: Duration,
    reached: impl Fn(&OriginStatus) -> Lsn,
) -> anyhow::Result<()> {
    let names = (origin.node.name(), reader.node.name());
    let what = format!("{} up to {place} at {}", names.0, names.1);
    wait::until(&what, limit, async || {
        let stream = reader.origin(origin).await;
        let stream = stream.map_err(|err| format!("{err:#}"))?;
        if reached(&stream) >= place {
            return Ok(());
        }
        Err(format!(
            "applied {} of {}, {:?} {}",
            stream.applied,
            stream.origin_end,
            stream.state,
            stream.reason.unwrap_or_default()
        ))
    })
    .await
}

/// Each site's digest of each table.
async fn digests(sites: &[Site]) -> anyhow::Result<Vec<Digest>> {
    let mut digests = Vec::new();
    for site in sites {
        let client = site.sql().await?;
        digests.push(checker::digest(site.node.name(), &client).await?);
    }
    Ok(digests)
}

/// A few of the rows that are not the same everywhere.
async fn differing_rows(sites: &[Site]) -> anyhow::Result<String> {
    let digests = digests(sites).await?;
    let mut pairs = sites.iter().zip(&digests);
    let (first, here) = pairs.next().context("no sites")?;
    let mut report = String::new();
    for (other, there) in pairs {
        for (table, digest) in &here.tables {
            if there.tables.get(table).is_none_or(|d| d == digest) {
                continue;
            }
            let names = (first.node.name(), other.node.name());
            report.push_str(&format!(
                "{table} at {} (<) and {} (>):\n",
                names.0, names.1
            ));
            let (one, two) = (first.sql().await?, other.sql().await?);
            for row in checker::differing_rows(table, &one, &two, 10).await? {
                report.push_str(&format!("  {row}\n"));
            }
        }
    }
    Ok(report)
}
