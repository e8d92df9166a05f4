//! Short, seeded cuts of `make soak` and `make chaos`: a random workload while processes are killed and links
//! fail, and with clocks and disks that go wrong too; then all rows are equal and every version is
//! accounted for.
//!
//! A failing run prints the line that repeats it.

use std::time::Duration;

use everywrite_tests::soak::{Options, Summary, run};

const CUT: Duration = Duration::from_secs(20);

/// Judged once: to come to rest takes longer than the load.
fn chaos(seed: u64, sites: usize) -> Options {
    Options {
        round: CUT,
        ..Options::chaos(seed, sites, CUT)
    }
}

async fn soak(options: Options) -> Summary {
    let summary = run(&options, |line| println!("{line}")).await.unwrap();
    println!("{summary}");
    assert!(summary.violations.is_empty(), "{:#?}", summary.violations);
    assert!(summary.acknowledged > 50, "hardly anything was tried");
    summary
}

// Seeds are derived from nothing but the number, so that a failure has a name.

#[tokio::test(flavor = "multi_thread")]
async fn seed_1() {
    soak(Options::soak(1, CUT)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_2() {
    soak(Options::soak(2, CUT)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_with_three_sites() {
    soak(chaos(1, 3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_with_five_sites() {
    soak(chaos(2, 5)).await;
}

/// A group on its way, another one beside it or behind it, all the time.
#[tokio::test(flavor = "multi_thread")]
async fn chaos_with_small_groups() {
    let small_groups = true;
    soak(Options {
        small_groups,
        ..chaos(4, 3)
    })
    .await;
}

/// Between whole rows and columns, and back, while everything is written. Columns are merged again once all sites have
/// come to know of it, so there is a rest between two halves.
#[tokio::test(flavor = "multi_thread")]
async fn chaos_while_policies_change() {
    let faults = "policy".to_owned();
    let options = Options {
        faults,
        round: CUT / 2,
        ..chaos(3, 3)
    };
    let summary = soak(options).await;
    // Else its policy has not changed.
    assert_eq!(summary.turned.len(), 2, "{:?}", summary.turned);
}
