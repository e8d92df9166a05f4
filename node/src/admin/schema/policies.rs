//! The policies that were set, for the daemon when it starts.

use everywrite_conflict::policy::Epoch;
use everywrite_conflict::{Lsn, NodeId, RelationHash};
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use crate::admin::Error;
use crate::admin::message::SetPolicy;

/// A change of a policy.
#[derive(Clone, Debug)]
pub struct Set {
    /// The site that made it.
    pub origin: NodeId,
    /// What was set.
    pub policy: SetPolicy,
    /// Whether a column-wise one has begun to merge here.
    pub begun: bool,
}

/// Every change of a policy that is committed here. Not those of this
/// site `me` that are behind `captured`: capture meets them, in their place in the stream.
///
/// # Errors
/// A failed statement.
pub async fn policies(client: &Client, me: NodeId, captured: Lsn) -> Result<Vec<Set>, Error> {
    let read = async {
        let rows = client
            .query(
                "select schema_name, table_name, number, origin, policy, kind, sites, options::text, begun_at is not null
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
                Ok(Set {
                    origin: NodeId(u16::try_from(origin).unwrap_or(0)),
                    policy,
                    begun: row.try_get(8)?,
                })
            })
            .collect::<Result<_, tokio_postgres::Error>>()
    };
    read.await.map_err(Error::sql("read everywrite.policy_log"))
}

/// Notes which column-wise policies have begun to merge here.
///
/// # Errors
/// A failed statement; to be called again.
pub async fn policies_begun(client: &Client, begun: &[(RelationHash, Epoch)]) -> Result<(), Error> {
    let note = async {
        for row in client
            .query(
                "select distinct schema_name, table_name from everywrite.policy_log",
                &[],
            )
            .await?
        {
            let (schema, table): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            let relation = RelationHash::new(&schema, &table);
            for (_, epoch) in begun.iter().filter(|(r, _)| *r == relation) {
                client
                    .execute(
                        "update everywrite.policy_log set begun_at = clock_timestamp()
                          where schema_name = $1 and table_name = $2 and number = $3 and origin = $4
                            and begun_at is null",
                        &[
                            &schema,
                            &table,
                            &epoch.number.cast_signed(),
                            &i32::from(epoch.origin.0),
                        ],
                    )
                    .await?;
            }
        }
        Ok(())
    };
    note.await
        .map_err(Error::sql("write everywrite.policy_log"))
}
