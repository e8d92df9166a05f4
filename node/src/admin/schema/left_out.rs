//! Rows of which a write was left out because a newer one was on its way, kept for the next start.

use std::collections::HashMap;

use everywrite_conflict::{KeyHash, Lsn, NodeId, Position, Vector};
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row};

use crate::admin::Error;
use crate::pg::oid::{BYTEA_ARRAY, INT4_ARRAY, LSN_ARRAY};
use crate::settle::LeavesOut;

/// Replay's statement, any number of rows at once, parameters as in [`INSERT_LEFT_OUT_TYPES`]: the hashes of the keys
/// ([`key_bytes`]), whose writes were left out, what was applied of those before, and nodes and positions of the newer
/// ones.
pub const INSERT_LEFT_OUT: &str = "insert into everywrite.left_out (key, origin, applied, newer_origin, newer_position) \
     select * from unnest($1::bytea[], $2::int[], $3::pg_lsn[], $4::int[], $5::pg_lsn[]) on conflict do nothing";

/// `bytea[]`, `int4[]`, `pg_lsn[]`, `int4[]`, `pg_lsn[]`.
pub const INSERT_LEFT_OUT_TYPES: [u32; 5] =
    [BYTEA_ARRAY, INT4_ARRAY, LSN_ARRAY, INT4_ARRAY, LSN_ARRAY];

/// How the hash of a key is stored.
pub fn key_bytes(key: KeyHash) -> [u8; 16] {
    key.0.to_be_bytes()
}

/// Deletes what has come to an end, because the newer write is applied or its site is no member any more; returns the
/// rest.
///
/// # Errors
/// A failed statement.
pub async fn left_out(
    client: &Client,
    members: &HashMap<NodeId, String>,
    applied: &Vector,
) -> Result<Vec<LeavesOut>, Error> {
    let sql = "select key, origin, applied, newer_origin, newer_position from everywrite.left_out";
    let rows = client.query(sql, &[]).await;
    let rows = rows.map_err(Error::sql("read which writes were left out"))?;
    let (mut left, mut ended) = (Vec::new(), Vec::new());
    for row in &rows {
        let one = read(row);
        let newer = one.newer;
        match members.contains_key(&newer.origin) && !applied.covers(newer) {
            true => left.push(one),
            false => ended.push(one),
        }
    }
    if !ended.is_empty() {
        let sql = "delete from everywrite.left_out l \
                    using unnest($1::bytea[], $2::int[], $3::int[], $4::pg_lsn[]) as e(k, o, n, p) \
                    where (l.key, l.origin, l.newer_origin, l.newer_position) = (e.k, e.o, e.n, e.p)";
        let node = |node: NodeId| i32::from(node.0);
        let keys: Vec<_> = ended.iter().map(|e| key_bytes(e.key).to_vec()).collect();
        let origins: Vec<_> = ended.iter().map(|e| node(e.origin)).collect();
        let newer: Vec<_> = ended.iter().map(|e| node(e.newer.origin)).collect();
        let positions = ended.iter().map(|e| PgLsn::from(e.newer.lsn.0));
        let positions: Vec<_> = positions.collect();
        let deleted = client
            .execute(sql, &[&keys, &origins, &newer, &positions])
            .await;
        deleted.map_err(Error::sql("delete what is left out no more"))?;
    }
    Ok(left)
}

fn read(row: &Row) -> LeavesOut {
    let node = |column| NodeId(u16::try_from(row.get::<_, i32>(column)).unwrap_or(0));
    let lsn = |column| Lsn(row.get::<_, PgLsn>(column).into());
    let key = row.get::<_, &[u8]>(0).try_into().unwrap_or_default();
    LeavesOut {
        key: KeyHash(u128::from_be_bytes(key)),
        origin: node(1),
        before: lsn(2),
        newer: Position {
            origin: node(3),
            lsn: lsn(4),
        },
    }
}
