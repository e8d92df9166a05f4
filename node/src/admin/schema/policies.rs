//! The policies that were set, for the daemon when it starts.

use everywrite_conflict::{Lsn, NodeId};
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use crate::admin::Error;
use crate::admin::message::SetPolicy;

/// Every change of a policy that is committed here, with the site that made it. Not those of this
/// site `me` that are behind `captured`: capture meets them, in their place in the stream.
///
/// # Errors
/// A failed statement.
pub async fn policies(
    client: &Client,
    me: NodeId,
    captured: Lsn,
) -> Result<Vec<(NodeId, SetPolicy)>, Error> {
    let read = async {
        let rows = client
            .query(
                "select schema_name, table_name, number, origin, policy, kind, sites, options::text
                   from everywrite.policy_log
                  where origin <> $1 or lsn is null or lsn < $2",
                &[&i32::from(me.0), &PgLsn::from(captured.0)],
            )
            .await?;
        rows.iter()
            .map(|row| {
                let (number, origin): (i32, i32) = (row.try_get(2)?, row.try_get(3)?);
                let sites: String = row.try_get(6)?;
                let policy = SetPolicy {
                    schema: row.try_get(0)?,
                    table: row.try_get(1)?,
                    number: number.unsigned_abs(),
                    policy: row.try_get(4)?,
                    kind: row.try_get(5)?,
                    sites: sites.split(',').filter_map(|s| s.parse().ok()).collect(),
                    options: row.try_get(7)?,
                };
                Ok((NodeId(u16::try_from(origin).unwrap_or(0)), policy))
            })
            .collect::<Result<_, tokio_postgres::Error>>()
    };
    read.await.map_err(Error::sql("read everywrite.policy_log"))
}
