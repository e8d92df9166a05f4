//! Policies in the stream: a row of `everywrite.policy_log` becomes a message that travels, and the
//! changes of tables with a policy get their ranks.

use bytes::{BufMut, Bytes, BytesMut};
use everywrite_conflict::{NodeId, Position};

use crate::admin::message::{PREFIX, SetPolicy, WalMessage};
use crate::journal::columns::Columns;
use crate::journal::ranks::Ranks;
use crate::pg::pgoutput::{Cell, OwnedRelation, Tuple};
use crate::settle::Ledger;

/// What a row of `everywrite.policy_log` says; `None` if it is not such a row.
pub(super) fn of_row(relation: &OwnedRelation, row: &Tuple<'_>) -> Option<SetPolicy> {
    let cells: Vec<Cell<'_>> = row.iter().collect();
    let bytes = |name: &str| {
        let at = relation.columns.iter().position(|c| c.name == name)?;
        match cells.get(at)? {
            Cell::Binary(bytes) | Cell::Text(bytes) => Some(*bytes),
            _ => None,
        }
    };
    let text = |name: &str| Some(std::str::from_utf8(bytes(name)?).ok()?.to_owned());
    // The binary form of jsonb is a version byte and the text.
    let options = text("options")?;
    let options = options.trim_start_matches('\u{1}').to_owned();
    let sites = text("sites")?;
    let sites = sites.split(',').filter(|s| !s.is_empty());
    let policy = SetPolicy {
        schema: text("schema_name")?,
        table: text("table_name")?,
        number: u32::from_be_bytes(bytes("number")?.try_into().ok()?),
        policy: text("policy")?,
        kind: text("kind")?,
        sites: sites.map(|s| s.parse().ok()).collect::<Option<_>>()?,
        options,
    };
    policy.setting(NodeId(0)).is_some().then_some(policy)
}

/// The change that carries it, as pgoutput writes a message, without an xid.
pub(super) fn message(policy: &SetPolicy) -> Bytes {
    let content = WalMessage::Policy(policy.clone()).encode();
    let content = content.unwrap_or_default();
    let mut out = BytesMut::new();
    out.put_u8(b'M');
    out.put_u8(1); // transactional
    out.put_u64(0); // its place in the WAL, which nobody asks for
    out.put_slice(PREFIX.as_bytes());
    out.put_u8(0);
    out.put_u32(u32::try_from(content.len()).unwrap_or(u32::MAX));
    out.put_slice(&content);
    out.freeze()
}

/// From here on what is captured is under it.
pub(super) fn set(policy: &SetPolicy, at: Position, ledger: &Ledger) {
    if let Some(setting) = policy.setting(at.origin) {
        tracing::info!(
            table = format!("{}.{}", policy.schema, policy.table),
            policy = policy.policy,
            "a policy was set"
        );
        ledger.set_policy(setting, Some([(at.origin, at.lsn)].into_iter().collect()));
    }
}

/// The changes with their ranks before them.
pub(super) fn with_ranks(ranks: &Ranks, changes: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(changes.len() + 64);
    ranks.encode(&mut out);
    out.put_slice(changes);
    out
}

/// The changes with what says how they are merged before them.
pub(super) fn with_columns(columns: &Columns, changes: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(changes.len() + 64);
    columns.encode(&mut out);
    out.put_slice(changes);
    out
}
