use super::*;
use crate::admin::schema::{beyond_newest, forget_conflicts};

#[tokio::test]
async fn history_is_kept_by_age_and_by_number() {
    for server in servers() {
        let client = set_up(&server, "kept").await;
        client
            .batch_execute(
                "insert into everywrite.conflict_history (site, schema_name, table_name, kind, decision)
                 select 1, 'public', 't', 'delete_missing', 'kept local' from generate_series(1, 20);
                 update everywrite.conflict_history
                    set decided_at = decided_at - interval '2 days' where id <= 5",
            )
            .await
            .expect("age");
        let day = std::time::Duration::from_secs(86_400);
        let beyond = |keep| beyond_newest(&client, keep);
        let forget = |up_to| forget_conflicts(&client, day, up_to, 4);
        assert_eq!(forget(None).await.expect("forget"), 4);
        assert_eq!(forget(None).await.expect("forget"), 1);
        assert_eq!(forget(None).await.expect("forget"), 0);
        assert_eq!(beyond(15).await.expect("beyond"), None);
        let up_to = beyond(4).await.expect("beyond");
        assert_eq!(up_to, Some(16));
        for deleted in [4, 4, 3, 0] {
            assert_eq!(forget(up_to).await.expect("forget"), deleted);
        }
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

/// Three sets of three and, before and behind each, one entry by itself: ids 1, 2..4, 5, 6..8, 9, 10..12, 13.
const MIXED: &str = "
    create table public.t (id int primary key, v text);
    do $$
    declare
        n  integer;
    begin
        for n in 1..4 loop
            insert into everywrite.conflict_history (site, schema_name, table_name, kind, decision)
            values (1, 'public', 't', 'delete_missing', 'kept local');
            exit when n = 4;
            insert into everywrite.conflict_sets (last_id, entries, site, schema_name, table_name, kind, decision,
                   local_origin, local_position_origin, incoming_origin, ids, keys, local_rows, incoming_rows, local_stamps,
                   local_position_lsns, incoming_stamps, incoming_position_lsns, incoming_xids)
            select s.ids[3], 3, 1, 'public', 't', 'update_origin_differs', 'applied', 1, 1, 2, s.ids, s.keys, s.l, s.i,
                   array[now(), null, now()], array[null, '0/2'::pg_lsn, '0/3'], array[now(), now(), now()],
                   array['0/1'::pg_lsn, '0/2', '0/3'], array[1, 2, 3]
              from (select array_agg(nextval('everywrite.conflict_history_id_seq')) as ids,
                           array_agg(jsonb_build_object('id', g)) as keys,
                           array_agg(case when g <> 2 then jsonb_build_object('id', g, 'v', n || ' lost') end) as l,
                           array_agg(jsonb_build_object('id', g, 'v', 'won')) as i
                      from generate_series(1, 3) g) s;
        end loop;
    end
    $$";

#[tokio::test]
async fn entries_written_together_are_entries_like_all_others() {
    for server in servers() {
        let client = set_up(&server, "sets").await;
        client.batch_execute(MIXED).await.expect("entries");
        let all = "select string_agg(concat_ws(' ', id, batch, key->>'id', local_row->>'v', local_position, lost_by), ', '
                                     order by id) from everywrite.conflicts where id between 4 and 9";
        let said =
            "4 4 3 1 lost a 0/3 a, 5 5, 6 8 1 2 lost a, 7 8 2 a 0/2 a, 8 8 3 2 lost a 0/3 a, 9 9";
        assert_eq!(one::<String>(&client, all).await, said);
        let found = "select string_agg(concat_ws(' ', g, (select concat_ws(' ', c.id, c.key) from everywrite.conflict(g) c)),
                            ', ' order by g) from unnest(array[1, 4, 7, 14]) g";
        let said = "1 1, 4 4 {\"id\": 3}, 7 7 {\"id\": 2}, 14";
        assert_eq!(one::<String>(&client, found).await, said);

        // Row 3 lost twice; the first loss is put back, as a new row.
        let restored = "select everywrite.restore_row(4)";
        assert_eq!(one::<String>(&client, restored).await, "inserted");
        let row = "select concat_ws(' ', id, v) from public.t";
        assert_eq!(one::<String>(&client, row).await, "3 1 lost");
        let (message, ..) = refusal(&client, "select everywrite.restore_row(7)").await;
        assert_eq!(message, "what lost conflict 7 is a delete, not a row");

        // Other sessions took many ids while a set was written.
        let apart = "update everywrite.conflict_sets set last_id = 50000, ids[3] = 50000 where last_id = 12";
        client.batch_execute(apart).await.expect("apart");
        let found = "select string_agg(concat_ws(' ', c.id, c.batch), ', ' order by c.id)
                       from unnest(array[10, 12, 50000]) g, everywrite.conflict(g) c";
        assert_eq!(one::<String>(&client, found).await, "10 50000, 50000 50000");
    }
}

#[tokio::test]
async fn sets_are_forgotten_as_a_whole() {
    for server in servers() {
        let client = set_up(&server, "sets_kept").await;
        client.batch_execute(MIXED).await.expect("entries");
        let year = std::time::Duration::from_secs(31_536_000);
        let ids = "select string_agg(id::text, ' ' order by id) from everywrite.conflicts";
        // The newest seven are 7 to 13; 6 is of the same set as 7.
        let up_to = beyond_newest(&client, 7).await.expect("beyond");
        assert_eq!(up_to, Some(5));
        // At most one, but a set goes as a whole.
        for (deleted, left) in [
            (1, "2 3 4 5 6 7 8 9 10 11 12 13"),
            (1, "2 3 4 6 7 8 9 10 11 12 13"),
            (3, "6 7 8 9 10 11 12 13"),
            (0, "6 7 8 9 10 11 12 13"),
        ] {
            let gone = forget_conflicts(&client, year, up_to, 1).await;
            assert_eq!(gone.expect("forget"), deleted);
            assert_eq!(one::<String>(&client, ids).await, left);
        }
        let age = "update everywrite.conflict_sets set decided_at = decided_at - interval '2 days' where last_id = 8";
        client.batch_execute(age).await.expect("age");
        let old = "select everywrite.forget_conflicts('1 day', null)";
        assert_eq!(one::<i64>(&client, old).await, 3);
        assert_eq!(one::<String>(&client, ids).await, "9 10 11 12 13");
    }
}
