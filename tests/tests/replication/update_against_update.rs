//! Two sites update the same row while they cannot hear each other: the later one wins everywhere.

use everywrite_tests::cluster::Cluster;

#[tokio::test]
async fn the_later_update_wins_at_all_sites() {
    let cluster = Cluster::start().await.unwrap();
    let begin = "insert into items values (1, 0, 'begin'), (2, 0, 'begin')";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();

    cluster.cut_all();
    let update = |n: i32, id: i32| format!("update items set n = {n} where id = {id}");
    cluster.site(0).execute(&update(10, 1)).await.unwrap();
    cluster.site(1).execute(&update(11, 1)).await.unwrap();
    cluster.site(1).execute(&update(21, 2)).await.unwrap();
    cluster.site(2).execute(&update(22, 2)).await.unwrap();
    cluster.heal();

    cluster.converged().await.unwrap();
    let end = cluster
        .site(0)
        .value("select string_agg(n::text, ' ' order by id) from items");
    assert_eq!(end.await.unwrap(), "11 22");
    let mut kinds = Vec::new();
    for site in &cluster.sites {
        kinds.extend(site.conflicts().await.unwrap().into_iter().map(|c| c.kind));
    }
    assert!(
        kinds.iter().all(|kind| kind == "update_origin_differs"),
        "{kinds:?}"
    );
    assert!(kinds.len() >= 2, "{kinds:?}");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn many_concurrent_updates_while_the_links_are_up() {
    let cluster = Cluster::start().await.unwrap();
    let begin = "insert into items select g, 0, null from generate_series(1, 5) g";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();

    let mut writers = Vec::new();
    for (index, site) in cluster.sites.iter().enumerate() {
        let client = site.sql().await.unwrap();
        writers.push(tokio::spawn(async move {
            for n in 0..200 {
                let (n, id) = (n * 10 + index, n % 5 + 1);
                let sql = format!("update items set n = {n} where id = {id}");
                // A deadlock with replay may end one of the two; it is the client's to try again.
                client.batch_execute(&sql).await.ok();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(cluster.converged().await.unwrap(), 5);
    cluster.finish().unwrap();
}
