//! A transaction that cannot be applied holds its stream, and the reason says how to leave it out:
//! `everywrite.skip_transaction(origin, lsn)`, on a person's word, here and only here.

use everywrite_node::telemetry::OriginState;
use everywrite_tests::cluster::Cluster;

#[tokio::test]
async fn the_reason_has_the_statement_that_leaves_it_out() {
    let mut cluster = Cluster::start().await.unwrap();
    cluster.expect_errors(&["tidy"]);
    let (a, b) = (cluster.site(0), cluster.site(1));
    let rule = "alter table items add constraint tidy check (note <> 'unwanted')";
    b.execute(rule).await.unwrap();
    for (id, note) in ["before", "unwanted", "wanted"].iter().enumerate() {
        let insert = format!("insert into items values ({id}, 0, '{note}')");
        a.execute(&insert).await.unwrap();
    }
    let held = b.wait_state(a, OriginState::Held).await.unwrap();
    let reason = held.reason.unwrap_or_default();
    assert!(reason.contains("tidy"), "{reason}");
    let skip = reason.find("select everywrite.skip_transaction(");
    let skip = &reason[skip.expect("no statement in the reason")..];
    let skip = &skip[..=skip.find(')').unwrap()];

    b.execute(skip).await.unwrap();
    cluster.caught_up(1, 0).await.unwrap();
    let notes = "select string_agg(note, ' ' order by note) from items";
    assert_eq!(b.value(notes).await.unwrap(), "before wanted");
    cluster.caught_up(2, 0).await.unwrap();
    let all = cluster.site(2).value(notes).await.unwrap();
    assert_eq!(all, "before unwanted wanted");
    cluster.finish().unwrap();
}
