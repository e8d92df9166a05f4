//! Every lost row is in the conflict history of the site that decided, with the row that won, both
//! versions, the kind and the decision; SQL can put it back.

use everywrite_tests::cluster::Cluster;

#[tokio::test]
async fn both_rows_and_both_versions_are_there() {
    let cluster = Cluster::start().await.unwrap();
    let begin = "insert into items values (1, 0, 'begin')";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    cluster.cut_all();
    cluster
        .site(0)
        .execute("update items set n = 1, note = 'of a'")
        .await
        .unwrap();
    cluster
        .site(1)
        .execute("update items set n = 2, note = 'of b'")
        .await
        .unwrap();
    cluster.heal();
    cluster.converged().await.unwrap();

    // At a the incoming row won, at b the local one stayed.
    let at_a = cluster.site(0).conflicts().await.unwrap();
    let at_b = cluster.site(1).conflicts().await.unwrap();
    assert_eq!((at_a.len(), at_b.len()), (1, 1), "{at_a:?} {at_b:?}");
    let (at_a, at_b) = (&at_a[0], &at_b[0]);
    assert!(at_a.applied() && !at_b.applied(), "{at_a:?} {at_b:?}");
    for conflict in [at_a, at_b] {
        assert_eq!(conflict.kind, "update_origin_differs");
        assert!(conflict.table.ends_with("items"));
        assert_eq!(conflict.loser().column("note").as_deref(), Some("of a"));
        assert_eq!(conflict.loser().column("n").as_deref(), Some("1"));
        assert_eq!(conflict.winner().column("note").as_deref(), Some("of b"));
        assert_eq!(conflict.loser().site.as_deref(), Some("a"));
        assert_eq!(conflict.winner().site.as_deref(), Some("b"));
        assert!(conflict.loser().version.is_some() && conflict.winner().version.is_some());
        assert_eq!(conflict.contradiction(), None);
    }
    assert_eq!(at_a.loser().version, at_b.loser().version);
    assert_eq!(at_a.winner().version, at_b.winner().version);

    let put_back = "insert into items select (jsonb_populate_record(null::items, local_row)).* \
        from everywrite.conflicts on conflict (id) do update set n = excluded.n, note = excluded.note";
    cluster.site(0).execute(put_back).await.unwrap();
    cluster.converged().await.unwrap();
    let row = cluster.site(2).value("select note from items").await;
    assert_eq!(row.unwrap(), "of a");
    cluster.finish().unwrap();
}

#[tokio::test]
async fn counters_in_the_status_agree() {
    let cluster = Cluster::start().await.unwrap();
    cluster.cut_all();
    for site in [0, 1] {
        let insert =
            format!("insert into items select g, {site}, null from generate_series(1, 50) g");
        cluster.site(site).execute(&insert).await.unwrap();
    }
    cluster.heal();
    cluster.converged().await.unwrap();
    for site in &cluster.sites {
        let history = site.conflicts().await.unwrap().len() as u64;
        let counted: u64 = site.node.status().await.unwrap().conflicts.values().sum();
        assert_eq!(history, counted, "at {}", site.node.name());
        assert!(history >= 50, "only {history} at {}", site.node.name());
    }
    cluster.finish().unwrap();
}
