//! `everywrite.restore_row(id)` writes the row that lost a conflict back, as a new update that goes to
//! every site; what it cannot do, it says.

use everywrite_tests::cluster::{Cluster, Plan};

const ITEMS: &str = "create table items (id bigint generated always as identity primary key, n int, \
    note text, twice int generated always as (n * 2) stored, body text); \
    alter table items alter column body set storage external;";
const STATE: &str = "select n || ' ' || note || ' ' || twice || ' ' || left(body, 3) || length(body) \
    from items where id = 1";

/// One row; then a and b do these, unseen by each other, b later.
async fn meet(at_a: &str, at_b: &str) -> Cluster {
    let cluster = Plan::with_schema(ITEMS).start().await.unwrap();
    let begin = "insert into items (n, note, body) values (0, 'begin', repeat('old', 5000))";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    cluster.cut_all();
    cluster.site(0).execute(at_a).await.unwrap();
    cluster.site(1).execute(at_b).await.unwrap();
    cluster.heal();
    cluster.converged().await.unwrap();
    cluster
}

fn restore(id: &str) -> String {
    format!("select everywrite.restore_row({id})")
}

const LAST: &str = "(select max(id) from everywrite.conflicts)";

/// Every site has this row in the end.
async fn stands(cluster: &Cluster, expected: &str) {
    cluster.converged().await.unwrap();
    assert_eq!(cluster.site(2).value(STATE).await.unwrap(), expected);
}

async fn refused(cluster: &Cluster, site: usize, id: &str) -> String {
    let before = cluster.site(site).value("select count(*) from items");
    let before = before.await.unwrap_or_default();
    let error = cluster.site(site).execute(&restore(id)).await.unwrap_err();
    let after = cluster.site(site).value("select count(*) from items");
    assert_eq!(before, after.await.unwrap_or_default());
    format!("{error:?}")
}

#[tokio::test]
async fn a_row_that_was_overwritten() {
    let cluster = meet(
        "update items set n = 1, note = 'of a'",
        "update items set n = 2, note = 'of b', body = repeat('new', 4000)",
    )
    .await;
    stands(&cluster, "2 of b 4 new12000").await;
    // The row stood whole at a when it lost; in the stream to b its large value was left out.
    let done = cluster.site(1).value(&restore(LAST)).await.unwrap();
    assert_eq!(done, "updated");
    stands(&cluster, "1 of a 2 new12000").await;
    let done = cluster.site(0).value(&restore(LAST)).await.unwrap();
    assert_eq!(done, "updated");
    stands(&cluster, "1 of a 2 old15000").await;
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_row_that_was_deleted() {
    let cluster = meet("update items set n = 1, note = 'of a'", "delete from items").await;
    // b knows only what the update carried.
    let told = refused(&cluster, 1, LAST).await;
    assert!(
        told.contains("not the whole row") && told.contains("body"),
        "{told}"
    );
    let done = cluster.site(0).value(&restore(LAST)).await.unwrap();
    assert_eq!(done, "inserted");
    stands(&cluster, "1 of a 2 old15000").await;
    cluster.finish().unwrap();
}

#[tokio::test]
async fn a_delete_that_lost() {
    let cluster = meet("delete from items", "update items set n = 2, note = 'of b'").await;
    for site in [0, 1] {
        let told = refused(&cluster, site, LAST).await;
        assert!(told.contains("is a delete"), "{told}");
        assert!(
            told.contains("delete from public.items where id = '1';"),
            "{told}"
        );
    }
    stands(&cluster, "2 of b 4 old15000").await;
    cluster.finish().unwrap();
}

#[tokio::test]
async fn what_it_cannot_do_it_says() {
    let cluster = meet("update items set n = 1", "update items set n = 2").await;
    let a = cluster.site(0);
    let told = refused(&cluster, 0, "4711").await;
    assert!(told.contains("no conflict 4711"), "{told}");
    a.execute("alter table items rename note to remark")
        .await
        .unwrap();
    let told = refused(&cluster, 0, LAST).await;
    assert!(
        told.contains("has changed") && told.contains(" note."),
        "{told}"
    );
    a.execute("alter table items rename to things")
        .await
        .unwrap();
    let told = refused(&cluster, 0, LAST).await;
    assert!(told.contains("does not exist any more"), "{told}");
}

/// It does what its caller may do.
#[tokio::test]
async fn with_the_callers_rights() {
    let cluster = meet("update items set n = 1", "update items set n = 2").await;
    let a = cluster.site(0);
    let id = a.value(&format!("select {LAST}")).await.unwrap();
    let roles = "create role support login; grant select on items to support";
    a.execute(roles).await.unwrap();
    let support = a
        .server
        .connect_as("support", everywrite_tests::postgres::DATABASE);
    let support = support.await.unwrap();
    let refused = async |what: &str| {
        let error = support.batch_execute(&restore(&id)).await.unwrap_err();
        let text = format!("{error:?}");
        assert!(text.contains(what), "{text}");
    };
    refused("permission denied for view conflicts").await;
    a.execute("grant select on everywrite.conflicts to support")
        .await
        .unwrap();
    refused("permission denied for table items").await;
    a.execute("grant update on items to support").await.unwrap();
    support.batch_execute(&restore(&id)).await.unwrap();
    stands(&cluster, "1 begin 2 old15000").await;
    cluster.finish().unwrap();
}
