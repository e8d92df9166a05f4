use everywrite_conflict::Lsn;

use super::*;
use crate::admin::schema::publish_status;
use crate::telemetry::{OriginState, OriginStatus, PeerStatus, Status};

fn status() -> Status {
    Status {
        node: NodeId(1),
        name: "a".into(),
        origins: vec![
            OriginStatus {
                node: NodeId(2),
                name: "b".into(),
                state: OriginState::Held,
                reason: Some("table public.t does not exist here".into()),
                journal_end: Lsn(0x200),
                applied: Lsn(0x100),
                lag_bytes: 0x100,
                lag_s: 1.5,
                transactions_per_s: 12.34,
                conflicts: 7,
                ..OriginStatus::default()
            },
            OriginStatus {
                node: NodeId(3),
                name: "c".into(),
                ..OriginStatus::default()
            },
        ],
        peers: vec![
            PeerStatus {
                node: NodeId(2),
                name: "b".into(),
                address: "b.example:7070".into(),
                connected: true,
                rtt_ms: Some(2.5),
                clock_skew_ms: Some(-1.0),
                received_bytes: 10,
                feeds: vec![NodeId(3), NodeId(2)],
                ..PeerStatus::default()
            },
            PeerStatus {
                node: NodeId(3),
                name: "c".into(),
                error: Some("connection refused".into()),
                ..PeerStatus::default()
            },
        ],
        ..Status::default()
    }
}

async fn lines(client: &Client, sql: &str) -> Vec<String> {
    let rows = client.query(sql, &[]).await.expect(sql);
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn views_show_what_the_daemon_publishes() {
    for server in servers() {
        let client = set_up(&server, "views").await;
        let origins = "select concat_ws('|', name, state, reason, received, applied, lag_bytes,
                              lag, rate, conflicts, daemon_alive) from everywrite.status";
        let peers = "select concat_ws('|', name, connected, rtt, clock_skew, received_bytes,
                            feeds, error) from everywrite.peers";
        assert!(lines(&client, origins).await.is_empty());
        for _ in 0..2 {
            publish_status(&client, &status()).await.expect("publish");
        }
        assert_eq!(
            lines(&client, origins).await,
            [
                "b|held|table public.t does not exist here|0/200|0/100|256|00:00:01.5|12.3|7|t",
                "c|replaying|0/0|0/0|0|00:00:00|0.0|0|t",
            ]
        );
        assert_eq!(
            lines(&client, peers).await,
            [
                "b|t|00:00:00.0025|-00:00:00.001|10|{c,b}",
                "c|f|0|{}|connection refused",
            ]
        );

        client
            .batch_execute(
                "update everywrite.node_status set updated_at = updated_at - interval '6 s'",
            )
            .await
            .expect("age");
        let stale = lines(
            &client,
            "select concat_ws('|', name, state, daemon_alive, reason) from everywrite.status",
        )
        .await;
        assert!(
            stale[0].starts_with("b|unknown|f|the daemon has not reported since 20"),
            "{stale:?}"
        );
        let connected = "select bool_or(connected or daemon_alive) from everywrite.peers";
        assert!(!one::<bool>(&client, connected).await);
    }
}

#[tokio::test]
async fn a_second_of_status_costs_no_table_growth() {
    for server in servers().take(1) {
        let client = set_up(&server, "growth").await;
        for _ in 0..300 {
            publish_status(&client, &status()).await.expect("publish");
        }
        let bytes: i64 = one(
            &client,
            "select pg_total_relation_size('everywrite.node_status')",
        )
        .await;
        assert!(bytes < 2_000_000, "{bytes}");
    }
}
