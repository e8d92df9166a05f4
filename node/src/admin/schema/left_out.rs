//! Rows of which a write was left out because a newer one was on its way, kept for the next start.

use everywrite_conflict::{KeyHash, Lsn, NodeId, Position, Vector};
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

use crate::admin::Error;
use crate::pg::oid::{BYTEA_ARRAY, INT4_ARRAY, LSN_ARRAY};

/// Replay's statement, any number of rows at once, parameters as in [`INSERT_LEFT_OUT_TYPES`]: the hashes of the keys
/// ([`key_bytes`]), and where the newer writes stand: nodes and positions.
pub const INSERT_LEFT_OUT: &str = "insert into everywrite.left_out (key, origin, position) \
     select * from unnest($1::bytea[], $2::int[], $3::pg_lsn[]) on conflict do nothing";

/// `bytea[]`, `int4[]`, `pg_lsn[]`.
pub const INSERT_LEFT_OUT_TYPES: [u32; 3] = [BYTEA_ARRAY, INT4_ARRAY, LSN_ARRAY];

/// How the hash of a key is stored.
pub fn key_bytes(key: KeyHash) -> [u8; 16] {
    key.0.to_be_bytes()
}

/// Deletes what has come to an end, because the newer write is applied; returns the keys of what has not.
///
/// # Errors
/// A failed statement.
pub async fn left_out(client: &Client, applied: &Vector) -> Result<Vec<KeyHash>, Error> {
    let sql = "select key, origin, position from everywrite.left_out";
    let rows = client.query(sql, &[]).await;
    let rows = rows.map_err(Error::sql("read which rows were left out"))?;
    let (mut keys, mut ended) = (Vec::new(), Vec::new());
    for row in &rows {
        let (key, origin, lsn): (&[u8], i32, PgLsn) = (row.get(0), row.get(1), row.get(2));
        let newer = Position {
            origin: NodeId(u16::try_from(origin).unwrap_or(0)),
            lsn: Lsn(lsn.into()),
        };
        match <[u8; 16]>::try_from(key) {
            Ok(bytes) if !applied.covers(newer) => keys.push(KeyHash(u128::from_be_bytes(bytes))),
            _ => ended.push((key, origin, lsn)),
        }
    }
    if !ended.is_empty() {
        let sql = "delete from everywrite.left_out l using unnest($1::bytea[], $2::int[], $3::pg_lsn[]) as e(k, o, p) \
                    where l.key = e.k and l.origin = e.o and l.position = e.p";
        let keys: Vec<&[u8]> = ended.iter().map(|e| e.0).collect();
        let origins: Vec<i32> = ended.iter().map(|e| e.1).collect();
        let positions: Vec<PgLsn> = ended.iter().map(|e| e.2).collect();
        let deleted = client.execute(sql, &[&keys, &origins, &positions]).await;
        deleted.map_err(Error::sql("delete what is left out no more"))?;
    }
    Ok(keys)
}
