//! Sessions that write what was replayed: everything they write bears a replication origin, so that
//! capture leaves it out.

use super::Error;
use crate::pg::Target;
use crate::pg::pipeline::Session;

/// What a session that applies groups sets besides.
pub(super) const APPLYING: [&str; 3] = [
    "set synchronous_commit = off",
    // Sets are found by index; the planner cannot know how many rows an array has.
    "set plan_cache_mode = force_generic_plan",
    // A plan made while a table is small is used when it has grown.
    "set enable_seqscan = off",
];

/// A session with the replication origin `origin`, which is made if it is missing. An error with code
/// 55006 says that an earlier session still holds it.
pub(super) async fn open(target: &Target, origin: &str) -> Result<Session, Error> {
    let mut session = Session::connect(target, &[]).await?;
    for sql in [
        "set session_replication_role = replica",
        "set search_path = pg_catalog",
        "set row_security = off",
        "set statement_timeout = 0",
        "set lock_timeout = 0",
        "set idle_in_transaction_session_timeout = 0",
        &format!(
            "select pg_replication_origin_create('{origin}') \
             where not exists (select from pg_replication_origin where roname = '{origin}')"
        ),
        &format!("select pg_replication_origin_session_setup('{origin}')"),
    ] {
        session.query_simple(sql).await?;
    }
    Ok(session)
}
