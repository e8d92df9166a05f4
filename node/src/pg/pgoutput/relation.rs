//! What a table looks like, as the stream announces it before the first change.

use super::Error;
use super::cursor::Cursor;

/// A Relation message, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relation<'a> {
    /// The table's oid at the sender (or the shape id that replaced it).
    pub id: u32,
    /// Schema. The empty text means `pg_catalog`.
    pub namespace: &'a str,
    /// Table name.
    pub name: &'a str,
    /// `relreplident`: `d` default, `n` nothing, `f` full, `i` index.
    pub replica_identity: u8,
    /// The published columns, in order.
    pub columns: Columns<'a>,
    bytes: &'a [u8],
}

impl<'a> Relation<'a> {
    /// Reads a Relation message without its tag (and without the xid of a stream block): the form
    /// the journal keeps.
    pub fn decode(body: &'a [u8]) -> Result<Self, Error> {
        let mut cursor = Cursor::new('R', body);
        let relation = Self::read(&mut cursor)?;
        cursor.end()?;
        Ok(relation)
    }

    pub(super) fn read(cursor: &mut Cursor<'a>) -> Result<Self, Error> {
        let bytes = cursor.rest();
        let id = cursor.u32("the relation")?;
        let namespace = cursor.text("the schema")?;
        let name = cursor.text("the table name")?;
        let replica_identity = cursor.u8("the replica identity")?;
        let count = cursor.u16("the number of columns")?;
        let start = *cursor;
        for _ in 0..count {
            column(cursor)?;
        }
        let used = bytes.len() - cursor.rest().len();
        Ok(Relation {
            id,
            namespace,
            name,
            replica_identity,
            columns: Columns {
                left: count,
                cursor_bytes: start.rest(),
            },
            bytes: bytes.get(..used).unwrap_or_default(),
        })
    }

    /// The message without tag and xid, starting with the four bytes of [`id`](Self::id).
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// A copy that outlives the message.
    pub fn to_owned(&self) -> OwnedRelation {
        OwnedRelation {
            id: self.id,
            namespace: self.namespace.to_owned(),
            name: self.name.to_owned(),
            replica_identity: self.replica_identity,
            columns: self.columns.map(|column| column.to_owned()).collect(),
        }
    }
}

/// A column of a [`Relation`], borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column<'a> {
    /// Part of the replica identity.
    pub key: bool,
    /// Column name.
    pub name: &'a str,
    /// The type's oid at the sender: only oids below 16384 mean the same elsewhere.
    pub type_oid: u32,
    /// `atttypmod`.
    pub type_modifier: i32,
}

impl Column<'_> {
    /// A copy that outlives the message.
    pub fn to_owned(&self) -> OwnedColumn {
        OwnedColumn {
            key: self.key,
            name: self.name.to_owned(),
            type_oid: self.type_oid,
            type_modifier: self.type_modifier,
        }
    }
}

/// Iterator over a relation's columns; also says how many are left.
///
/// It exists only after all columns have been read once, so it cannot fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns<'a> {
    left: u16,
    cursor_bytes: &'a [u8],
}

impl<'a> Iterator for Columns<'a> {
    type Item = Column<'a>;

    fn next(&mut self) -> Option<Column<'a>> {
        self.left = self.left.checked_sub(1)?;
        let mut cursor = Cursor::new('R', self.cursor_bytes);
        let column = column(&mut cursor).ok()?;
        self.cursor_bytes = cursor.rest();
        Some(column)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left.into(), Some(self.left.into()))
    }
}

impl ExactSizeIterator for Columns<'_> {}

fn column<'a>(cursor: &mut Cursor<'a>) -> Result<Column<'a>, Error> {
    Ok(Column {
        // Bit 0 says "part of the key"; the others are reserved.
        key: cursor.u8("the flags of a column")? & 1 != 0,
        name: cursor.text("the name of a column")?,
        type_oid: cursor.u32("the type of a column")?,
        type_modifier: cursor.i32("the type modifier of a column")?,
    })
}

/// A relation that outlives its message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OwnedRelation {
    /// The table's oid at the sender (or the shape id that replaced it).
    pub id: u32,
    /// Schema. The empty text means `pg_catalog`.
    pub namespace: String,
    /// Table name.
    pub name: String,
    /// `relreplident`: `d` default, `n` nothing, `f` full, `i` index.
    pub replica_identity: u8,
    /// The published columns, in order.
    pub columns: Vec<OwnedColumn>,
}

/// A column of an [`OwnedRelation`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OwnedColumn {
    /// Part of the replica identity.
    pub key: bool,
    /// Column name.
    pub name: String,
    /// The type's oid at the sender: only oids below 16384 mean the same elsewhere.
    pub type_oid: u32,
    /// `atttypmod`.
    pub type_modifier: i32,
}
