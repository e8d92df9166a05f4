//! An entry of the conflict history on its way.

use everywrite_conflict::{Entry as Stored, Kind, Position, Version};

use super::image::Image;
use crate::pg::pipeline::Bind;

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
