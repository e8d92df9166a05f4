//! How much of the conflict history stays. People call `everywrite.forget_conflicts`; the daemon these
//! statements, which do not look for the place again with every batch.

use std::time::Duration;

use tokio_postgres::Client;

use crate::admin::Error;

/// The id up to which the history goes if only the newest `keep_rows` stay; `None` if it has no more.
/// Reads as many entries of an index as are kept.
///
/// # Errors
/// A failed statement.
pub async fn beyond_newest(client: &Client, keep_rows: i64) -> Result<Option<i64>, Error> {
    let sql = "select id from everywrite.conflict_history order by id desc offset $1 limit 1";
    let row = client.query_opt(sql, &[&keep_rows]).await;
    row.and_then(|row| row.map(|row| row.try_get(0)).transpose())
        .map_err(Error::sql("look for old conflict history"))
}

/// Deletes up to `at_most` conflicts, none that is still open, that are older than `older_than`, or have an id up to
/// `up_to`; returns how many.
///
/// # Errors
/// A failed statement.
pub async fn forget_conflicts(
    client: &Client,
    older_than: Duration,
    up_to: Option<i64>,
    at_most: i64,
) -> Result<u64, Error> {
    // Each half walks an index from its old end, so a call that finds nothing to do is cheap.
    let sql = "delete from everywrite.conflict_history c where c.id in ( \
             (select old.id from everywrite.conflict_history old \
               where old.decided_at < now() - make_interval(secs => $1) \
                 and (old.decision not in ('merging', 'parked') or old.done_at is not null) \
               order by old.decided_at limit $3) \
             union \
             (select old.id from everywrite.conflict_history old \
               where old.id <= $2 \
                 and (old.decision not in ('merging', 'parked') or old.done_at is not null) \
               order by old.id limit $3) \
             limit $3)";
    client
        .execute(sql, &[&older_than.as_secs_f64(), &up_to, &at_most])
        .await
        .map_err(Error::sql("delete old conflict history"))
}
