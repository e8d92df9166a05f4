use std::collections::BTreeMap;
use std::sync::Arc;

use everywrite_conflict::{Lsn, NodeId};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::admin::http;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{
    CaptureStatus, IndexStatus, OpenConflicts, OriginState, OriginStatus, PeerStatus,
    PostgresStatus,
};

fn busy() -> Status {
    Status {
        node: NodeId(1),
        name: "a".into(),
        cluster: "shop".into(),
        version: "0.1.0".into(),
        uptime_s: 11_520.0,
        ready: false,
        waiting_for: vec!["the transactions of c, which are held".into()],
        postgres: PostgresStatus {
            connected: true,
            version: "15.20".into(),
            error: None,
        },
        capture: CaptureStatus {
            state: "streaming".into(),
            captured_lsn: Lsn(0x16_B374_D848),
            journal_end: Lsn(0x16_B374_D800),
            transactions: 12_345,
            changes: 67_890,
            transactions_per_s: 1_234.5,
            journal_bytes: 64 << 20,
            ..CaptureStatus::default()
        },
        origins: vec![
            OriginStatus {
                node: NodeId(2),
                name: "b".into(),
                journal_end: Lsn(0x2000),
                applied: Lsn(0x1000),
                lag_bytes: 0x1000,
                lag_s: 0.25,
                transactions_per_s: 99.0,
                journal_bytes: 32 << 20,
                ..OriginStatus::default()
            },
            OriginStatus {
                node: NodeId(3),
                name: "c".into(),
                state: OriginState::Held,
                reason: Some("table public.orders does not exist here".into()),
                conflicts: 7,
                ..OriginStatus::default()
            },
        ],
        peers: vec![
            PeerStatus {
                node: NodeId(2),
                name: "b".into(),
                address: "b.example:7400".into(),
                connected: true,
                connected_inbound: true,
                rtt_ms: Some(1.25),
                clock_skew_ms: Some(-0.5),
                received_bytes: 5 << 20,
                sent_bytes: 1000,
                feeds: vec![NodeId(2), NodeId(3)],
                ..PeerStatus::default()
            },
            PeerStatus {
                node: NodeId(3),
                name: "c".into(),
                address: "c.example:7400".into(),
                error: Some("connection refused".into()),
                ..PeerStatus::default()
            },
        ],
        index: IndexStatus {
            entries: 1_000,
            forgotten: 5,
            ..IndexStatus::default()
        },
        conflicts: BTreeMap::from([
            ("update_origin_differs".into(), 7),
            ("insert_exists".into(), 0),
        ]),
        ..Status::default()
    }
}

#[test]
fn shows_what_matters() {
    let shown = render(&busy());
    assert_eq!(shown, include_str!("expected.txt"));
    let guide = include_str!("../../../../docs/guide/monitoring.md");
    assert!(guide.contains(&shown), "the guide shows another picture");
}

#[test]
fn a_node_that_knows_nothing_yet_still_renders() {
    let text = render(&Status::default());
    assert!(text.contains("not connected"), "{text}");
    assert!(text.contains("conflicts  none"), "{text}");
    assert!(!text.contains("origin"), "{text}");
}

#[test]
fn that_processors_are_busy_is_said() {
    let mut status = busy();
    status.capture.processor_wait_s = 0.000_84;
    let line = "\n           threads wait 0.8 ms for a processor: commits leave in larger rounds\n";
    assert!(render(&status).contains(line), "{}", render(&status));
    status.capture.processor_wait_s = 0.000_09;
    assert_eq!(render(&status), render(&busy()));
}

#[test]
fn what_is_open_is_counted_with_the_age_of_the_oldest() {
    let open = |merging, parked, oldest_at_us| OpenConflicts {
        merging,
        parked,
        oldest_at_us,
        ..OpenConflicts::default()
    };
    let status = Status {
        gathered_at_us: 400_000_000,
        open_conflicts: vec![
            open(2, 0, 390_000_000),
            open(1, 3, 97_500_000),
            open(0, 0, 0),
        ],
        ..Status::default()
    };
    let text = render(&status);
    let line = "open       3 to be merged, 3 parked, the oldest for 5 min 2 s;";
    assert!(text.contains(line), "{text}");
    assert!(!render(&Status::default()).contains("open  "));
}

async fn serve(status: Status) -> (String, CancellationToken) {
    let shutdown = CancellationToken::new();
    let options = http::Options {
        address: "127.0.0.1:0".into(),
        status: Arc::new(move || status.clone()),
        metrics: Metrics::new(),
        shutdown: shutdown.clone(),
    };
    let handle = options.start().await.expect("listens");
    (handle.address().to_string(), shutdown)
}

#[tokio::test]
async fn exit_codes_tell_ready_from_not_ready_from_gone() {
    let (address, shutdown) = serve(busy()).await;
    let (text, code) = show(&address, false).await.expect("answers");
    assert_eq!((code, text), (NOT_READY, render(&busy())));
    let ready = Status {
        ready: true,
        ..busy()
    };
    let (other, _shutdown) = serve(ready.clone()).await;
    let (text, code) = show(&other, true).await.expect("answers");
    assert_eq!(code, READY);
    assert_eq!(
        serde_json::from_str::<Status>(&text).expect("is JSON"),
        ready
    );

    shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let error = show(&address, false).await.expect_err("gone").to_string();
    assert!(
        error.starts_with(&format!("no daemon answers at {address} (")),
        "{error}"
    );
    assert!(
        error.contains("everywrite run") && !error.contains('\n'),
        "{error}"
    );
}

#[tokio::test]
async fn something_else_that_listens_there_is_said_to() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("binds");
    let address = listener.local_addr().expect("has one").to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let _ = stream.read(&mut [0; 1000]).await;
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n<html>").await;
    });
    let error = show(&address, false)
        .await
        .expect_err("not ours")
        .to_string();
    assert!(error.contains("does not send the status"), "{error}");
}

#[test]
fn a_document_of_another_version_is_still_shown() {
    let status: Status =
        serde_json::from_str(r#"{"name":"a","ready":true,"new_field":[1]}"#).expect("reads");
    assert!(status.ready);
    assert!(render(&status).contains(": ready"));
}

#[test]
fn the_address_comes_from_the_settings_alone() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("everywrite.toml");
    let at = |text: &str| {
        std::fs::write(&file, text).expect("write");
        address(&StatusArgs {
            config: Some(file.clone()),
            ..StatusArgs::default()
        })
    };
    let whole = "[node]\nid = \"wrong\"\n[listen]\nadmin = \"0.0.0.0:9000\"";
    assert_eq!(at(whole).expect("reads"), "127.0.0.1:9000");
    assert_eq!(at("[node]\nid = 1").expect("reads"), DEFAULT_ADDRESS);
    let error = at("[listen\n").expect_err("not TOML").to_string();
    assert!(
        error.contains("everywrite.toml") && error.contains("line 1"),
        "{error}"
    );
    let missing = address(&StatusArgs {
        config: Some(folder.path().join("none.toml")),
        ..StatusArgs::default()
    });
    let error = missing.expect_err("not there").to_string();
    assert!(
        error.contains("none.toml") && error.contains("--admin"),
        "{error}"
    );
}

#[test]
fn arguments_as_people_write_them() {
    use clap::Parser;
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        status: StatusArgs,
    }
    let parse = |arguments: &[&str]| {
        Line::try_parse_from([&["x"], arguments].concat()).map(|line| line.status)
    };
    assert_eq!(parse(&[]).expect("reads").watch, None);
    assert_eq!(parse(&["--watch"]).expect("reads").watch, Some(1));
    assert_eq!(
        parse(&["--watch", "5", "--json"]).expect("reads").watch,
        Some(5)
    );
    assert!(parse(&["--watch", "0"]).is_err());
    assert!(parse(&["--config", "f", "--admin", "x:1"]).is_err());
}
