//! Entries that differ in their rows and places only: one row of `everywrite.conflict_sets`.

use everywrite_conflict::{Kind, NodeId};

use super::{Entry, Fact, Outcome, Shape};
use crate::pg::oid::{
    BOOL, INT4, INT8, INT8_ARRAY, LSN, LSN_ARRAY, TEXT, TIMESTAMPTZ, TIMESTAMPTZ_ARRAY, XID,
};
use crate::pg::pipeline::{Array, Bind};
use crate::pg::quote::literal;
use crate::replay::image::Image;
use crate::replay::mapping::Mapping;

/// Most entries of a set. More would save nothing, and who looks at one entry reads all of its set.
pub(in crate::replay) const ROWS: usize = 128;

/// What the entries of a set have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::replay) struct Common {
    delete: bool,
    kind: Kind,
    outcome: Outcome,
    local: Option<NodeId>,
    local_place: Option<NodeId>,
    incoming: NodeId,
    incoming_place: NodeId,
    names_local: bool,
    unlocked: Option<u32>,
}

impl Common {
    /// Whether the entries are deletes.
    pub(in crate::replay) const fn is_delete(&self) -> bool {
        self.delete
    }

    /// Of types of which a set has arrays, and the rows whole; what is open is a row by itself.
    fn of(mapping: &Mapping, entry: &Entry<'_>) -> Option<Self> {
        let plain = |image: &Image| !image.has_text() && !image.incomplete();
        let fits = mapping.sets
            && !matches!(entry.outcome, Outcome::Aside(_))
            && !entry.local_key.has_text()
            && (entry.row).map_or_else(|| !entry.key.has_text(), plain);
        fits.then(|| Common {
            delete: entry.row.is_none(),
            kind: entry.kind,
            outcome: entry.outcome,
            local: entry.local.map(|l| l.version.origin),
            local_place: entry.local.and_then(|l| l.source).map(|p| p.origin),
            incoming: entry.version.origin,
            incoming_place: entry.position.origin,
            names_local: entry.names_local,
            unlocked: entry.unlocked,
        })
    }

    /// In the order of [`SCALARS`].
    fn facts(self) -> [Fact; 8] {
        [
            Fact::Text(self.kind.as_str()),
            Fact::Text(self.outcome.as_str()),
            Fact::node(self.local),
            Fact::node(self.local_place),
            Fact::node(Some(self.incoming)),
            Fact::node(Some(self.incoming_place)),
            Fact::Bool(self.names_local),
            self.unlocked
                .map_or(Fact::Null, |xid| Fact::Int4(xid.to_be_bytes())),
        ]
    }
}

/// Entries that can be written together, in the order given, with what they have in common.
type Alike<'e, 'a> = (Option<Common>, Vec<&'e Entry<'a>>);

/// Finds what can be written together. Where nothing is in common, the entry is alone.
pub(in crate::replay) fn sets<'e, 'a>(
    mapping: &Mapping,
    entries: &'e [Entry<'a>],
) -> Vec<Alike<'e, 'a>> {
    let mut sets: Vec<Alike<'_, '_>> = Vec::new();
    let mut last = 0;
    for entry in entries {
        let common = Common::of(mapping, entry);
        // There are few of them, and mostly the next entry belongs to the one before.
        let same = |s: &Alike<'_, '_>| common.is_some() && s.0 == common;
        let found = match sets.get(last) {
            Some(set) if same(set) => Some(last),
            _ => sets.iter().position(same),
        };
        last = found.unwrap_or(sets.len());
        match sets.get_mut(last) {
            Some((_, set)) => set.push(entry),
            None => sets.push((common, vec![entry])),
        }
    }
    sets
}

/// What a set says once: kind, decision; origin of the local row and of its place, the same of the
/// incoming one; whether the local key names the entry; up to which transaction id the local row is looked at.
const SCALARS: [u32; 8] = [TEXT, TEXT, INT4, INT4, INT4, INT4, BOOL, XID];

/// Element and array types of what it says of each entry: stamp and position of the local row, of the
/// incoming one, the incoming transaction's id.
const ARRAYS: [(u32, u32); 5] = [
    (TIMESTAMPTZ, TIMESTAMPTZ_ARRAY),
    (LSN, LSN_ARRAY),
    (TIMESTAMPTZ, TIMESTAMPTZ_ARRAY),
    (LSN, LSN_ARRAY),
    (INT8, INT8_ARRAY),
];

/// The parameters behind those of the rows: see [`sql`].
pub(in crate::replay) fn bind<'b>(
    bind: Bind<'b>,
    common: Common,
    entries: &[&Entry<'_>],
) -> Bind<'b> {
    let facts = common.facts();
    let bind = facts.iter().fold(bind, |bind, f| bind.binary(f.bytes()));
    let mut arrays = ARRAYS.map(|(element, _)| Array::new(element, entries.len()));
    for entry in entries {
        let source = entry.local.and_then(|l| l.source);
        let facts = [
            Fact::stamp(entry.local.map(|l| l.version)),
            Fact::lsn(source),
            Fact::stamp(Some(entry.version)),
            Fact::lsn(Some(entry.position)),
            Fact::Int8(i64::from(entry.xid).to_be_bytes()),
        ];
        for (array, fact) in arrays.iter_mut().zip(facts) {
            array.push(fact.bytes());
        }
    }
    arrays.into_iter().fold(bind, Bind::array)
}

/// Writes a set. Parameters are arrays of the incoming rows' cells (those of their keys for deletes) and of the
/// local rows' keys, then what is said once, then the other arrays.
pub(in crate::replay) fn sql(mapping: &Mapping, delete: bool) -> (String, Vec<u32>) {
    let shape = Shape::new(mapping, delete, &[]);
    let row = shape.row.iter().map(|i| format!("r{i}"));
    let key = shape.key.iter().map(|i| format!("k{i}"));
    let names: Vec<String> = row.chain(key).collect();
    let params: Vec<String> = (1..=names.len()).map(|n| format!("${n}")).collect();
    let said = |n: usize| format!("${}", names.len() + n);
    // Aggregates keep the order of the arrays, so that those that are stored as they come belong to them.
    let text = format!(
        "with written as (insert into everywrite.conflict_sets (last_id, entries, site, schema_name, table_name, \
         kind, decision, local_origin, local_position_origin, incoming_origin, incoming_position_origin, \
         ids, keys, local_rows, incoming_rows, \
         local_stamps, local_position_lsns, incoming_stamps, incoming_position_lsns, incoming_xids) \
         select s.ids[s.entries], s.entries, (select n.id from everywrite.nodes n where n.local), {schema}, {table}, \
         {kind}, {decision}, {local}, {local_place}, {incoming}, {incoming_place}, \
         s.ids, s.keys, s.local_rows, s.incoming_rows, {} \
         from (select pg_catalog.array_agg(pg_catalog.nextval('everywrite.conflict_history_id_seq')) as ids, \
         pg_catalog.count(*)::integer as entries, \
         pg_catalog.array_agg(case when {names_local} then {by_local} else {by_incoming} end) as keys, \
         pg_catalog.array_agg({local_row}) as local_rows, pg_catalog.array_agg({incoming_row}) as incoming_rows \
         from unnest({}) as u({})) s returning ids, site, decision, local_origin) \
         select everywrite.tell_lost(ids) from written where decision = 'applied' and local_origin = site",
        (SCALARS.len() + 1..=SCALARS.len() + ARRAYS.len())
            .map(said)
            .collect::<Vec<_>>()
            .join(", "),
        params.join(", "),
        names.join(", "),
        schema = literal(&mapping.table.schema),
        table = literal(&mapping.table.name),
        kind = said(1),
        decision = said(2),
        local = said(3),
        local_place = said(4),
        incoming = said(5),
        incoming_place = said(6),
        names_local = said(7),
        by_local = shape.key_object("k"),
        by_incoming = shape.key_object("r"),
        local_row = shape.local_row(&said(8)),
        incoming_row = shape.incoming_row(),
    );
    let mut types: Vec<u32> = shape.cells().map(|i| mapping.array(i)).collect();
    types.extend(SCALARS);
    types.extend(ARRAYS.map(|(_, array)| array));
    (text, types)
}
