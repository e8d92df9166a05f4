//! `LISTEN everywrite_conflict` at a site: the id of each conflict that its own write lost.

use everywrite_tests::cluster::Cluster;

const CHANNEL: &str = "everywrite_conflict";

/// Both sites write the same rows unseen by each other; b's are later.
async fn a_loses(rows: i64) -> Cluster {
    let cluster = Cluster::start().await.unwrap();
    let begin = format!("insert into items select g, 0, 'begin' from generate_series(1, {rows}) g");
    cluster.site(0).execute(&begin).await.unwrap();
    cluster.converged().await.unwrap();
    cluster.cut_all();
    for (site, note) in [(0, "of a"), (1, "of b")] {
        let update = format!("update items set note = '{note}'");
        cluster.site(site).execute(&update).await.unwrap();
    }
    cluster
}

#[tokio::test]
async fn only_the_site_whose_write_lost_is_told() {
    let cluster = a_loses(2).await;
    let (a, b, c) = (cluster.site(0), cluster.site(1), cluster.site(2));
    let mut listeners = Vec::new();
    for site in [a, b, c] {
        listeners.push(site.server.listen(CHANNEL).await.unwrap());
    }
    cluster.heal();
    cluster.converged().await.unwrap();
    let ids = "select string_agg(id::text, ' ' order by id) from everywrite.conflicts \
        where lost_by = decided_by";
    let lost_at_a = a.value(ids).await.unwrap();
    assert_eq!(lost_at_a.split(' ').count(), 2);
    assert_eq!(b.value(ids).await.unwrap(), "");
    let told = listeners[0].heard(CHANNEL).await.unwrap();
    assert_eq!(told.join(" "), lost_at_a);
    for listener in &mut listeners[1..] {
        assert!(listener.heard(CHANNEL).await.unwrap().is_empty());
    }
    cluster.finish().unwrap();
}

/// A transaction that decides thousands tells of a hundred, and from where on there are more.
#[tokio::test]
async fn many_at_once_are_told_in_short() {
    let cluster = a_loses(3_000).await;
    let a = cluster.site(0);
    let mut listener = a.server.listen(CHANNEL).await.unwrap();
    cluster.heal();
    cluster.converged().await.unwrap();
    let told = listener.heard(CHANNEL).await.unwrap();
    assert_eq!(told.len(), 101, "{told:?}");
    let (more, single) = told.split_last().unwrap();
    let from = more.strip_suffix('+').expect("an id with a plus");
    let list = single.join(", ");
    let missing = format!(
        "select count(*) from everywrite.conflicts \
          where lost_by = decided_by and id < {from} and id not in ({list})"
    );
    assert_eq!(a.value(&missing).await.unwrap(), "0");
    let rest = format!(
        "select count(*) from everywrite.conflicts where lost_by = decided_by and id >= {from}"
    );
    assert_eq!(a.value(&rest).await.unwrap(), "2900");
    cluster.finish().unwrap();
}
