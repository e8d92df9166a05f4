//! Somebody drops the slot. What was written since then cannot be known: the daemon says so and what
//! to do, and does not go on as if nothing had happened.

use everywrite_tests::cluster::Cluster;
use everywrite_tests::wait;

#[tokio::test]
async fn a_dropped_slot_is_told_and_never_replaced_in_silence() {
    let mut cluster = Cluster::start().await.unwrap();
    cluster.expect_errors(&["slot"]);
    cluster
        .site(0)
        .execute("insert into items values (1, 0, 'a')")
        .await
        .unwrap();
    cluster.converged().await.unwrap();
    cluster.site_mut(0).node.stop().unwrap();
    let a = cluster.site(0);
    let drop = "select pg_drop_replication_slot('everywrite')";
    // The server's side of the connection ends a moment after the daemon.
    wait::until("the slot to be dropped", wait::LIMIT, async || {
        let dropped = a.execute(drop).await;
        dropped.map_err(|err| format!("{err:#}"))
    })
    .await
    .unwrap();
    a.execute("insert into items values (2, 0, 'not in any slot')")
        .await
        .unwrap();

    cluster.site_mut(0).node.start().unwrap();
    let a = cluster.site(0);
    wait::until(
        "the daemon to tell that its slot is gone",
        wait::LIMIT,
        async || {
            let status = a.node.status().await.map_err(|err| format!("{err:#}"))?;
            let told = status.capture.error.clone().unwrap_or_default();
            let told = format!("{told} {}", status.waiting_for.join(" "));
            if told.contains("slot") && !status.ready {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        },
    )
    .await
    .unwrap();
    let slots = a.value("select count(*) from pg_replication_slots").await;
    assert_eq!(slots.unwrap(), "0", "a new slot would hide the gap");
    cluster.finish().unwrap();
}
