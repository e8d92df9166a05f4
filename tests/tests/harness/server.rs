//! Servers start, stop, crash and come back.

use everywrite_tests::place::scratch;
use everywrite_tests::postgres::{Options, Server};
use everywrite_tests::process::is_running;

#[tokio::test]
async fn starts_with_what_replication_needs() {
    let dir = scratch("ew-").unwrap();
    let server = Server::create(&dir.path().join("a"), &Options::default())
        .await
        .unwrap();
    let shown = |name: &str| format!("select current_setting('{name}')");
    assert_eq!(server.value(&shown("wal_level")).await.unwrap(), "logical");
    assert_eq!(
        server
            .value(&shown("track_commit_timestamp"))
            .await
            .unwrap(),
        "on"
    );
    assert_eq!(server.value(&shown("fsync")).await.unwrap(), "on");
    assert!(server.wal_bytes().await.unwrap() > 0);
}

#[tokio::test]
async fn keeps_what_was_committed_through_a_crash_and_loses_its_children() {
    let dir = scratch("ew-").unwrap();
    let options = Options::default().set("work_mem", "1MB");
    let mut server = Server::create(&dir.path().join("a"), &options)
        .await
        .unwrap();
    server
        .execute("create table t as select generate_series(1, 10) as n")
        .await
        .unwrap();
    let session = server.connect().await.unwrap();
    let backend = session.query_one("select pg_backend_pid()", &[]).await;
    let backend = u32::try_from(backend.unwrap().get::<_, i32>(0)).unwrap();
    let postmaster = server.process_id().unwrap();

    server.crash();
    assert!(!is_running(postmaster));
    assert!(!is_running(backend));
    assert!(server.value("select 1").await.is_err());

    server.start().await.unwrap();
    assert_eq!(server.value("select sum(n) from t").await.unwrap(), "55");
    server.stop_immediately().unwrap();
    server.start().await.unwrap();
    server.restart().await.unwrap();
    assert_eq!(server.value("select sum(n) from t").await.unwrap(), "55");
}

#[tokio::test]
async fn says_why_it_does_not_start() {
    let dir = scratch("ew-").unwrap();
    let options = Options::default().set("wal_level", "nonsense");
    let err = Server::create(&dir.path().join("a"), &options).await;
    let text = format!("{:#}", err.unwrap_err());
    assert!(text.contains("wal_level"), "{text}");
}
