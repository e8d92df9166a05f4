//! WAL positions in the answers of a session.

use everywrite_conflict::Lsn;

use crate::pg::pipeline::Outcome;

/// A position in the text form of simple queries; nothing yet if it is NULL.
pub(super) fn lsn_text(outcome: Option<&Outcome>) -> Lsn {
    let cell = outcome
        .and_then(|o| o.rows.first())
        .and_then(|r| r.first())
        .and_then(Option::as_ref);
    let text = cell.and_then(|c| std::str::from_utf8(c).ok());
    text.and_then(|t| t.parse().ok()).unwrap_or(Lsn::ZERO)
}

/// The answer of the last statement, `pg_current_wal_insert_lsn()`.
pub(super) fn wal_position(outcomes: &[Outcome]) -> Lsn {
    let cell = outcomes
        .last()
        .and_then(|o| o.rows.first())
        .and_then(|r| r.first())
        .and_then(|c| c.as_ref());
    cell.and_then(|c| c.as_ref().try_into().ok())
        .map_or(Lsn::ZERO, |b| Lsn(u64::from_be_bytes(b)))
}
