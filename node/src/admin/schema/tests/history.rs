use bytes::{Bytes, BytesMut};
use everywrite_conflict::{Lsn, Position, Stamp, Version};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::*;
use crate::admin::schema::{
    Conflict, ConflictRows, INSERT_CONFLICTS, INSERT_CONFLICTS_TYPES, forget_conflicts,
};

/// Bytes that are a binary value already.
#[derive(Debug)]
struct Raw(Bytes);

impl ToSql for Raw {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

async fn insert(client: &Client, rows: &mut ConflictRows) -> u64 {
    let types: Vec<Type> = INSERT_CONFLICTS_TYPES
        .iter()
        .map(|&oid| Type::from_oid(oid).expect("built in"))
        .collect();
    let statement = client
        .prepare_typed(INSERT_CONFLICTS, &types)
        .await
        .expect("prepare");
    let parameters: Vec<Raw> = rows.take().into_iter().map(Raw).collect();
    let parameters: Vec<&(dyn ToSql + Sync)> = parameters
        .iter()
        .map(|p| p as &(dyn ToSql + Sync))
        .collect();
    client
        .execute(&statement, &parameters)
        .await
        .expect("insert")
}

fn full(key: &str) -> Conflict<'_> {
    Conflict {
        schema: "public",
        table: "Order Lines",
        key: Some(key),
        kind: "update_origin_differs",
        decision: "applied",
        policy: "last_update_wins",
        local_row: Some(r#"{"id": 1, "city": "Köln"}"#),
        incoming_row: Some(r#"{"id": 1, "city": "Ürümqi"}"#),
        local: Some(Version::new(Stamp(1_500_000), NodeId(1))),
        incoming: Some(Version::new(Stamp(2_000_001), NodeId(3))),
        local_position: Some(Position {
            origin: NodeId(1),
            lsn: Lsn(0x10),
        }),
        incoming_position: Some(Position {
            origin: NodeId(3),
            lsn: Lsn(u64::MAX),
        }),
        local_xid: Some(u32::MAX),
        incoming_xid: Some(7),
    }
}

fn bare() -> Conflict<'static> {
    Conflict {
        schema: "public",
        table: "t",
        key: None,
        kind: "delete_missing",
        decision: "kept local",
        policy: "last_update_wins",
        local_row: None,
        incoming_row: None,
        local: None,
        incoming: None,
        local_position: None,
        incoming_position: None,
        local_xid: None,
        incoming_xid: None,
    }
}

#[tokio::test]
async fn many_decisions_are_one_statement() {
    for server in servers() {
        let client = set_up(&server, "decisions").await;
        let mut rows = ConflictRows::new(NodeId(2));
        assert!(rows.is_empty());
        rows.push(&full(r#"{"id": 1}"#));
        rows.push(&bare());
        for n in 0..100 {
            rows.push(&full(&format!(r#"{{"id": {n}}}"#)));
        }
        assert_eq!(rows.len(), 102);
        assert_eq!(insert(&client, &mut rows).await, 102);
        assert!(rows.is_empty());
        rows.push(&bare());
        assert_eq!(insert(&client, &mut rows).await, 1);

        let row = client
            .query_one(
                r#"select "table", key ->> 'id', kind, decision, local_site, local_row ->> 'city',
                          local_written_at::text, incoming_site, incoming_row ->> 'city',
                          extract(epoch from incoming_written_at)::text, policy, decided_by,
                          local_position, incoming_position, local_xid::text, incoming_xid::text,
                          (clock_timestamp() - decided_at < '1 min')::text
                     from everywrite.conflicts order by id limit 1"#,
                &[],
            )
            .await
            .expect("read");
        let read: Vec<String> = (0..row.len()).map(|i| row.get(i)).collect();
        assert_eq!(
            read.join("|"),
            "public.\"Order Lines\"|1|update_origin_differs|applied|a|Köln|\
             2000-01-01 00:00:01.5+00|c|Ürümqi|946684802.000001|last_update_wins|b|\
             a 0/10|c FFFFFFFF/FFFFFFFF|4294967295|7|true"
        );
        let empty: bool = one(
            &client,
            "select num_nulls(key, local_row, incoming_row, local_site, incoming_site,
                    local_written_at, incoming_written_at, local_position, incoming_position,
                    local_xid, incoming_xid) = 11
               from everywrite.conflicts where kind = 'delete_missing' limit 1",
        )
        .await;
        assert!(empty);
    }
}

#[tokio::test]
async fn a_lost_row_can_be_put_back() {
    for server in servers() {
        let client = set_up(&server, "lost").await;
        client
            .batch_execute(
                r#"create table "Order Lines" (id int primary key, city text);
                   insert into "Order Lines" values (1, 'Ürümqi')"#,
            )
            .await
            .expect("table");
        let mut rows = ConflictRows::new(NodeId(1));
        rows.push(&full(r#"{"id": 1}"#));
        insert(&client, &mut rows).await;
        client
            .batch_execute(
                r#"update "Order Lines" t set city = old.city
                     from everywrite.conflicts c,
                          jsonb_populate_record(null::"Order Lines", c.local_row) old
                    where c.id = 1 and t.id = old.id"#,
            )
            .await
            .expect("put back");
        let city: String = one(&client, r#"select city from "Order Lines""#).await;
        assert_eq!(city, "Köln");
    }
}

#[tokio::test]
async fn history_is_kept_by_age_and_by_number() {
    for server in servers() {
        let client = set_up(&server, "kept").await;
        let mut rows = ConflictRows::new(NodeId(1));
        (0..20).for_each(|_| rows.push(&bare()));
        insert(&client, &mut rows).await;
        client
            .batch_execute(
                "update everywrite.conflict_history
                    set decided_at = decided_at - interval '2 days' where id <= 5",
            )
            .await
            .expect("age");
        let day = std::time::Duration::from_secs(86_400);
        let forget = |age, keep| forget_conflicts(&client, age, keep);
        assert_eq!(forget(None, None).await.expect("forget"), 0);
        assert_eq!(forget(Some(day), None).await.expect("forget"), 5);
        assert_eq!(forget(Some(day), Some(100)).await.expect("forget"), 0);
        assert_eq!(forget(None, Some(4)).await.expect("forget"), 11);
        assert_eq!(forget(None, Some(4)).await.expect("forget"), 0);
        let left: String = one(
            &client,
            "select string_agg(id::text, ' ' order by id) from everywrite.conflict_history",
        )
        .await;
        assert_eq!(left, "17 18 19 20");
        let some = "select everywrite.forget_conflicts(null, 0, 3)";
        assert_eq!(one::<i64>(&client, some).await, 3);
    }
}
