//! Deletes that travel, on their way into the outbox: see [`outbox`](super::outbox).

use bytes::Bytes;
use everywrite_conflict::Version;

use super::Error;
use super::image::Image;
use super::mapping::Mapping;
use super::writer::Writer;
use crate::admin::message::{KeyColumn, TravellingDelete, WalMessage};
use crate::admin::schema::{INSERT_OUTBOX, INSERT_OUTBOX_TYPES};
use crate::pg::oid;
use crate::pg::pgoutput::Cell;
use crate::pg::pipeline::Array;

/// The delete of the row with this key, as a message.
pub(super) fn delete(mapping: &Mapping, key: &Image, version: Version) -> Result<Bytes, Error> {
    let cells: Vec<Cell<'_>> = key.tuple().iter().collect();
    let column = |i: usize| {
        let value = match cells.get(i) {
            Some(Cell::Binary(bytes) | Cell::Text(bytes)) => Bytes::copy_from_slice(bytes),
            _ => Bytes::new(),
        };
        let column = mapping.columns.get(i);
        KeyColumn {
            name: column.map_or_else(String::new, |c| c.name.clone()),
            type_oid: column.map_or(0, |c| c.type_oid),
            value,
        }
    };
    let delete = TravellingDelete {
        version,
        schema: mapping.table.schema.clone(),
        table: mapping.table.name.clone(),
        key: mapping.key_cells().map(column).collect(),
    };
    WalMessage::Delete(delete)
        .encode()
        .map_err(|e| Error::Schema {
            table: mapping.name(),
            what: e.to_string(),
        })
}

/// Puts messages into the outbox.
pub(super) fn put(writer: &mut Writer, mapping: &Mapping, contents: &[Bytes]) {
    let schema = mapping.table.schema.as_bytes();
    let table = mapping.table.name.as_bytes();
    let names = |name| Array::of(oid::TEXT, std::iter::repeat_n(name, contents.len()));
    writer
        .bind("outbox", INSERT_OUTBOX, &INSERT_OUTBOX_TYPES)
        .array(names(schema))
        .array(names(table))
        .array(Array::of(oid::BYTEA, contents.iter().map(Bytes::as_ref)))
        .execute();
}
