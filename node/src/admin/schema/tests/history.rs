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
