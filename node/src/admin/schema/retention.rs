//! How much of the conflict history stays. People call `everywrite.forget_conflicts`; the daemon these
//! statements, which do not look for the place again with every batch.

use std::time::Duration;

use tokio_postgres::Client;

use crate::admin::Error;

/// The id up to which the history goes if only the newest `keep_rows` stay; `None` if it has no more.
/// Reads as many entries of an index as are kept, or a row for each set of them.
///
/// # Errors
/// A failed statement.
pub async fn beyond_newest(client: &Client, keep_rows: i64) -> Result<Option<i64>, Error> {
    let sql = "select everywrite.beyond_newest($1)";
    let row = client.query_one(sql, &[&keep_rows]).await;
    row.and_then(|row| row.try_get(0))
        .map_err(Error::sql("look for old conflict history"))
}

/// Deletes about `at_most` conflicts (what is kept as a set goes as a whole), none that is still open, that are older
/// than `older_than`, or have an id up to `up_to`; returns how many.
///
/// # Errors
/// A failed statement.
pub async fn forget_conflicts(
    client: &Client,
    older_than: Duration,
    up_to: Option<i64>,
    at_most: i64,
) -> Result<u64, Error> {
    let sql = "select everywrite.forget_entries(now() - make_interval(secs => $1), $2, $3)";
    let deleted = client
        .query_one(sql, &[&older_than.as_secs_f64(), &up_to, &at_most])
        .await
        .and_then(|row| row.try_get::<_, i64>(0))
        .map_err(Error::sql("delete old conflict history"))?;
    Ok(u64::try_from(deleted).unwrap_or(0))
}
