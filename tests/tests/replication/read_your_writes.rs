//! `everywrite.last_commit()` here, `everywrite.wait_for()` there: what was written here is read there.

use everywrite_tests::cluster::Cluster;

#[tokio::test]
async fn what_one_site_committed_is_read_at_another_after_waiting() {
    let cluster = Cluster::start().await.unwrap();
    let writer = cluster.site(0).sql().await.unwrap();
    let reader = cluster.site(1).sql().await.unwrap();
    for id in 1..=60_i64 {
        let sql = format!("insert into items values ({id}, 0, null)");
        writer.batch_execute(&sql).await.unwrap();
        let last = "select everywrite.last_commit()::text";
        let last: String = writer.query_one(last, &[]).await.unwrap().get(0);
        let wait = format!("select everywrite.wait_for('a', '{last}', '30 s')");
        let arrived: bool = reader.query_one(&wait, &[]).await.unwrap().get(0);
        assert!(arrived, "not within 30 s");
        let read = "select count(*) from items";
        let count: i64 = reader.query_one(read, &[]).await.unwrap().get(0);
        assert_eq!(count, id);
    }
    cluster.finish().unwrap();
}

#[tokio::test]
async fn gives_up_when_the_origin_cannot_be_heard() {
    let cluster = Cluster::start().await.unwrap();
    cluster.isolate(0);
    let a = cluster.site(0);
    a.execute("insert into items values (1, 0, null)")
        .await
        .unwrap();
    let last = a.value("select everywrite.last_commit()").await.unwrap();
    let wait = format!("select everywrite.wait_for('a', '{last}', '300 ms')");
    assert_eq!(cluster.site(1).value(&wait).await.unwrap(), "f");
    cluster.heal();
    let wait = format!("select everywrite.wait_for('a', '{last}', '60 s')");
    assert_eq!(cluster.site(1).value(&wait).await.unwrap(), "t");
    cluster.finish().unwrap();
}
