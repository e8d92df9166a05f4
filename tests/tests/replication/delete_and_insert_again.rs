//! Two sites delete a row and insert its key again.

use everywrite_tests::cluster::Cluster;

#[tokio::test]
async fn the_later_insert_stays() {
    let cluster = Cluster::start().await.unwrap();
    let begin = "insert into items values (1, 0, 'begin')";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();

    cluster.cut_all();
    for index in [0, 1] {
        let site = cluster.site(index);
        site.execute("delete from items where id = 1")
            .await
            .unwrap();
        let insert = format!("insert into items values (1, {index}, 'again')");
        site.execute(&insert).await.unwrap();
    }
    // And once inside one transaction, at a third site, before it hears of the others.
    let third = "begin; delete from items; insert into items values (1, 2, 'again'); commit";
    cluster.site(2).execute(third).await.unwrap();
    cluster.heal();
    assert_eq!(cluster.converged().await.unwrap(), 1);
    let row = cluster.site(0).value("select n from items").await;
    assert_eq!(row.unwrap(), "2");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_key_that_comes_and_goes_all_the_time() {
    let cluster = Cluster::start().await.unwrap();
    let mut writers = Vec::new();
    for site in &cluster.sites {
        let client = site.sql().await.unwrap();
        writers.push(tokio::spawn(async move {
            for n in 0..150 {
                let sql = format!("insert into items values (1, {n}, null) on conflict do nothing");
                client.batch_execute(&sql).await.ok();
                client.batch_execute("delete from items").await.ok();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let last = "insert into items values (1, -1, 'last') \
        on conflict (id) do update set n = -1, note = 'last'";
    cluster.converged().await.unwrap();
    cluster.site(1).execute(last).await.unwrap();
    assert_eq!(cluster.converged().await.unwrap(), 1);
    cluster.finish().unwrap();
}
