//! Who the sites are, and what people asked for: paused peers, skipped transactions.

use std::collections::BTreeSet;

use everywrite_conflict::{Lsn, NodeId, Position};
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use crate::admin::Error;

/// One member of the cluster, as `everywrite.nodes` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its number.
    pub node: NodeId,
    /// Its name, unique among the members.
    pub name: String,
    /// Where its daemon is reached by the others; empty if nobody dials it.
    pub address: String,
}

/// Makes `everywrite.nodes` say that the members are `sites` and that this one is `me`.
/// Former members stay, with the time when they were last seen as such.
///
/// # Errors
/// A failed statement; nothing is changed then.
pub async fn register_nodes(client: &Client, me: NodeId, sites: &[Site]) -> Result<(), Error> {
    let ids: Vec<i32> = sites.iter().map(|s| i32::from(s.node.0)).collect();
    let names: Vec<&str> = sites.iter().map(|s| s.name.as_str()).collect();
    let addresses: Vec<&str> = sites.iter().map(|s| s.address.as_str()).collect();
    // Two steps: unique names are checked row by row, so names that moved must be free first.
    // An exchange of names between two members passes through `left_at` for the same reason.
    let run = async {
        client.batch_execute("begin").await?;
        client
            .execute(
                "update everywrite.nodes n set left_at = coalesce(left_at, clock_timestamp()), local = false
                  where (left_at is null or local) and not exists (
                      select from unnest($1::integer[], $2::text[]) as s (id, name)
                       where s.id = n.id and s.name = n.name and (s.id = $3) = n.local)",
                &[&ids, &names, &i32::from(me.0)],
            )
            .await?;
        client
            .execute(
                "insert into everywrite.nodes as n (id, name, address, local)
                 select s.id, s.name, s.address, s.id = $4
                   from unnest($1::integer[], $2::text[], $3::text[]) as s (id, name, address)
                 on conflict (id) do update
                    set name = excluded.name, address = excluded.address,
                        local = excluded.local, left_at = null
                  where (n.name, n.address, n.local, n.left_at)
                        is distinct from
                        (excluded.name, excluded.address, excluded.local, null::timestamptz)",
                &[&ids, &names, &addresses, &i32::from(me.0)],
            )
            .await?;
        client.batch_execute("commit").await
    };
    let outcome = run.await.map_err(Error::sql("write everywrite.nodes"));
    if outcome.is_err() {
        // The session may be gone; then the server has rolled back by itself.
        let _ = client.batch_execute("rollback").await;
    }
    outcome
}

/// The peers that a person paused and that are still members.
///
/// # Errors
/// A failed statement.
pub async fn paused(client: &Client) -> Result<BTreeSet<NodeId>, Error> {
    let read = async {
        let rows = client
            .query(
                "select n.id from everywrite.paused p
                   join everywrite.nodes n on n.name = p.peer and n.left_at is null",
                &[],
            )
            .await?;
        rows.iter()
            .map(|row| Ok(node_id(row.try_get(0)?)))
            .collect::<Result<_, tokio_postgres::Error>>()
    };
    read.await.map_err(Error::sql("read everywrite.paused"))
}

/// The transactions that a person decided not to apply here.
///
/// # Errors
/// A failed statement.
pub async fn skipped(client: &Client) -> Result<Vec<Position>, Error> {
    let read = async {
        let rows = client
            .query(
                "select origin, lsn from everywrite.skipped order by origin, lsn",
                &[],
            )
            .await?;
        rows.iter()
            .map(|row| {
                let lsn: PgLsn = row.try_get(1)?;
                Ok(Position {
                    origin: node_id(row.try_get(0)?),
                    lsn: Lsn(lsn.into()),
                })
            })
            .collect::<Result<_, tokio_postgres::Error>>()
    };
    read.await.map_err(Error::sql("read everywrite.skipped"))
}

/// The tables hold 1 to 65,535; anything else was put there by hand and names nobody.
fn node_id(stored: i32) -> NodeId {
    NodeId(u16::try_from(stored).unwrap_or(0))
}
