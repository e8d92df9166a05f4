//! The examples of `docs/guide/conflicts.md` do what the page says.
//!
//! A statement ends with `;` and a comment that says where it belongs and what it gives: `-- at a`,
//! `-- at b: 30`, `-- everywhere: 0`. `-- apart` and `-- together` stand for the page's own blocks.

use everywrite_node::telemetry::OriginState;
use everywrite_tests::cluster::{Cluster, Plan, Site};

const PAGE: &str = include_str!("../../../docs/guide/conflicts.md");

/// The lines of all blocks of SQL that have a place to run at.
fn lines() -> impl Iterator<Item = &'static str> {
    let blocks = PAGE.split("```").skip(1).step_by(2);
    let sql = blocks.filter_map(|block| block.strip_prefix("sql\n"));
    let placed = |block: &&str| block.contains("-- at ") || block.contains("-- everywhere");
    sql.filter(placed).flat_map(str::lines)
}

async fn run(site: &Site, sql: &str, expected: Option<&str>) {
    match expected {
        Some(expected) => site.wait_value(sql, expected).await.unwrap(),
        None => site.execute(sql).await.unwrap(),
    }
}

async fn both(cluster: &Cluster, function: &str, state: OriginState) {
    let (a, b) = (cluster.site(0), cluster.site(1));
    for (here, other) in [(a, b), (b, a)] {
        let name = other.node.name();
        let call = format!("select everywrite.{function}('{name}')");
        here.execute(&call).await.unwrap();
        here.wait_state(other, state).await.unwrap();
    }
}

#[tokio::test]
async fn every_example() {
    let cluster = Plan::with_schema("").start().await.unwrap();
    let mut sql = String::new();
    let mut ran = 0;
    for line in lines() {
        match line {
            "-- apart" => both(&cluster, "pause", OriginState::Paused).await,
            "-- together" => both(&cluster, "resume", OriginState::Replaying).await,
            _ => sql.push_str(line),
        }
        sql.push('\n');
        let Some((statement, place)) = sql.rsplit_once("-- ") else {
            continue;
        };
        let (place, expected) = match place.trim().split_once(": ") {
            Some((place, expected)) => (place, Some(expected)),
            None => (place.trim(), None),
        };
        for site in &cluster.sites {
            if place == "everywhere" || place == format!("at {}", site.node.name()) {
                run(site, statement, expected).await;
                ran += 1;
            }
        }
        sql.clear();
    }
    assert!(ran > 60, "only {ran} statements");
    cluster.converged().await.unwrap();
    cluster.finish().unwrap();
}
