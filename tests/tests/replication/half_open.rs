//! A connection that is neither alive nor closed: noticed, and replaced.

use std::time::{Duration, Instant};

use everywrite_tests::cluster::Cluster;
use everywrite_tests::proxy::{Direction, Flow};

const COUNT: &str = "select count(*) from items";

#[tokio::test]
async fn silence_is_noticed_and_routed_around() {
    let cluster = Cluster::start().await.unwrap();
    cluster.freeze(0, 1);
    cluster
        .site(0)
        .execute("insert into items values (1, 0, 'a')")
        .await
        .unwrap();
    let begin = Instant::now();
    cluster.site(1).wait_value(COUNT, "1").await.unwrap();
    let took = begin.elapsed();
    assert!(
        took < Duration::from_secs(30),
        "noticed only after {took:?}"
    );
    cluster.heal();
    assert_eq!(cluster.converged().await.unwrap(), 1);
}

#[tokio::test]
async fn one_direction_goes_silent() {
    let cluster = Cluster::start().await.unwrap();
    for proxy in [cluster.proxy(1, 0), cluster.proxy(1, 2)] {
        proxy.set_flow(Direction::Inward, Flow::Hold);
    }
    cluster
        .site(0)
        .execute("insert into items values (1, 0, 'a')")
        .await
        .unwrap();
    cluster
        .site(1)
        .execute("insert into items values (2, 0, 'b')")
        .await
        .unwrap();
    cluster.site(2).wait_value(COUNT, "2").await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    cluster.heal();
    assert_eq!(cluster.converged().await.unwrap(), 2);
}

#[tokio::test]
async fn connections_that_break_all_the_time() {
    let cluster = Cluster::start().await.unwrap();
    let client = cluster.site(0).sql().await.unwrap();
    for id in 0..300 {
        let sql = format!("insert into items values ({id}, 0, repeat('x', 2000))");
        client.batch_execute(&sql).await.unwrap();
        if id % 20 == 0 {
            for proxy in cluster.proxies() {
                proxy.drop_connections();
            }
        }
    }
    assert_eq!(cluster.converged().await.unwrap(), 300);
}
