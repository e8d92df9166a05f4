//! What one site asks another about its rows, and the answers: protobuf, carried by the link (and,
//! between the command and its own daemon, by the control socket).
//!
//! Field numbers are for ever. A question that an older daemon does not know decodes to none, and it
//! says so. The bytes are described in `docs/formats/link.md`.

use everywrite_conflict::{Lsn, NodeId, Vector};

/// The version of this language; a node says in its hello up to which it answers.
pub const VERSION: u32 = 1;

/// One question.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Question {
    /// Which.
    #[prost(oneof = "Asked", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub asked: Option<Asked>,
}

/// Which question.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Asked {
    /// What tables are there?
    #[prost(message, tag = "1")]
    Tables(Tables),
    /// Where do so many rows end, again and again?
    #[prost(message, tag = "2")]
    Boundaries(Boundaries),
    /// How many rows are in a range, and what is their digest?
    #[prost(message, tag = "3")]
    Digest(Digest),
    /// The key and the hash of every row in a range.
    #[prost(message, tag = "4")]
    Hashes(Hashes),
    /// These rows, once what others had is here too.
    #[prost(message, tag = "5")]
    Read(Read),
    /// The keys of a table that the conflict history names.
    #[prost(message, tag = "6")]
    History(History),
    /// Write these rows anew, or remove them.
    #[prost(message, tag = "7")]
    Repair(Repair),
}

/// What tables are there?
#[derive(Clone, PartialEq, prost::Message)]
pub struct Tables {}

/// A table, and what of it is compared. Names only: the answering site makes its own SQL of them.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Spec {
    /// The table's schema.
    #[prost(string, tag = "1")]
    pub schema: String,
    /// The table.
    #[prost(string, tag = "2")]
    pub table: String,
    /// The columns of the key, in the order of its index.
    #[prost(string, repeated, tag = "3")]
    pub key: Vec<String>,
    /// The columns that are compared, in the order in which they are hashed.
    #[prost(string, repeated, tag = "4")]
    pub columns: Vec<String>,
    /// Ranges are of a hash of the key instead of the key itself: the sites sort text differently.
    #[prost(bool, tag = "5")]
    pub by_hash: bool,
}

/// A key, or a place between keys: one text a column, as the server writes it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Message)]
pub struct Key {
    /// In the order of [`Spec::key`].
    #[prost(string, repeated, tag = "1")]
    pub values: Vec<String>,
}

/// The rows behind `after`, up to and with `upto`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Range {
    /// Absent: from the first row.
    #[prost(message, optional, tag = "1")]
    pub after: Option<Key>,
    /// Absent: to the last row.
    #[prost(message, optional, tag = "2")]
    pub upto: Option<Key>,
}

/// Where do `step` rows end, at most `at_most` times?
#[derive(Clone, PartialEq, prost::Message)]
pub struct Boundaries {
    /// Of which table.
    #[prost(message, required, tag = "1")]
    pub spec: Spec,
    /// Of which of its rows.
    #[prost(message, required, tag = "2")]
    pub range: Range,
    /// Rows between two places.
    #[prost(uint32, tag = "3")]
    pub step: u32,
    /// Places.
    #[prost(uint32, tag = "4")]
    pub at_most: u32,
}

/// Number and digest of a range's rows.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Digest {
    /// Of which table.
    #[prost(message, required, tag = "1")]
    pub spec: Spec,
    /// Of which of its rows.
    #[prost(message, required, tag = "2")]
    pub range: Range,
    /// With more rows the answer is only that there are more.
    #[prost(uint32, tag = "3")]
    pub at_most: u32,
}

/// Key and hash of every row of a range.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hashes {
    /// Of which table.
    #[prost(message, required, tag = "1")]
    pub spec: Spec,
    /// Of which of its rows.
    #[prost(message, required, tag = "2")]
    pub range: Range,
    /// With more rows the answer is only that there are more.
    #[prost(uint32, tag = "3")]
    pub at_most: u32,
}

/// Rows by their keys.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Read {
    /// Of which table.
    #[prost(message, required, tag = "1")]
    pub spec: Spec,
    /// Which rows.
    #[prost(message, repeated, tag = "2")]
    pub keys: Vec<Key>,
    /// Only once all this is applied there; of the answering site itself: captured there.
    #[prost(message, repeated, tag = "3")]
    pub after: Vec<Mark>,
    /// So many characters of each row are shown.
    #[prost(uint32, tag = "4")]
    pub shown: u32,
    /// How long it may wait for `after`.
    #[prost(uint32, tag = "5")]
    pub wait_ms: u32,
}

/// Keys in the conflict history.
#[derive(Clone, PartialEq, prost::Message)]
pub struct History {
    /// Of which table.
    #[prost(message, required, tag = "1")]
    pub spec: Spec,
    /// Entries of greater batches (`everywrite.conflicts.batch`).
    #[prost(int64, tag = "2")]
    pub after: i64,
    /// About so many entries are looked at: whole batches.
    #[prost(uint32, tag = "3")]
    pub at_most: u32,
}

/// Rows to be written anew as they are, or removed, by one ordinary transaction of that site.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Repair {
    /// Of which table.
    #[prost(message, required, tag = "1")]
    pub spec: Spec,
    /// Which rows.
    #[prost(message, repeated, tag = "2")]
    pub rows: Vec<RepairRow>,
    /// Removed instead of written anew.
    #[prost(bool, tag = "3")]
    pub delete: bool,
}

/// One of them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RepairRow {
    /// Its key.
    #[prost(message, required, tag = "1")]
    pub key: Key,
    /// Only if it is still this very row version.
    #[prost(uint32, tag = "2")]
    pub xmin: u32,
}

/// One entry of a vector.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Mark {
    /// The origin's number.
    #[prost(uint32, tag = "1")]
    pub origin: u32,
    /// How far.
    #[prost(fixed64, tag = "2")]
    pub lsn: u64,
}

/// One answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Answer {
    /// What it cost the site: microseconds of its one session.
    #[prost(uint32, tag = "1")]
    pub took_us: u32,
    /// The answer to the question.
    #[prost(oneof = "Said", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub said: Option<Said>,
}

/// Which answer.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Said {
    /// It cannot be answered.
    #[prost(message, tag = "2")]
    Failed(Failed),
    /// To `Tables`.
    #[prost(message, tag = "3")]
    Tables(TableList),
    /// To `Boundaries`: the places, in order; also to `History`: the keys.
    #[prost(message, tag = "4")]
    Keys(Keys),
    /// To `Digest`.
    #[prost(message, tag = "5")]
    Digest(RangeDigest),
    /// To `Hashes`.
    #[prost(message, tag = "6")]
    Hashes(RowHashes),
    /// To `Digest` and `Hashes`: there are more rows than asked for, or they take too long.
    #[prost(message, tag = "7")]
    TooMany(TooMany),
    /// To `Read`.
    #[prost(message, tag = "8")]
    Rows(Rows),
    /// To `Read`: not there yet.
    #[prost(message, tag = "9")]
    Behind(Behind),
    /// To `Repair`.
    #[prost(message, tag = "10")]
    Repaired(Repaired),
}

/// It cannot be answered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Failed {
    /// One line for a person.
    #[prost(string, tag = "1")]
    pub reason: String,
    /// Asking again may help.
    #[prost(bool, tag = "2")]
    pub again: bool,
}

/// The site's tables.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TableList {
    /// Every table that is replicated.
    #[prost(message, repeated, tag = "1")]
    pub tables: Vec<Table>,
}

/// One table as it is at one site.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Table {
    /// Its schema.
    #[prost(string, tag = "1")]
    pub schema: String,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The key's columns, in the order of its index; none: rows have no key.
    #[prost(string, repeated, tag = "3")]
    pub key: Vec<String>,
    /// The columns that are replicated.
    #[prost(message, repeated, tag = "4")]
    pub columns: Vec<Column>,
    /// How many rows the server believes it has.
    #[prost(uint64, tag = "5")]
    pub estimated_rows: u64,
    /// What decides how its keys sort: collations and their versions.
    #[prost(string, tag = "6")]
    pub sorted_by: String,
}

/// One column.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, prost::Message)]
pub struct Column {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its type, as SQL says it.
    #[prost(string, tag = "2")]
    pub type_name: String,
}

/// Keys.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Keys {
    /// In the order asked for.
    #[prost(message, repeated, tag = "1")]
    pub keys: Vec<Key>,
    /// Of `History`: the last batch that was looked at; 0 when there are no more.
    #[prost(int64, tag = "2")]
    pub last: i64,
}

/// Number and digest of rows: equal for equal rows, whatever their order.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RangeDigest {
    /// Rows.
    #[prost(uint64, tag = "1")]
    pub rows: u64,
    /// Of all their columns.
    #[prost(fixed64, tag = "2")]
    pub digest: u64,
}

/// Key and hash of rows.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RowHashes {
    /// In any order.
    #[prost(message, repeated, tag = "1")]
    pub rows: Vec<RowHash>,
}

/// Key and hash of one row.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RowHash {
    /// Its key.
    #[prost(message, required, tag = "1")]
    pub key: Key,
    /// Of all its columns.
    #[prost(fixed64, tag = "2")]
    pub hash: u64,
}

/// More than asked for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TooMany {}

/// Rows read by their keys, in one snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rows {
    /// One a key, in the order asked for.
    #[prost(message, repeated, tag = "1")]
    pub rows: Vec<Row>,
    /// Everything that the snapshot can have seen is within this.
    #[prost(message, repeated, tag = "2")]
    pub seen: Vec<Mark>,
}

/// What one key is at one site.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Row {
    /// Absent: there is no such row.
    #[prost(message, optional, tag = "1")]
    pub version: Option<RowVersion>,
    /// What is known of the last write of the key, also if that was a delete.
    #[prost(message, optional, tag = "2")]
    pub written: Option<Written>,
}

/// A row that is there.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RowVersion {
    /// The local transaction that wrote it: tells two writes of equal rows apart.
    #[prost(uint32, tag = "1")]
    pub xmin: u32,
    /// SHA-256 of the columns compared.
    #[prost(bytes = "vec", tag = "2")]
    pub sha256: Vec<u8>,
    /// The beginning of the row, for people.
    #[prost(string, tag = "3")]
    pub shown: String,
}

/// When and where a key was last written.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Written {
    /// µs since 2000-01-01.
    #[prost(sint64, tag = "1")]
    pub stamp: i64,
    /// The site's number.
    #[prost(uint32, tag = "2")]
    pub origin: u32,
    /// From the conflict index: exact. Otherwise from the server's commit timestamps.
    #[prost(bool, tag = "3")]
    pub exact: bool,
    /// The last write was a delete.
    #[prost(bool, tag = "4")]
    pub deleted: bool,
}

/// Not there yet.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Behind {
    /// What is missing, for a person.
    #[prost(string, tag = "1")]
    pub reason: String,
}

/// What became of a repair.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Repaired {
    /// One a row; false: it was not that row version any more, so nothing was done.
    #[prost(bool, repeated, tag = "1")]
    pub done: Vec<bool>,
}

/// To the wire.
pub fn marks(vector: &Vector) -> Vec<Mark> {
    vector
        .iter()
        .map(|(origin, lsn)| Mark {
            origin: u32::from(origin.0),
            lsn: lsn.0,
        })
        .collect()
}

/// From the wire; what names no site is left out.
pub fn vector(marks: &[Mark]) -> Vector {
    marks
        .iter()
        .filter_map(|mark| Some((NodeId(u16::try_from(mark.origin).ok()?), Lsn(mark.lsn))))
        .collect()
}

impl From<Asked> for Question {
    fn from(asked: Asked) -> Self {
        Question { asked: Some(asked) }
    }
}
