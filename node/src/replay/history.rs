//! An entry of the conflict history on its way.

use everywrite_conflict::{Entry as Stored, Kind, Position, Version};

use bytes::{BufMut, BytesMut};

use super::image::Image;
use super::mapping::Mapping;
use crate::pg::pipeline::{Bind, Format};

/// One decision. Both rows are read in the transaction that decides, before it writes.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    /// What kind of conflict.
    pub kind: Kind,
    /// Whether the incoming change is applied.
    pub applied: bool,
    /// The incoming row; `None` for a delete.
    pub row: Option<&'a Image>,
    /// A row with the incoming change's key.
    pub key: &'a Image,
    /// A row with the key of the local row it met: its own, or that of the holder of a unique value.
    pub local_key: &'a Image,
    /// The lost row is the local one under `local_key`, not the incoming one.
    pub names_local: bool,
    /// What the index says of the local row.
    pub local: Option<Stored>,
    /// The incoming version.
    pub version: Version,
    /// The transaction that brings it.
    pub position: Position,
    /// Its transaction id at its origin.
    pub xid: u32,
}

impl Entry<'_> {
    /// The parameters behind the rows: see `Mapping::history_sql`.
    pub(super) fn bind<'b>(&self, bind: Bind<'b>) -> Bind<'b> {
        let local = self.local.map(|l| l.version);
        let source = self.local.and_then(|l| l.source);
        let stamp = local.map(|v| v.stamp.0.to_be_bytes());
        let origin = local.map(|v| i32::from(v.origin.0).to_be_bytes());
        let position_origin = source.map(|p| i32::from(p.origin.0).to_be_bytes());
        let position_lsn = source.map(|p| p.lsn.0.to_be_bytes());
        let decision: &str = if self.applied {
            "applied"
        } else {
            "kept local"
        };
        bind.binary(Some(self.kind.as_str().as_bytes()))
            .binary(Some(decision.as_bytes()))
            .binary(stamp.as_ref().map(<[u8; 8]>::as_slice))
            .binary(origin.as_ref().map(<[u8; 4]>::as_slice))
            .binary(position_origin.as_ref().map(<[u8; 4]>::as_slice))
            .binary(position_lsn.as_ref().map(<[u8; 8]>::as_slice))
            .binary(Some(&self.version.stamp.0.to_be_bytes()))
            .binary(Some(&i32::from(self.version.origin.0).to_be_bytes()))
            .binary(Some(&i32::from(self.position.origin.0).to_be_bytes()))
            .binary(Some(&self.position.lsn.0.to_be_bytes()))
            .binary(Some(&i64::from(self.xid).to_be_bytes()))
            .binary(Some(&[u8::from(self.names_local)]))
    }
}

/// Whether entries can be written by one statement: all of them rows, or all of them deletes, and
/// whole, of types with a binary form.
pub(super) fn alike(mapping: &Mapping, entries: &[Entry<'_>]) -> bool {
    let delete = entries.first().is_some_and(|e| e.row.is_none());
    let plain = |image: &Image| !image.has_text() && !image.incomplete();
    mapping.sets
        && entries.iter().all(|e| {
            e.row.is_none() == delete
                && !e.local_key.has_text()
                && e.row.map_or_else(|| !e.key.has_text(), plain)
        })
}

/// Element and array types of what [`bind_set`] adds behind the rows, in its order.
const ADDED: [(u32, u32); 12] = [
    (TEXT, 1009),
    (TEXT, 1009),
    (INT8, 1016),
    (INT4, 1007),
    (INT4, 1007),
    (LSN, 3221),
    (INT8, 1016),
    (INT4, 1007),
    (INT4, 1007),
    (LSN, 3221),
    (INT8, 1016),
    (BOOL, 1000),
];
const BOOL: u32 = 16;
const INT8: u32 = 20;
const INT4: u32 = 23;
const TEXT: u32 = 25;
const LSN: u32 = 3220;

/// The arrays behind those of the rows' cells and of the local rows' keys: see [`set_sql`].
pub(super) fn bind_set<'b>(mut bind: Bind<'b>, entries: &[Entry<'_>]) -> Bind<'b> {
    for (n, (element, _)) in ADDED.iter().enumerate() {
        let mut array = BytesMut::with_capacity(20 + entries.len() * 12);
        array.put_i32(1);
        array.put_i32(1);
        array.put_u32(*element);
        array.put_i32(i32::try_from(entries.len()).unwrap_or(i32::MAX));
        array.put_i32(1);
        for entry in entries {
            entry.put(n, &mut array);
        }
        bind = bind.param(Format::Binary, Some(&array));
    }
    bind
}

impl Entry<'_> {
    /// Appends the value of the n-th array.
    fn put(&self, n: usize, out: &mut BytesMut) {
        let mut value = |bytes: Option<&[u8]>| match bytes {
            Some(bytes) => {
                out.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
                out.extend_from_slice(bytes);
            }
            None => out.put_i32(-1),
        };
        let local = self.local.map(|l| l.version);
        let source = self.local.and_then(|l| l.source);
        let node = |origin: everywrite_conflict::NodeId| i32::from(origin.0).to_be_bytes();
        match n {
            0 => value(Some(self.kind.as_str().as_bytes())),
            1 if self.applied => value(Some(b"applied")),
            1 => value(Some(b"kept local")),
            2 => value(
                local
                    .map(|v| v.stamp.0.to_be_bytes())
                    .as_ref()
                    .map(|b| &b[..]),
            ),
            3 => value(local.map(|v| node(v.origin)).as_ref().map(|b| &b[..])),
            4 => value(source.map(|p| node(p.origin)).as_ref().map(|b| &b[..])),
            5 => value(
                source
                    .map(|p| p.lsn.0.to_be_bytes())
                    .as_ref()
                    .map(|b| &b[..]),
            ),
            6 => value(Some(&self.version.stamp.0.to_be_bytes())),
            7 => value(Some(&node(self.version.origin))),
            8 => value(Some(&node(self.position.origin))),
            9 => value(Some(&self.position.lsn.0.to_be_bytes())),
            10 => value(Some(&i64::from(self.xid).to_be_bytes())),
            _ => value(Some(&[u8::from(self.names_local)])),
        }
    }
}

/// Writes many entries. Parameters are arrays of equal length: the incoming rows' cells (those of
/// their keys for deletes), the local rows' keys, then those of [`bind_set`].
pub(super) fn set_sql(mapping: &Mapping, delete: bool) -> (String, Vec<u32>) {
    let key: Vec<usize> = mapping.key_cells().collect();
    let row: Vec<usize> = match delete {
        true => key.clone(),
        false => (0..mapping.columns.len()).collect(),
    };
    let literal = |s: &str| s.replace('\'', "''");
    let list = |parts: Vec<String>| parts.join(", ");
    let object = |prefix: &str, place: &dyn Fn(usize, usize) -> usize| {
        let one = |(n, &i): (usize, &usize)| {
            let name = mapping.columns.get(i).map_or("", |c| &c.name);
            format!("'{}', u.{prefix}{}", literal(name), place(n, i))
        };
        list(key.iter().enumerate().map(one).collect())
    };
    let in_row = |n: usize, i: usize| if delete { n } else { i };
    let held = key.iter().enumerate();
    let held = held.map(|(n, &i)| format!("o.{} = u.k{n}", mapping.column(i)));
    let incoming = match delete {
        true => "null::jsonb".to_owned(),
        false => {
            let cells = row
                .iter()
                .map(|&i| format!("u.r{i} as {}", mapping.column(i)));
            format!(
                "(select pg_catalog.to_jsonb(t) from (select {}) t)",
                list(cells.collect())
            )
        }
    };
    let at = |n: usize| {
        format!("'2000-01-01 00:00:00+00'::timestamptz + u.h{n} * interval '1 microsecond'")
    };
    let names = (0..row.len()).map(|n| format!("r{n}"));
    let names = names.chain((0..key.len()).map(|n| format!("k{n}")));
    let names: Vec<String> = names
        .chain((1..=ADDED.len()).map(|n| format!("h{n}")))
        .collect();
    let params = (1..=names.len()).map(|n| format!("${n}"));
    let sql = format!(
        "insert into everywrite.conflict_history (site, schema_name, table_name, key, kind, decision, local_row, \
         incoming_row, local_stamp, local_origin, local_position_origin, local_position_lsn, incoming_stamp, \
         incoming_origin, incoming_position_origin, incoming_position_lsn, incoming_xid) \
         select (select n.id from everywrite.nodes n where n.local), '{}', '{}', \
         case when u.h12 then pg_catalog.jsonb_build_object({}) else pg_catalog.jsonb_build_object({}) end, \
         u.h1, u.h2, (select pg_catalog.to_jsonb(o) from {} o where {}), {incoming}, {}, u.h4, u.h5, u.h6, {}, \
         u.h8, u.h9, u.h10, u.h11 from unnest({}) as u({})",
        literal(&mapping.table.schema),
        literal(&mapping.table.name),
        object("k", &|n, _| n),
        object("r", &in_row),
        mapping.table.quoted,
        held.collect::<Vec<_>>().join(" and "),
        at(3),
        at(7),
        list(params.collect()),
        list(names.clone()),
    );
    let mut types: Vec<u32> = row.iter().chain(&key).map(|&i| mapping.array(i)).collect();
    types.extend(ADDED.map(|(_, array)| array));
    (sql, types)
}
