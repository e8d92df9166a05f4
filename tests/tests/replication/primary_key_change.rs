//! A row's primary key changes at one site while another site updates the row: a change of key is a
//! delete of the old key and an insert of the new one.

use everywrite_tests::cluster::Cluster;

async fn with_one_row() -> Cluster {
    let cluster = Cluster::start().await.unwrap();
    let begin = "insert into items values (1, 1, 'row')";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    cluster.cut_all();
    cluster
}

const MOVE: &str = "update items set id = 10 where id = 1";
const UPDATE: &str = "update items set n = 2 where id = 1";
const ALL: &str = "select string_agg(items::text, ' ' order by id) from items";

#[tokio::test]
async fn a_later_update_keeps_the_old_key_alive() {
    let cluster = with_one_row().await;
    cluster.site(0).execute(MOVE).await.unwrap();
    cluster.site(1).execute(UPDATE).await.unwrap();
    cluster.heal();
    cluster.converged().await.unwrap();
    let rows = cluster.site(2).value(ALL).await.unwrap();
    assert_eq!(rows, "(1,2,row) (10,1,row)");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn an_earlier_update_loses_to_the_move() {
    let cluster = with_one_row().await;
    cluster.site(1).execute(UPDATE).await.unwrap();
    cluster.site(0).execute(MOVE).await.unwrap();
    cluster.heal();
    cluster.converged().await.unwrap();
    let rows = cluster.site(2).value(ALL).await.unwrap();
    assert_eq!(rows, "(10,1,row)");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn two_sites_move_the_row_to_different_keys() {
    let cluster = with_one_row().await;
    cluster.site(0).execute(MOVE).await.unwrap();
    let other = "update items set id = 20 where id = 1";
    cluster.site(1).execute(other).await.unwrap();
    let back = "begin; update items set id = 30; update items set id = 1; commit";
    cluster.site(2).execute(back).await.unwrap();
    cluster.heal();
    cluster.converged().await.unwrap();
    let rows = cluster.site(2).value(ALL).await.unwrap();
    assert_eq!(rows, "(1,1,row) (10,1,row) (20,1,row)");
    cluster.finish().unwrap();
}
