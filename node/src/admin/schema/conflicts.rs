//! The conflict history as replay writes it: any number of decisions in one statement.

use bytes::{BufMut, Bytes, BytesMut};
use everywrite_conflict::{NodeId, Position, Version};

/// Inserts N decisions. `$1` (int4) is this site; `$2` … `$16` are arrays of equal length, one
/// element a decision, types in [`INSERT_CONFLICTS_TYPES`], in this order: schema, table, key,
/// kind, decision, local row, incoming row, local stamp, local origin, incoming stamp, incoming
/// origin, positions (local origin, local LSN, incoming origin, incoming LSN), local xid,
/// incoming xid, policy.
///
/// Keys and rows travel as text in JSON, which is what `to_jsonb(t)::text` gives.
pub const INSERT_CONFLICTS: &str = "insert into everywrite.conflict_history ( \
         site, schema_name, table_name, key, kind, decision, local_row, incoming_row, \
         local_stamp, local_origin, incoming_stamp, incoming_origin, \
         local_position_origin, local_position_lsn, \
         incoming_position_origin, incoming_position_lsn, local_xid, incoming_xid, policy) \
     select $1, c.schema_name, c.table_name, c.key::jsonb, c.kind, c.decision, \
            c.local_row::jsonb, c.incoming_row::jsonb, \
            c.local_stamp, c.local_origin, c.incoming_stamp, c.incoming_origin, \
            c.local_position_origin, c.local_position_lsn, \
            c.incoming_position_origin, c.incoming_position_lsn, c.local_xid, c.incoming_xid, \
            c.policy \
       from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], \
                   $8::text[], $9::timestamptz[], $10::int4[], $11::timestamptz[], $12::int4[], \
                   $13::int4[], $14::pg_lsn[], $15::int4[], $16::pg_lsn[], $17::int8[], \
                   $18::int8[], $19::text[]) \
         as c (schema_name, table_name, key, kind, decision, local_row, incoming_row, \
               local_stamp, local_origin, incoming_stamp, incoming_origin, \
               local_position_origin, local_position_lsn, \
               incoming_position_origin, incoming_position_lsn, local_xid, incoming_xid, policy)";

const INT4: u32 = 23;
const INT8: u32 = 20;
const TEXT: u32 = 25;
const TIMESTAMPTZ: u32 = 1184;
const PG_LSN: u32 = 3220;

/// The element type of each array parameter, in order.
const ELEMENTS: [u32; 18] = [
    TEXT,
    TEXT,
    TEXT,
    TEXT,
    TEXT,
    TEXT,
    TEXT,
    TIMESTAMPTZ,
    INT4,
    TIMESTAMPTZ,
    INT4,
    INT4,
    PG_LSN,
    INT4,
    PG_LSN,
    INT8,
    INT8,
    TEXT,
];

/// The parameter types of [`INSERT_CONFLICTS`]: `int4`, then arrays.
pub const INSERT_CONFLICTS_TYPES: [u32; 19] = [
    INT4, 1009, 1009, 1009, 1009, 1009, 1009, 1009, 1185, 1007, 1185, 1007, 1007, 3221, 1007, 3221,
    1016, 1016, 1009,
];

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict<'a> {
    /// The table's schema.
    pub schema: &'a str,
    /// The table.
    pub table: &'a str,
    /// The row's key, a JSON object.
    pub key: Option<&'a str>,
    /// `update_exists` and so on.
    pub kind: &'a str,
    /// "applied", "kept local", …
    pub decision: &'a str,
    /// The policy that decided, `last_update_wins`.
    pub policy: &'a str,
    /// The row here before the decision, a JSON object; `None` if there was none.
    pub local_row: Option<&'a str>,
    /// The row that came, a JSON object; `None` for a delete.
    pub incoming_row: Option<&'a str>,
    /// The local row's version, if one was known.
    pub local: Option<Version>,
    /// The version that came.
    pub incoming: Option<Version>,
    /// The transaction that wrote the local row, if known.
    pub local_position: Option<Position>,
    /// The transaction that came.
    pub incoming_position: Option<Position>,
    /// The local row's transaction id here (`xmin`).
    pub local_xid: Option<u32>,
    /// The transaction id at the origin.
    pub incoming_xid: Option<u32>,
}

/// Gathers decisions and gives the binary parameters of [`INSERT_CONFLICTS`].
#[derive(Debug)]
pub struct ConflictRows {
    site: NodeId,
    rows: i32,
    columns: [BytesMut; ELEMENTS.len()],
}

impl ConflictRows {
    /// No decisions yet, made at `site`.
    pub fn new(site: NodeId) -> Self {
        ConflictRows {
            site,
            rows: 0,
            columns: Default::default(),
        }
    }

    /// How many decisions are gathered.
    pub fn len(&self) -> usize {
        usize::try_from(self.rows).unwrap_or(0)
    }

    /// Whether there is nothing to insert.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds one decision.
    pub fn push(&mut self, conflict: &Conflict<'_>) {
        let [
            schema,
            table,
            key,
            kind,
            decision,
            local_row,
            incoming_row,
            local_stamp,
            local_origin,
            incoming_stamp,
            incoming_origin,
            local_position_origin,
            local_position_lsn,
            incoming_position_origin,
            incoming_position_lsn,
            local_xid,
            incoming_xid,
            policy,
        ] = &mut self.columns;
        put_text(schema, Some(conflict.schema));
        put_text(table, Some(conflict.table));
        put_text(key, conflict.key);
        put_text(kind, Some(conflict.kind));
        put_text(decision, Some(conflict.decision));
        put_text(local_row, conflict.local_row);
        put_text(incoming_row, conflict.incoming_row);
        put_version(local_stamp, local_origin, conflict.local);
        put_version(incoming_stamp, incoming_origin, conflict.incoming);
        put_position(
            local_position_origin,
            local_position_lsn,
            conflict.local_position,
        );
        put_position(
            incoming_position_origin,
            incoming_position_lsn,
            conflict.incoming_position,
        );
        put_i64(local_xid, conflict.local_xid.map(i64::from));
        put_i64(incoming_xid, conflict.incoming_xid.map(i64::from));
        put_text(policy, Some(conflict.policy));
        self.rows = self.rows.saturating_add(1);
    }

    /// The 19 binary parameters, in order; empties this.
    pub fn take(&mut self) -> Vec<Bytes> {
        let mut parameters = Vec::with_capacity(INSERT_CONFLICTS_TYPES.len());
        let mut site = BytesMut::new();
        site.put_i32(i32::from(self.site.0));
        parameters.push(site.freeze());
        for (column, element) in self.columns.iter_mut().zip(ELEMENTS) {
            let cells = column.split();
            let mut array = BytesMut::with_capacity(cells.len() + 20);
            // https://www.postgresql.org/docs/current/arrays.html: dimensions, "has nulls",
            // element type, then (length, lower bound) for each dimension, then the elements.
            array.put_i32(1);
            array.put_i32(1);
            array.put_u32(element);
            array.put_i32(self.rows);
            array.put_i32(1);
            array.extend_from_slice(&cells);
            parameters.push(array.freeze());
        }
        self.rows = 0;
        parameters
    }
}

fn put_text(out: &mut BytesMut, text: Option<&str>) {
    match text {
        // PostgreSQL's limit is 1 GiB a field, so a length that does not fit cannot be stored.
        Some(text) => {
            out.put_i32(i32::try_from(text.len()).unwrap_or(i32::MAX));
            out.extend_from_slice(text.as_bytes());
        }
        None => out.put_i32(-1),
    }
}

fn put_i32(out: &mut BytesMut, value: Option<i32>) {
    match value {
        Some(value) => {
            out.put_i32(4);
            out.put_i32(value);
        }
        None => out.put_i32(-1),
    }
}

fn put_i64(out: &mut BytesMut, value: Option<i64>) {
    match value {
        Some(value) => {
            out.put_i32(8);
            out.put_i64(value);
        }
        None => out.put_i32(-1),
    }
}

/// `timestamptz` in binary is what a stamp is: microseconds since 2000.
fn put_version(stamp: &mut BytesMut, origin: &mut BytesMut, version: Option<Version>) {
    put_i64(stamp, version.map(|v| v.stamp.0));
    put_i32(origin, version.map(|v| i32::from(v.origin.0)));
}

fn put_position(origin: &mut BytesMut, lsn: &mut BytesMut, position: Option<Position>) {
    put_i32(origin, position.map(|p| i32::from(p.origin.0)));
    put_i64(lsn, position.map(|p| p.lsn.0.cast_signed()));
}
