//! What the daemon and its SQL functions write into WAL under the prefix `everywrite`.
//!
//! The bytes are specified in `docs/formats/messages.md`; the SQL functions of
//! [`super::schema`] emit the same ones.
//!
//! Invariants: decoding never panics, and what decodes encodes to the same bytes, except that JSON
//! may be spaced or ordered differently.
//!
//! Trap: a site may run a newer daemon than this one. A kind or a command that is not known here
//! is an error of its own ([`DecodeError::Kind`], [`DecodeError::Command`]), so that the caller
//! can tell "newer" from "broken".

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use everywrite_conflict::policy::columns::Merge;
use everywrite_conflict::policy::{Epoch, Policy, Rank, Setting};
use everywrite_conflict::{Kind, Lsn, NodeId, RelationHash, Stamp, Version};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// The prefix of every message: others belong to the applications.
pub const PREFIX: &str = "everywrite";
/// The first byte of every message.
pub const FORMAT_VERSION: u8 = 1;

const KIND_COMMAND: u8 = b'c';
const KIND_MARK: u8 = b'm';
const KIND_BARRIER: u8 = b'b';
const KIND_DELETE: u8 = b'd';
const KIND_RANKED_DELETE: u8 = b'D';
const KIND_POLICY: u8 = b'p';

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalMessage {
    /// A person decided something; for the daemon beside this database only.
    Command(Command),
    /// Nothing, but its transaction travels: something to wait for.
    Mark,
    /// Non-transactional: capture has reached the place where this was written.
    Barrier(u64),
    /// A delete that every site carries out, whether or not it saw the conflict.
    Delete(TravellingDelete),
    /// A table's policy was set at the site whose stream it is in. Capture makes it of a row of
    /// `everywrite.policy_log`; one that is found in the local WAL says nothing.
    Policy(SetPolicy),
}

/// A change of a table's policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetPolicy {
    /// The table's schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// Counts the changes of the table.
    pub number: u32,
    /// The policy's name.
    pub policy: String,
    /// Which kind of conflict it is for, or `all`.
    pub kind: String,
    /// The sites that the policy names, in its order.
    pub sites: Vec<u16>,
    /// What the person gave, JSON.
    pub options: String,
}

impl SetPolicy {
    /// The change as the index knows it, if this program has the policy. `origin`: where it was made.
    pub fn setting(&self, origin: NodeId) -> Option<Setting> {
        let sites = self.sites.iter().copied().map(NodeId).collect();
        let policy = match self.policy.as_str() {
            "last_update_wins" => Policy::LastUpdateWins,
            "first_update_wins" => Policy::FirstUpdateWins,
            "node_priority" => Policy::NodePriority(sites),
            "column_wise" => column_wise(&self.options)?,
            "stop" => Policy::Stop(self.one_kind()?),
            "function" => Policy::Function(self.one_kind()?),
            "park" => Policy::Park(self.one_kind()?),
            _ => return None,
        };
        Some(Setting {
            relation: RelationHash::new(&self.schema, &self.table),
            epoch: Epoch {
                number: self.number,
                origin,
            },
            policy,
        })
    }

    /// The kind that it is for, `Some(None)` for all; `None` if this program does not know the kind.
    fn one_kind(&self) -> Option<Option<Kind>> {
        if self.kind == "all" {
            return Some(None);
        }
        let mut kinds = Kind::ALL.into_iter();
        kinds.find(|k| k.as_str() == self.kind).map(Some)
    }
}

/// What `everywrite.set_policy` writes as the options of a column-wise policy. What is not known here
/// may matter: then the policy is not known.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ColumnWise {
    delta: Vec<String>,
    greatest: Vec<String>,
    least: Vec<String>,
    union: Vec<String>,
    floor: BTreeMap<String, serde_json::Number>,
    /// For the sites' tables, see `everywrite.prepare_merging`.
    #[serde(rename = "set_replica_identity")]
    _set_replica_identity: bool,
}

fn column_wise(options: &str) -> Option<Policy> {
    let options: ColumnWise = serde_json::from_str(options).ok()?;
    let of = |names: Vec<String>, merge| names.into_iter().map(move |name| (name, merge));
    let merges = of(options.delta, Merge::Delta)
        .chain(of(options.greatest, Merge::Greatest))
        .chain(of(options.least, Merge::Least))
        .chain(of(options.union, Merge::Union))
        .collect();
    let floors = options.floor.into_iter();
    let floors = floors
        .map(|(name, floor)| (name, floor.to_string()))
        .collect();
    Some(Policy::ColumnWise { merges, floors })
}

/// What a person decided. News, not authority: the tables `paused` and `skipped` hold the truth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// `everywrite.pause(peer)`.
    Pause {
        /// The peer's name.
        peer: String,
    },
    /// `everywrite.resume(peer)`.
    Resume {
        /// The peer's name.
        peer: String,
    },
    /// `everywrite.skip_transaction(origin, lsn)`.
    SkipTransaction {
        /// The origin's name.
        origin: String,
        /// Its position there.
        lsn: Lsn,
    },
}

/// A row that lost a unique value and goes everywhere, with the winner's version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TravellingDelete {
    /// The version of the write that won: what is newer than this stays.
    pub version: Version,
    /// The table's schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// The key of the row, in the order of the columns' names.
    pub key: Vec<KeyColumn>,
}

/// One column of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyColumn {
    /// Its name.
    pub name: String,
    /// Its type at the site that decided: oids below 16384 mean the same everywhere.
    pub type_oid: u32,
    /// Its value, in binary.
    pub value: Bytes,
}

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// It ends in the middle.
    #[error("the message ends inside its {0}")]
    Truncated(&'static str),
    /// There is more behind its end.
    #[error("{0} bytes behind the end of the message")]
    Trailing(usize),
    /// Written by another format version.
    #[error("message format {0} is not known here; a newer everywrite wrote it")]
    Version(u8),
    /// Of a kind that this program does not know.
    #[error("message kind {0:#04x} is not known here; a newer everywrite wrote it")]
    Kind(u8),
    /// A command that this program does not know, or not JSON.
    #[error("read a command: {0}")]
    Command(#[source] serde_json::Error),
    /// A policy that this program does not know.
    #[error("the policy {0} is not known here; a newer everywrite wrote it")]
    Policy(String),
    /// A name is not UTF-8.
    #[error("the {0} is not UTF-8")]
    Text(&'static str),
    /// A length or a count below zero.
    #[error("the {0} has a negative length")]
    Length(&'static str),
}

/// Why a message cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// PostgreSQL's names never hold one.
    #[error("the name of a {0} holds a zero byte")]
    ZeroInName(&'static str),
    /// More than 65,535 key columns, or a value beyond 2 GiB.
    #[error("the key is too large for a message")]
    TooLarge,
    /// Cannot happen with the commands of this program.
    #[error("write a command as JSON: {0}")]
    Command(#[source] serde_json::Error),
}

impl WalMessage {
    /// The content for `pg_logical_emit_message`.
    ///
    /// # Errors
    /// Names with zero bytes and keys beyond the format's limits.
    pub fn encode(&self) -> Result<Bytes, EncodeError> {
        let mut out = BytesMut::new();
        out.put_u8(FORMAT_VERSION);
        match self {
            WalMessage::Command(command) => {
                out.put_u8(KIND_COMMAND);
                let json = serde_json::to_vec(command).map_err(EncodeError::Command)?;
                out.extend_from_slice(&json);
            }
            WalMessage::Mark => out.put_u8(KIND_MARK),
            WalMessage::Barrier(token) => {
                out.put_u8(KIND_BARRIER);
                out.put_u64(*token);
            }
            WalMessage::Delete(delete) => {
                out.put_u8(match delete.version.is_ranked() {
                    true => KIND_RANKED_DELETE,
                    false => KIND_DELETE,
                });
                delete.encode(&mut out)?;
            }
            WalMessage::Policy(policy) => {
                out.put_u8(KIND_POLICY);
                let json = serde_json::to_vec(policy).map_err(EncodeError::Command)?;
                out.extend_from_slice(&json);
            }
        }
        Ok(out.freeze())
    }

    /// Reads the content of a message whose prefix is [`PREFIX`].
    ///
    /// # Errors
    /// Anything that this program would not have written.
    pub fn decode(content: &[u8]) -> Result<WalMessage, DecodeError> {
        let mut input = Input(content);
        let version = input.u8("format version")?;
        if version != FORMAT_VERSION {
            return Err(DecodeError::Version(version));
        }
        let message = match input.u8("kind")? {
            KIND_COMMAND => {
                let json = std::mem::take(&mut input.0);
                WalMessage::Command(serde_json::from_slice(json).map_err(DecodeError::Command)?)
            }
            KIND_MARK => WalMessage::Mark,
            KIND_BARRIER => WalMessage::Barrier(input.u64("token")?),
            KIND_DELETE => WalMessage::Delete(TravellingDelete::decode(&mut input, false)?),
            KIND_RANKED_DELETE => WalMessage::Delete(TravellingDelete::decode(&mut input, true)?),
            KIND_POLICY => {
                let json = std::mem::take(&mut input.0);
                let policy: SetPolicy =
                    serde_json::from_slice(json).map_err(DecodeError::Command)?;
                if policy.setting(NodeId(0)).is_none() {
                    return Err(DecodeError::Policy(policy.policy));
                }
                WalMessage::Policy(policy)
            }
            kind => return Err(DecodeError::Kind(kind)),
        };
        match input.0.len() {
            0 => Ok(message),
            trailing => Err(DecodeError::Trailing(trailing)),
        }
    }
}

impl TravellingDelete {
    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.put_i64(self.version.stamp.0);
        out.put_u16(self.version.origin.0);
        if self.version.is_ranked() {
            put_rank(out, self.version.rank());
        }
        put_name(out, "schema", &self.schema)?;
        put_name(out, "table", &self.table)?;
        out.put_u16(u16::try_from(self.key.len()).map_err(|_| EncodeError::TooLarge)?);
        for KeyColumn {
            name,
            type_oid,
            value,
        } in &self.key
        {
            put_name(out, "column", name)?;
            out.put_u32(*type_oid);
            out.put_i32(i32::try_from(value.len()).map_err(|_| EncodeError::TooLarge)?);
            out.extend_from_slice(value);
        }
        Ok(())
    }

    fn decode(input: &mut Input<'_>, ranked: bool) -> Result<Self, DecodeError> {
        let version = Version::new(
            Stamp(input.u64("stamp")?.cast_signed()),
            NodeId(input.u16("origin")?),
        );
        let version = match ranked {
            true => version.ranked(input.rank()?),
            false => version,
        };
        let schema = input.name("schema name")?;
        let table = input.name("table name")?;
        let columns = input.u16("number of key columns")?;
        // Nothing is reserved for a count that the bytes may not honour.
        let mut key = Vec::new();
        for _ in 0..columns {
            let name = input.name("column name")?;
            let type_oid = input.u32("type of a key column")?;
            let length = input.u32("length of a key value")?.cast_signed();
            let length = usize::try_from(length).map_err(|_| DecodeError::Length("key value"))?;
            let value = input.take(length, "key value")?;
            key.push(KeyColumn {
                name,
                type_oid,
                value: Bytes::copy_from_slice(value),
            });
        }
        Ok(TravellingDelete {
            version,
            schema,
            table,
            key,
        })
    }
}

fn put_rank(out: &mut BytesMut, rank: Rank) {
    out.put_u32(rank.epoch.number);
    out.put_u16(rank.epoch.origin.0);
    out.put_i64(rank.height);
}

fn put_name(out: &mut BytesMut, what: &'static str, name: &str) -> Result<(), EncodeError> {
    if name.as_bytes().contains(&0) {
        return Err(EncodeError::ZeroInName(what));
    }
    out.extend_from_slice(name.as_bytes());
    out.put_u8(0);
    Ok(())
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(DecodeError::Truncated(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated(what))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.array(what).map(u16::from_be_bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.array(what).map(u32::from_be_bytes)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.array(what).map(u64::from_be_bytes)
    }

    fn rank(&mut self) -> Result<Rank, DecodeError> {
        Ok(Rank {
            epoch: Epoch {
                number: self.u32("rank")?,
                origin: NodeId(self.u16("rank")?),
            },
            height: self.u64("rank")?.cast_signed(),
        })
    }

    fn name(&mut self, what: &'static str) -> Result<String, DecodeError> {
        let end = self
            .0
            .iter()
            .position(|&byte| byte == 0)
            .ok_or(DecodeError::Truncated(what))?;
        let name = self.take(end, what)?;
        self.u8(what)?;
        let name = std::str::from_utf8(name).map_err(|_| DecodeError::Text(what))?;
        Ok(name.to_owned())
    }
}
