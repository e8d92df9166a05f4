//! Rows fetched from another node.

use bytes::Bytes;
use everywrite_conflict::{Lsn, NodeId, Position};

use super::cluster::Cluster;
use super::proxy::Mode;
use crate::link::{Error, FetchRow};

fn row(table: &str, columns: usize) -> FetchRow {
    FetchRow {
        schema: "public".to_owned(),
        table: table.to_owned(),
        key: vec![
            ("a".to_owned(), Bytes::from_static(&[0, 1, 255])),
            ("b".to_owned(), Bytes::new()),
        ],
        columns: vec!["x".to_owned(); columns],
        at: Position {
            origin: NodeId(2),
            lsn: Lsn(77),
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_come_back_whole() {
    let cluster = Cluster::start(2).await;
    cluster.all_connected().await;
    let two = NodeId(2);
    let handle = &cluster.node(1).handle;
    let echo = handle.fetch_row(two, row("echo", 2)).await.unwrap();
    assert_eq!(
        echo.unwrap().values,
        [Some(Bytes::from_static(&[0, 1, 255])), Some(Bytes::new())]
    );
    assert_eq!(handle.fetch_row(two, row("empty", 2)).await.unwrap(), None);
    // Larger than any control message, and with a NULL.
    let big = handle.fetch_row(two, row("big", 2)).await.unwrap().unwrap();
    assert_eq!(big.values[0].as_ref().unwrap().len(), 5 << 20);
    assert_eq!(big.values[1], None);

    let failed = handle.fetch_row(two, row("broken", 2)).await.unwrap_err();
    assert!(failed.to_string().contains("no such table"), "{failed}");
    let failed = handle.fetch_row(two, row("echo", 3)).await.unwrap_err();
    assert!(failed.to_string().contains("2 values for 3 columns"));
    let failed = handle.fetch_row(NodeId(9), row("echo", 2)).await;
    assert!(matches!(failed, Err(Error::NotConnected(NodeId(9)))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_answer_is_an_error() {
    let cluster = Cluster::start(2).await;
    cluster.all_connected().await;
    let handle = &cluster.node(1).handle;
    let slow = handle.fetch_row(NodeId(2), row("slow", 2)).await;
    assert!(matches!(slow, Err(Error::FetchTimeout(..))), "{slow:?}");
    let cut = async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        cluster.set(1, 2, Mode::Cut);
    };
    let (lost, ()) = tokio::join!(handle.fetch_row(NodeId(2), row("slow", 2)), cut);
    assert!(matches!(lost, Err(Error::FetchLost(NodeId(2)))), "{lost:?}");
}
