//! When all sites have applied everything of each other, and whether they then hold the same rows.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use everywrite_conflict::{Lsn, NodeId};

use crate::checker::{self, Digest};
use crate::cluster::Site;
use crate::wait;

/// Waits until nothing is under way and all sites hold the same rows in every table. The number of
/// rows; what differs in the end is the error.
pub async fn reached(sites: &[Site], limit: Duration) -> anyhow::Result<u64> {
    let agreed = wait::until("all sites to hold the same rows", limit, async || {
        nothing_under_way(sites).await?;
        let digests = digests(sites).await.map_err(|err| format!("{err:#}"))?;
        // Once more: a delete that has to travel leaves after the row that it removes.
        nothing_under_way(sites).await?;
        checker::same_everywhere(&digests)
    });
    match agreed.await {
        Ok(rows) => Ok(rows),
        Err(err) => {
            let rows = differing_rows(sites).await.unwrap_or_default();
            bail!("{err:#}\n{rows}")
        }
    }
}

/// The end of what has been written at a site.
pub async fn committed(site: &Site) -> anyhow::Result<Lsn> {
    let lsn = site.value("select pg_current_wal_flush_lsn()").await?;
    lsn.parse().context("a WAL position")
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

/// Whether every site's WAL is captured and applied everywhere, by the nodes' own word.
async fn nothing_under_way(sites: &[Site]) -> Result<(), String> {
    let mut ends: BTreeMap<NodeId, Lsn> = BTreeMap::new();
    let mut statuses = Vec::new();
    for site in sites {
        let say = |err: anyhow::Error| format!("{}: {err:#}", site.node.name());
        let committed = committed(site).await.map_err(say)?;
        let status = site.node.status().await.map_err(say)?;
        if status.capture.captured_lsn < committed {
            return Err(format!(
                "{} captured up to {} of {committed}",
                status.name, status.capture.captured_lsn
            ));
        }
        ends.insert(status.node, status.capture.journal_end);
        statuses.push(status);
    }
    for status in &statuses {
        for origin in &status.origins {
            let end = ends.get(&origin.node).copied().unwrap_or_default();
            if origin.applied < end {
                return Err(format!(
                    "{} has applied {} up to {} of {end}: {:?} {:?}",
                    status.name, origin.name, origin.applied, origin.state, origin.reason
                ));
            }
        }
    }
    Ok(())
}

/// A few of the rows that are not the same everywhere.
async fn differing_rows(sites: &[Site]) -> anyhow::Result<String> {
    let digests = digests(sites).await?;
    let mut report = String::new();
    let Some(((first, here), others)) = sites.iter().zip(&digests).next().map(|first| {
        let others = sites.iter().zip(&digests).skip(1);
        (first, others)
    }) else {
        return Ok(report);
    };
    for (other, there) in others {
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
