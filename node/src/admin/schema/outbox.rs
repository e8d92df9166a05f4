//! Deletes that must travel: replay writes them in the deciding transaction, a session without
//! replication origin takes them into the stream.

use crate::pg::oid::{BYTEA_ARRAY, TEXT_ARRAY};

/// Replay's statement, any number of deletes at once, parameters as in [`INSERT_OUTBOX_TYPES`]:
/// schema names, table names, contents ([`crate::admin::message::WalMessage::encode`]).
pub const INSERT_OUTBOX: &str = "insert into everywrite.outbox (schema_name, table_name, content) \
     select * from unnest($1::text[], $2::text[], $3::bytea[])";

/// `text[]`, `text[]`, `bytea[]`.
pub const INSERT_OUTBOX_TYPES: [u32; 3] = [TEXT_ARRAY, TEXT_ARRAY, BYTEA_ARRAY];

/// Takes up to `$1` (int8) deletes out, oldest first, and writes their messages into WAL, in one
/// transaction of its own that capture then sees as this site's. Returns the ids taken.
///
/// A crash before its commit leaves them all; after it, none: each enters the stream once.
pub const EMIT_OUTBOX: &str = "with taken as ( \
         delete from everywrite.outbox where id in ( \
             select id from everywrite.outbox order by id limit $1 for update skip locked) \
         returning id, content), \
     sorted as materialized (select id, content from taken order by id) \
     select id, pg_logical_emit_message(true, 'everywrite', content) from sorted";
