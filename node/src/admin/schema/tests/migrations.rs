use super::*;
use crate::admin::Error;

#[tokio::test]
async fn a_role_without_superuser_sets_it_up_once() {
    for server in servers() {
        let superuser = server.database("plain").await;
        superuser
            .batch_execute("create role everywrite login; create role other login")
            .await
            .expect("roles");

        let client = server.connect("everywrite", "plain").await;
        let error = migrate(&client).await.expect_err("may not create");
        assert!(matches!(error, Error::SchemaMissing { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("create schema everywrite authorization everywrite"),
            "{text}"
        );

        superuser
            .batch_execute("create schema everywrite authorization everywrite")
            .await
            .expect("schema");
        migrate(&client).await.expect("first time");
        let count = "select count(*) from everywrite.migrations where applied_at <= now()";
        let applied: i64 = one(&client, count).await;
        assert!(applied > 0);
        migrate(&client).await.expect("second time");
        assert_eq!(one::<i64>(&client, count).await, applied);

        let other = server.connect("other", "plain").await;
        let error = migrate(&other).await.expect_err("not the owner");
        assert!(
            error
                .to_string()
                .contains("belongs to everywrite, but the daemon connects as other"),
            "{error}"
        );
        migrate(&superuser).await.expect("a superuser may");
    }
}

#[tokio::test]
async fn two_at_once_and_foreign_builds() {
    for server in servers() {
        let first = server.database("builds").await;
        let second = server.connect("postgres", "builds").await;
        let (one_way, other_way) = tokio::join!(migrate(&first), migrate(&second));
        one_way.expect("one of them works");
        other_way.expect("the other finds it done");

        first
            .batch_execute("insert into everywrite.migrations values (99, 'later', 1)")
            .await
            .expect("pretend");
        let error = migrate(&first).await.expect_err("newer");
        assert!(
            matches!(error, Error::SchemaNewer { found: 99, .. }),
            "{error}"
        );

        first
            .batch_execute(
                "delete from everywrite.migrations where version = 99;
                 update everywrite.migrations set checksum = 1 where version = 2",
            )
            .await
            .expect("pretend");
        let error = migrate(&first).await.expect_err("differs");
        assert!(
            matches!(error, Error::SchemaDiffers { version: 2, .. }),
            "{error}"
        );
        let settled: i64 = one(&first, "select count(*) from everywrite.nodes").await;
        assert_eq!(settled, 0, "the session is usable after a refusal");
    }
}
