//! One decoder per message, in the order of the PostgreSQL manual.

use everywrite_conflict::{Lsn, Stamp};

use super::cursor::Cursor;
use super::{Error, Relation, Tuple};

/// A message of the pgoutput plugin, borrowed from the bytes that were received.
///
/// `xid` is present exactly inside a stream block; there it is the (sub)transaction that made the
/// change, while [`StreamStart`](Message::StreamStart) names the top-level one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// A committed transaction starts.
    Begin {
        /// Start of its commit record.
        final_lsn: Lsn,
        /// When it was committed.
        commit_time: Stamp,
        /// Its transaction id.
        xid: u32,
    },
    /// The transaction that began is complete.
    Commit {
        /// Start of its commit record.
        commit_lsn: Lsn,
        /// End of its commit record: the transaction's position.
        end_lsn: Lsn,
        /// When it was committed.
        commit_time: Stamp,
    },
    /// The transaction was replayed here and first committed elsewhere.
    Origin {
        /// Its commit at the origin.
        lsn: Lsn,
        /// Name of the replication origin.
        name: &'a str,
    },
    /// What a table looks like; comes before its first change and after each change of shape.
    Relation(Relation<'a>),
    /// A type that is not built in.
    Type {
        /// The type's oid at the sender.
        oid: u32,
        /// Schema. The empty text means `pg_catalog`.
        namespace: &'a str,
        /// Type name.
        name: &'a str,
    },
    /// A new row.
    Insert {
        /// Who made it, inside a stream block.
        xid: Option<u32>,
        /// The table.
        relation: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// A changed row.
    Update {
        /// Who made it, inside a stream block.
        xid: Option<u32>,
        /// The table.
        relation: u32,
        /// The old key, if the change moved it (`K`).
        key: Option<Tuple<'a>>,
        /// The whole old row, under replica identity full (`O`).
        old: Option<Tuple<'a>>,
        /// The row after the change.
        new: Tuple<'a>,
    },
    /// A row that is gone; one of `key` and `old` is there.
    Delete {
        /// Who made it, inside a stream block.
        xid: Option<u32>,
        /// The table.
        relation: u32,
        /// Its key (`K`).
        key: Option<Tuple<'a>>,
        /// The whole row, under replica identity full (`O`).
        old: Option<Tuple<'a>>,
    },
    /// All rows of some tables are gone.
    Truncate {
        /// Who made it, inside a stream block.
        xid: Option<u32>,
        /// The tables.
        relations: Oids<'a>,
        /// `CASCADE` was given.
        cascade: bool,
        /// `RESTART IDENTITY` was given.
        restart_identity: bool,
    },
    /// `pg_logical_emit_message`.
    Message {
        /// Who made it, inside a stream block.
        xid: Option<u32>,
        /// Part of its transaction, or decoded at once.
        transactional: bool,
        /// Where it is in the WAL.
        lsn: Lsn,
        /// Who it is for.
        prefix: &'a str,
        /// What it says.
        content: &'a [u8],
    },
    /// A block of changes of a transaction still in progress follows.
    StreamStart {
        /// The top-level transaction.
        xid: u32,
        /// Its first block.
        first: bool,
    },
    /// The block is over.
    StreamStop,
    /// A streamed transaction is committed.
    StreamCommit {
        /// The top-level transaction.
        xid: u32,
        /// Start of its commit record.
        commit_lsn: Lsn,
        /// End of its commit record: the transaction's position.
        end_lsn: Lsn,
        /// When it was committed.
        commit_time: Stamp,
    },
    /// A streamed transaction, or one of its subtransactions, was rolled back.
    StreamAbort {
        /// The top-level transaction.
        xid: u32,
        /// What was rolled back; equal to `xid` if it is all.
        subxid: u32,
        /// Where; sent only with `streaming 'parallel'`.
        abort_lsn: Option<Lsn>,
        /// When; sent only with `streaming 'parallel'`.
        abort_time: Option<Stamp>,
    },
}

/// Reads one message.
///
/// `streaming` says whether the message stands between [`Message::StreamStart`] and
/// [`Message::StreamStop`]: there a transaction id follows the tag of each change. The bytes do not
/// tell; the caller must keep track.
pub fn decode(buf: &[u8], streaming: bool) -> Result<Message<'_>, Error> {
    let (tag, body) = buf.split_first().ok_or(Error::Empty)?;
    let mut cursor = Cursor::new(char::from(*tag), body);
    let message = match tag {
        b'B' => begin(&mut cursor),
        b'C' => commit(&mut cursor),
        b'O' => origin(&mut cursor),
        b'R' => relation(&mut cursor, streaming),
        b'Y' => type_(&mut cursor, streaming),
        b'I' => insert(&mut cursor, streaming),
        b'U' => update(&mut cursor, streaming),
        b'D' => delete(&mut cursor, streaming),
        b'T' => truncate(&mut cursor, streaming),
        b'M' => logical_message(&mut cursor, streaming),
        b'S' => stream_start(&mut cursor),
        b'E' => Ok(Message::StreamStop),
        b'c' => stream_commit(&mut cursor),
        b'A' => stream_abort(&mut cursor),
        _ => return Err(Error::UnknownMessage(cursor.message())),
    }?;
    cursor.end()?;
    Ok(message)
}

fn begin<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>, Error> {
    Ok(Message::Begin {
        final_lsn: cursor.lsn("the commit position")?,
        commit_time: cursor.stamp("the commit time")?,
        xid: cursor.u32("the transaction id")?,
    })
}

fn commit<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>, Error> {
    cursor.u8("the flags")?;
    Ok(Message::Commit {
        commit_lsn: cursor.lsn("the commit position")?,
        end_lsn: cursor.lsn("the end position")?,
        commit_time: cursor.stamp("the commit time")?,
    })
}

fn origin<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>, Error> {
    Ok(Message::Origin {
        lsn: cursor.lsn("the commit position")?,
        name: cursor.text("the origin name")?,
    })
}

fn relation<'a>(cursor: &mut Cursor<'a>, streaming: bool) -> Result<Message<'a>, Error> {
    xid(cursor, streaming)?;
    Relation::read(cursor).map(Message::Relation)
}

fn type_<'a>(cursor: &mut Cursor<'a>, streaming: bool) -> Result<Message<'a>, Error> {
    xid(cursor, streaming)?;
    Ok(Message::Type {
        oid: cursor.u32("the type")?,
        namespace: cursor.text("the schema")?,
        name: cursor.text("the type name")?,
    })
}

fn insert<'a>(cursor: &mut Cursor<'a>, streaming: bool) -> Result<Message<'a>, Error> {
    let xid = xid(cursor, streaming)?;
    let relation = cursor.u32("the relation")?;
    match cursor.u8("the kind of row")? {
        b'N' => Ok(Message::Insert {
            xid,
            relation,
            new: Tuple::decode(cursor)?,
        }),
        other => Err(cursor.impossible("the kind of row", other.into())),
    }
}

fn update<'a>(cursor: &mut Cursor<'a>, streaming: bool) -> Result<Message<'a>, Error> {
    let xid = xid(cursor, streaming)?;
    let relation = cursor.u32("the relation")?;
    let (mut key, mut old) = (None, None);
    let mut kind = cursor.u8("the kind of row")?;
    if kind == b'K' || kind == b'O' {
        let before = Some(Tuple::decode(cursor)?);
        if kind == b'K' {
            key = before;
        } else {
            old = before;
        }
        kind = cursor.u8("the kind of row")?;
    }
    match kind {
        b'N' => Ok(Message::Update {
            xid,
            relation,
            key,
            old,
            new: Tuple::decode(cursor)?,
        }),
        other => Err(cursor.impossible("the kind of row", other.into())),
    }
}

fn delete<'a>(cursor: &mut Cursor<'a>, streaming: bool) -> Result<Message<'a>, Error> {
    let xid = xid(cursor, streaming)?;
    let relation = cursor.u32("the relation")?;
    let (key, old) = match cursor.u8("the kind of row")? {
        b'K' => (Some(Tuple::decode(cursor)?), None),
        b'O' => (None, Some(Tuple::decode(cursor)?)),
        other => return Err(cursor.impossible("the kind of row", other.into())),
    };
    Ok(Message::Delete {
        xid,
        relation,
        key,
        old,
    })
}

fn truncate<'a>(cursor: &mut Cursor<'a>, streaming: bool) -> Result<Message<'a>, Error> {
    let xid = xid(cursor, streaming)?;
    let count = cursor.length("the number of relations")?;
    let flags = cursor.u8("the flags")?;
    let bytes = count.checked_mul(4).ok_or_else(|| Error::Truncated {
        message: cursor.message(),
        field: "the relations",
    })?;
    Ok(Message::Truncate {
        xid,
        relations: Oids(cursor.take(bytes, "the relations")?),
        cascade: flags & 1 != 0,
        restart_identity: flags & 2 != 0,
    })
}

fn logical_message<'a>(cursor: &mut Cursor<'a>, streaming: bool) -> Result<Message<'a>, Error> {
    let xid = xid(cursor, streaming)?;
    let flags = cursor.u8("the flags")?;
    let lsn = cursor.lsn("the position")?;
    let prefix = cursor.text("the prefix")?;
    let length = cursor.length("the length")?;
    let content = cursor.take(length, "the content")?;
    Ok(Message::Message {
        xid,
        transactional: flags & 1 != 0,
        lsn,
        prefix,
        content,
    })
}

fn stream_start<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>, Error> {
    Ok(Message::StreamStart {
        xid: cursor.u32("the transaction id")?,
        first: cursor.u8("the flag of the first block")? != 0,
    })
}

fn stream_commit<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>, Error> {
    let xid = cursor.u32("the transaction id")?;
    cursor.u8("the flags")?;
    Ok(Message::StreamCommit {
        xid,
        commit_lsn: cursor.lsn("the commit position")?,
        end_lsn: cursor.lsn("the end position")?,
        commit_time: cursor.stamp("the commit time")?,
    })
}

fn stream_abort<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>, Error> {
    let xid = cursor.u32("the transaction id")?;
    let subxid = cursor.u32("the subtransaction id")?;
    let (abort_lsn, abort_time) = if cursor.rest().is_empty() {
        (None, None)
    } else {
        (
            Some(cursor.lsn("the abort position")?),
            Some(cursor.stamp("the abort time")?),
        )
    };
    Ok(Message::StreamAbort {
        xid,
        subxid,
        abort_lsn,
        abort_time,
    })
}

fn xid(cursor: &mut Cursor<'_>, streaming: bool) -> Result<Option<u32>, Error> {
    streaming
        .then(|| cursor.u32("the transaction id"))
        .transpose()
}

/// A list of relations, borrowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Oids<'a>(&'a [u8]);

impl<'a> Oids<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len() / 4
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The relations in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + use<'a> {
        let (oids, _) = self.0.as_chunks::<4>();
        oids.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

impl std::fmt::Debug for Oids<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
