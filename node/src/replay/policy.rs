//! Policies at replay: changes of them are written into the local schema, in the transaction that
//! brings them, and the history says which one decided.

use everywrite_conflict::policy::{Aside, Policy};
use everywrite_conflict::{Entry, Kind};

use super::Error;
use super::batch::Batch;
use super::careful::{Context, Decided};
use super::mapping::Mapping;
use super::writer::Writer;

const WAS_SET: &str = "select everywrite.policy_was_set($1, $2, $3, $4, $5, $6, $7, $8)";
const WAS_SET_TYPES: [u32; 8] = [25, 25, 23, 23, 25, 25, 25, 25];

/// Writes what the batch sets into `everywrite.policy_log`, inside the transaction that is open.
pub(super) async fn write(writer: &mut Writer, batch: &Batch) -> Result<(), Error> {
    for policy in &batch.policies {
        let number = policy.number.cast_signed().to_be_bytes();
        let origin = i32::from(batch.origin.0).to_be_bytes();
        let sites: Vec<String> = policy.sites.iter().map(u16::to_string).collect();
        writer
            .bind("policy_was_set", WAS_SET, &WAS_SET_TYPES)
            .binary(Some(policy.schema.as_bytes()))
            .binary(Some(policy.table.as_bytes()))
            .binary(Some(&number))
            .binary(Some(&origin))
            .binary(Some(policy.policy.as_bytes()))
            .binary(Some(policy.kind.as_bytes()))
            .binary(Some(sites.join(",").as_bytes()))
            .binary(Some(policy.options.as_bytes()))
            .execute();
    }
    if !batch.policies.is_empty() {
        writer.run().await?;
    }
    Ok(())
}

/// How many conflicts that a table's policy leaves to a person are among the decisions.
pub(super) fn left(ctx: &Context, mapping: &Mapping, decided: &Decided) -> u64 {
    match ctx.ledger.policy(mapping.identity.relation) {
        Some(policy @ Policy::Stop(_)) => {
            let of = decided.conflicts.of(&mapping.table);
            let left = of.filter(|(kind, _)| policy.stops(*kind));
            left.map(|(_, count)| count).sum()
        }
        _ => 0,
    }
}

/// What becomes of a change that lost against `stored`. A write is merged, or parked, where the write that it
/// lost to was made: at one site.
pub(super) fn aside(
    ctx: &Context,
    mapping: &Mapping,
    kind: Kind,
    row: bool,
    stored: Option<&Entry>,
) -> Result<Option<Aside>, Error> {
    let Some(stored) = stored.filter(|e| e.version.origin == ctx.me && (row || !e.deleted)) else {
        return Ok(None);
    };
    let policy = ctx.ledger.policy(mapping.identity.relation);
    match policy.and_then(|p| p.aside(kind)) {
        Some(Aside::Merge) if !row || stored.deleted => Ok(None),
        Some(Aside::Merge) => match ctx.merging.broken(&mapping.table) {
            Some(reason) => Err(Error::Merging {
                table: mapping.name(),
                reason,
            }),
            None => Ok(Some(Aside::Merge)),
        },
        aside => Ok(aside),
    }
}

/// Whether a row that lost a unique value may wait for a person. It is never merged: the two rows are not one.
pub(super) fn parks(ctx: &Context, mapping: &Mapping) -> bool {
    let policy = ctx.ledger.policy(mapping.identity.relation);
    matches!(policy, Some(Policy::Park(_)))
}

/// Refuses what was decided if more conflicts were met that are left to a person; `before`: what
/// [`left`] said.
pub(super) fn stop(
    ctx: &Context,
    mapping: &Mapping,
    decided: &Decided,
    before: u64,
) -> Result<(), Error> {
    match left(ctx, mapping, decided) {
        now if now > before => Err(Error::Stopped(mapping.name())),
        _ => Ok(()),
    }
}

/// Before entries of the history, if they are about a table that has had a policy.
pub(super) fn decides(writer: &mut Writer, mapping: &Mapping, ranked: bool) {
    if !ranked {
        return;
    }
    let literal = |s: &str| s.replace('\'', "''");
    writer.sql(&format!(
        "select set_config('everywrite.policy', (select p.policy from everywrite.policies p \
         where p.schema_name = '{}' and p.table_name = '{}'), true)",
        literal(&mapping.table.schema),
        literal(&mapping.table.name)
    ));
}

/// Behind them.
pub(super) fn decided(writer: &mut Writer, ranked: bool) {
    if ranked {
        writer.sql("select set_config('everywrite.policy', '', true)");
    }
}
