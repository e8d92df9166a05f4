//! `make verify-bench`: how fast `everywrite verify` compares, and what it costs who writes meanwhile.
//!
//! Three sites with one table of pgbench's kind. First the table at rest, then under a load of
//! updates and inserts of single rows at one site, with and without the comparison.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Parser;
use everywrite_tests::cluster::{Cluster, Plan};
use everywrite_tests::random::Random;
use serde_json::Value;

/// Sizes.
#[derive(Parser)]
struct Options {
    /// Rows of the table
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Clients that write at the first site
    #[arg(long, default_value_t = 4)]
    clients: u64,
    /// Seconds of each measurement of the load
    #[arg(long, default_value_t = 15)]
    seconds: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("verify_bench: {err:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let schema =
        "create table accounts (aid bigint primary key, bid int, abalance int, filler char(84))";
    let cluster = Arc::new(
        Plan::with_schema(schema)
            .set("shared_buffers", "256MB")
            .set("max_wal_size", "8GB")
            .start()
            .await?,
    );
    let fill = format!(
        "insert into accounts select k, k / 100000, 0, '' from generate_series(1, {}) k",
        options.rows
    );
    cluster.site(0).execute(&fill).await?;
    cluster.converged_within(Duration::from_secs(300)).await?;
    for site in &cluster.sites {
        site.execute("vacuum analyze accounts").await?;
    }
    println!("{} rows at 3 sites", options.rows);
    for share in ["100", "50", "10"] {
        let found = verify(&cluster, share).await?;
        println!(
            "at rest, --share {share}: {:.0} rows/s, {:.1} s",
            number(&found, "rows_per_s")?,
            number(&found, "seconds")?
        );
    }
    let alone = load(&cluster, options, None).await?;
    println!("load alone: {:.0} tps", alone.0);
    for share in ["100", "50", "10"] {
        let (tps, compared) = load(&cluster, options, Some(share)).await?;
        println!(
            "load with verify --share {share}: {tps:.0} tps ({:+.1} %), {compared:.0} rows/s compared",
            (tps / alone.0 - 1.0) * 100.0
        );
    }
    let again = load(&cluster, options, None).await?;
    println!("load alone again: {:.0} tps", again.0);
    Ok(())
}

fn number(found: &Value, name: &str) -> anyhow::Result<f64> {
    found[name].as_f64().with_context(|| format!("no {name}"))
}

async fn verify(cluster: &Cluster, share: &str) -> anyhow::Result<Value> {
    let arguments = ["verify", "--json", "--share", share];
    let ended = tokio::task::block_in_place(|| cluster.site(2).node.finish(&arguments))?;
    ensure!(ended.code == Some(0), "{ended:?}");
    serde_json::from_str(&ended.output).context("read what verify says")
}

/// Transactions per second of the load; rows per second compared meanwhile, if it is.
async fn load(
    cluster: &Arc<Cluster>,
    options: &Options,
    share: Option<&str>,
) -> anyhow::Result<(f64, f64)> {
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for n in 0..options.clients {
        let (cluster, stop, done) = (Arc::clone(cluster), Arc::clone(&stop), Arc::clone(&done));
        let rows = options.rows;
        clients.push(tokio::spawn(async move {
            let client = cluster.site(0).sql().await?;
            let sql = "update accounts set abalance = abalance + 1 where aid = $1";
            let update = client.prepare(sql).await?;
            let mut random = Random::new(n);
            while !stop.load(Ordering::Relaxed) {
                let aid = i64::try_from(1 + random.below(rows))?;
                client.execute(&update, &[&aid]).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        }));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (began, before) = (Instant::now(), done.load(Ordering::Relaxed));
    let limit = Duration::from_secs(options.seconds);
    let (mut rows, mut seconds) = (0.0, 0.0);
    match share {
        None => tokio::time::sleep(limit).await,
        Some(share) => {
            while began.elapsed() < limit {
                let found = verify(cluster, share).await?;
                rows += number(&found, "rows")?;
                seconds += number(&found, "seconds")?;
            }
        }
    }
    let tps = (done.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await??;
    }
    cluster.converged_within(Duration::from_secs(120)).await?;
    Ok((tps, if seconds > 0.0 { rows / seconds } else { 0.0 }))
}
