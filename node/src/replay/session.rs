//! Sessions that write what was replayed: everything they write bears a replication origin, so that
//! capture leaves it out.

use everywrite_conflict::Lsn;

use super::Error;
use super::wal_position::lsn_text;
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

/// Takes a megabyte and gives it back. From then on glibc's malloc keeps up to two of free memory at the end of the heap
/// (M_MMAP_THRESHOLD in mallopt(3): it follows the largest block that was freed, M_TRIM_THRESHOLD is twice that). With its
/// 128 kB at start a server process gives memory back at the end of each statement of a group and asks
/// for it again in the next one: a ninth of its time in these system calls, and page faults besides.
const KEEP_MEMORY: &str = "select length(repeat(' ', 1048576))";

/// A session with the replication origin `origin`, which is made if it is missing. An error with code
/// 55006 says that an earlier session still holds it.
pub(super) async fn open(target: &Target, origin: &str) -> Result<Session, Error> {
    let mut session = connect(target).await?;
    bear(&mut session, origin).await?;
    Ok(session)
}

/// A session that bears no origin yet.
pub(super) async fn connect(target: &Target) -> Result<Session, Error> {
    let mut session = Session::connect(target, &[]).await?;
    for sql in [
        "set session_replication_role = replica",
        "set search_path = pg_catalog",
        "set row_security = off",
        "set statement_timeout = 0",
        "set lock_timeout = 0",
        "set idle_in_transaction_session_timeout = 0",
        KEEP_MEMORY,
    ] {
        session.query_simple(sql).await?;
    }
    Ok(session)
}

/// What the session writes bears the replication origin from now on.
pub(super) async fn bear(session: &mut Session, origin: &str) -> Result<(), Error> {
    for sql in [
        &format!(
            "select pg_replication_origin_create('{origin}') \
             where not exists (select from pg_replication_origin where roname = '{origin}')"
        ),
        &format!("select pg_replication_origin_session_setup('{origin}')"),
    ] {
        session.query_simple(sql).await?;
    }
    Ok(())
}

/// The progress of the origin that the session bears, flushed.
pub(super) async fn progress(session: &mut Session) -> Result<Lsn, Error> {
    let sql = "select pg_replication_origin_session_progress(true)";
    Ok(lsn_text(session.query_simple(sql).await?.first()))
}

/// The progress of an origin that nobody bears afterwards, flushed: whoever had it before has ended. An error with code
/// 55006 says that an earlier session still holds it. The session must not bear one yet.
pub(super) async fn progress_of_none(session: &mut Session, origin: &str) -> Result<Lsn, Error> {
    let there = format!("select 1 from pg_replication_origin where roname = '{origin}'");
    let there = session.query_simple(&there).await?;
    if there.first().is_none_or(|outcome| outcome.rows.is_empty()) {
        return Ok(Lsn::ZERO);
    }
    let sql = format!("select pg_replication_origin_session_setup('{origin}')");
    match session.query_simple(&sql).await {
        // The server has no room for its progress, so it has none, and nobody bears it.
        Err(error) if error.code() == Some(NO_ROOM) => return Ok(Lsn::ZERO),
        outcome => outcome?,
    };
    let progress = progress(session).await?;
    let sql = "select pg_replication_origin_session_reset()";
    session.query_simple(sql).await?;
    Ok(progress)
}

/// `configuration_limit_exceeded`
const NO_ROOM: &str = "53400";
/// `insufficient_privilege`
const NOT_ALLOWED: &str = "42501";

/// Whether the server has room for the progress of two origins for each of `peers`, and of the one that repairs have.
pub(super) async fn has_room(session: &mut Session, peers: usize) -> Result<bool, Error> {
    let wanted = 2 * peers + 1;
    let sql = format!(
        "select {wanted} <= coalesce(current_setting('max_active_replication_origins', true), \
                                     current_setting('max_replication_slots'))::int \
            - (select count(*) from pg_show_replication_origin_status() s \
                where s.external_id is null or s.external_id not like 'everywrite\\_%')"
    );
    let answer = match session.query_simple(&sql).await {
        // The role may not see it.
        Err(error) if error.code() == Some(NOT_ALLOWED) => return Ok(false),
        answer => answer?,
    };
    let cell = answer
        .first()
        .and_then(|o| o.rows.first())
        .and_then(|row| row.first())
        .and_then(Option::as_ref);
    Ok(cell.is_some_and(|cell| cell.as_ref() == b"t"))
}
