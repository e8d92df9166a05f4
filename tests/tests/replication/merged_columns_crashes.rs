//! Merged rows while daemons and servers are killed: every difference counts exactly once, and all sites
//! hold the same rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use everywrite_tests::cluster::{Cluster, Plan};
use everywrite_tests::postgres::connect;
use everywrite_tests::random::Random;

use super::merged_columns::{SCHEMA, set};

const OPTIONS: &str = r#"{"delta": ["balance"], "greatest": ["seen"], "least": ["low"]}"#;
const KEYS: u64 = 4;

/// Writes at every site until told to end; what fails was not committed, or the record beside it says
/// that it was.
pub(crate) struct Writers {
    end: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<u64>>,
}

impl Writers {
    pub(crate) fn start(cluster: &Cluster, statement: fn(&mut Random, usize) -> String) -> Writers {
        let end = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for (index, site) in cluster.sites.iter().enumerate() {
            let (dir, end) = (site.server.dir().to_owned(), Arc::clone(&end));
            tasks.push(tokio::spawn(async move {
                let mut random = Random::new(100 + index as u64);
                let mut done = 0;
                let mut client = None;
                while !end.load(Ordering::Relaxed) {
                    let sql = statement(&mut random, index);
                    let session = match client.take() {
                        Some(session) => Ok(session),
                        None => connect(&dir, "postgres", "app").await,
                    };
                    match session {
                        Ok(session) => {
                            if session.batch_execute(&sql).await.is_ok() {
                                done += 1;
                            }
                            let _ = session.batch_execute("rollback").await;
                            client = Some(session).filter(|s| !s.is_closed());
                        }
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                done
            }));
        }
        Writers { end, tasks }
    }

    pub(crate) async fn end(self) -> u64 {
        self.end.store(true, Ordering::Relaxed);
        let mut done = 0;
        for task in self.tasks {
            done += task.await.unwrap();
        }
        done
    }
}

async fn start() -> Cluster {
    let cluster = Plan::with_schema(SCHEMA).start().await.unwrap();
    let begin =
        format!("insert into stock select g, 'x', 'x', 0, 0, 0 from generate_series(1, {KEYS}) g");
    cluster.site(0).execute(&begin).await.unwrap();
    cluster.converged().await.unwrap();
    set(&cluster, 0, OPTIONS).await;
    cluster
}

fn difference(random: &mut Random, _: usize) -> String {
    let key = random.below(KEYS) + 1;
    format!(
        "begin; insert into done (k) values ({key}); update stock set balance = balance + 1 where id = {key}; commit"
    )
}

fn anything(random: &mut Random, site: usize) -> String {
    let (key, n) = (random.below(KEYS) + 1, random.below(1000));
    let update = |set: String| format!("update stock set {set} where id = {key}");
    match random.below(12) {
        0 => format!("delete from stock where id = {key}"),
        1 | 2 => format!(
            "insert into stock values ({key}, 'i{site}', 'i{n}', {n}, {n}, {n}) on conflict do nothing"
        ),
        3 => format!(
            "begin; delete from stock where id = {key}; insert into stock values ({key}, 'r{site}', 'r{n}', {n}, {n}, {n}); commit"
        ),
        4 | 5 => update(format!("label = 'l{n}'")),
        6 => update(format!("label = 'b{n}', place = 'b{n}'")),
        7 => update(format!("place = 'p{n}', balance = balance - {n}")),
        8 => update(format!("seen = {n}")),
        9 => update(format!("seen = {n}, low = {n}")),
        10 => format!(
            "begin; update stock set label = 'one' where id = {key}; update stock set balance = balance + {n} where id = {key}; \
             update stock set label = 'two', low = {n} where id = {key}; commit"
        ),
        _ => update(format!("balance = balance + {n}")),
    }
}

pub(crate) async fn kill(cluster: &mut Cluster, seed: u64, rounds: usize, servers: bool) {
    let mut random = Random::new(seed);
    for _ in 0..rounds {
        tokio::time::sleep(Duration::from_millis(300 + random.below(700))).await;
        let index = random.index(3);
        if servers && random.below(2) == 0 {
            cluster.site_mut(index).server.crash();
            tokio::time::sleep(Duration::from_millis(random.below(300))).await;
            cluster.site_mut(index).server.start().await.unwrap();
        } else {
            cluster.site_mut(index).node.crash();
            tokio::time::sleep(Duration::from_millis(random.below(300))).await;
            cluster.site_mut(index).node.start().unwrap();
        }
    }
}

/// The sums of the differences are the numbers of records that were committed with them.
async fn exactly_once(cluster: &Cluster) {
    let counted = "select string_agg(s.id || ':' || (s.balance - (select count(*) from done d where d.k = s.id)), ' ' \
        order by s.id) from stock s";
    for site in &cluster.sites {
        let counted = site.value(counted).await.unwrap();
        assert_eq!(counted, "1:0.00 2:0.00 3:0.00 4:0.00");
    }
}

#[tokio::test]
async fn every_difference_counts_once_whatever_is_killed() {
    let mut cluster = start().await;
    let writers = Writers::start(&cluster, difference);
    kill(&mut cluster, 3, 6, true).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(writers.end().await > 100);
    cluster.wait_ready().await.unwrap();
    cluster.converged().await.unwrap();
    exactly_once(&cluster).await;
    cluster.finish().unwrap();
}

#[tokio::test]
async fn anything_at_once_converges() {
    let cluster = start().await;
    let writers = Writers::start(&cluster, anything);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(writers.end().await > 100);
    cluster.converged().await.unwrap();
    cluster.finish().unwrap();
}

#[tokio::test]
async fn anything_while_links_break_converges() {
    let cluster = start().await;
    let writers = Writers::start(&cluster, anything);
    for round in 0..6 {
        cluster.isolate(round % 3);
        tokio::time::sleep(Duration::from_millis(400)).await;
        cluster.heal();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(writers.end().await > 100);
    cluster.converged().await.unwrap();
    cluster.finish().unwrap();
}

#[tokio::test]
async fn anything_while_daemons_are_killed_converges() {
    let mut cluster = start().await;
    let writers = Writers::start(&cluster, anything);
    kill(&mut cluster, 7, 6, false).await;
    assert!(writers.end().await > 100);
    cluster.wait_ready().await.unwrap();
    cluster.converged().await.unwrap();
    cluster.finish().unwrap();
}

#[tokio::test]
async fn anything_while_servers_and_daemons_are_killed_converges() {
    let mut cluster = start().await;
    let writers = Writers::start(&cluster, anything);
    kill(&mut cluster, 13, 6, true).await;
    assert!(writers.end().await > 100);
    cluster.wait_ready().await.unwrap();
    cluster.converged().await.unwrap();
    cluster.finish().unwrap();
}

/// What merges goes on after everything was started anew, with links cut over the restart.
#[tokio::test]
async fn everything_is_started_anew() {
    let mut cluster = start().await;
    cluster.cut_all();
    for (site, label) in [(0, "a"), (1, "b"), (2, "c")] {
        let sql = format!(
            "update stock set label = '{label}', balance = balance + 1 where id = 1; \
             update stock set seen = {} where id = 1",
            [9, 20, 3][site]
        );
        cluster.site(site).execute(&sql).await.unwrap();
    }
    // Knowingly lower, but above what the others know nothing of.
    cluster
        .site(1)
        .execute("update stock set seen = 1 where id = 1")
        .await
        .unwrap();
    for site in &mut cluster.sites {
        site.node.crash();
        site.server.restart().await.unwrap();
        site.node.start().unwrap();
    }
    cluster.wait_ready().await.unwrap();
    let more = "update stock set balance = balance + 1 where id = 1";
    for site in &cluster.sites {
        site.execute(more).await.unwrap();
    }
    cluster.heal();
    cluster.converged().await.unwrap();
    let row = "select stock::text from stock where id = 1";
    assert_eq!(
        cluster.site(0).value(row).await.unwrap(),
        "(1,c,x,6.00,1,0)"
    );
    cluster.finish().unwrap();
}

/// Transactions that are streamed in parts, at two sites at once.
#[tokio::test]
async fn large_transactions_are_merged_too() {
    let cluster = Plan::with_schema(SCHEMA)
        .set("logical_decoding_work_mem", "64kB")
        .start()
        .await
        .unwrap();
    let begin = "insert into stock select g, 'x', 'x', 0, 0, 0 from generate_series(1, 30000) g";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    set(&cluster, 0, OPTIONS).await;
    cluster.cut_all();
    let sql = "update stock set label = 'of a', balance = balance + 1 where id <= 25000";
    cluster.site(0).execute(sql).await.unwrap();
    let sql = "update stock set place = 'of b', balance = balance + 2 where id > 5000";
    cluster.site(1).execute(sql).await.unwrap();
    cluster.heal();
    cluster.converged().await.unwrap();
    let counted = "select string_agg(label || ' ' || place || ' ' || balance || ' ' || n, ', ' order by 1) from \
        (select label, place, balance, count(*) n from stock group by 1, 2, 3) c";
    let counted = cluster.site(2).value(counted).await.unwrap();
    let mut counted: Vec<&str> = counted.split(", ").collect();
    counted.sort_unstable();
    assert_eq!(
        counted,
        [
            "of a of b 3.00 20000",
            "of a x 1.00 5000",
            "x of b 2.00 5000"
        ]
    );
    cluster.finish().unwrap();
}

/// What becomes of a site whose commit is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Answered,
    DaemonKilled,
    ServerKilled,
}

/// A commit of replay is sent and has no answer: nobody knows whether it stands before what the site writes
/// meanwhile. Nothing of that leaves, and it is said; no difference is lost, whatever dies then.
async fn while_a_commit_is_out(then: Then) {
    let mut cluster = Plan::with_schema(SCHEMA)
        .set("wal_sender_timeout", "3s")
        .start()
        .await
        .unwrap();
    let begin = "insert into stock select g, 'x', 'x', 0, 0, 0 from generate_series(1, 4) g";
    cluster.site(0).execute(begin).await.unwrap();
    cluster.converged().await.unwrap();
    set(&cluster, 0, OPTIONS).await;
    // Replay's commit of the first row waits for a lock, in the middle of it.
    let hold = "create function hold() returns trigger language plpgsql as $$ begin \
        if current_setting('session_replication_role') = 'replica' and new.id = 1 then \
        perform pg_advisory_xact_lock(42); end if; return null; end $$; \
        create constraint trigger hold after update on stock deferrable initially deferred \
        for each row execute function hold(); alter table stock enable always trigger hold";
    cluster.site(0).execute(hold).await.unwrap();
    let lock = cluster.site(0).sql().await.unwrap();
    lock.batch_execute("select pg_advisory_lock(42)")
        .await
        .unwrap();
    let add = |key: i32| {
        format!(
            "begin; insert into done (k) values ({key}); update stock set balance = balance + 1 where id = {key}; commit"
        )
    };
    cluster.site(1).execute(&add(1)).await.unwrap();
    let out = "select count(*) from pg_stat_activity where wait_event = 'advisory' and application_name ~ 'replay'";
    cluster.site(0).wait_value(out, "1").await.unwrap();
    for site in 0..3 {
        for key in 2..=4 {
            cluster.site(site).execute(&add(key)).await.unwrap();
        }
    }
    let waits = async |cluster: &Cluster| {
        let status = cluster.site(0).node.status().await.unwrap();
        let waits = |w: &String| w.contains("waits for the answer to a commit of what site");
        status.waiting_for.iter().any(waits)
    };
    while !waits(&cluster).await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let balance = "select balance::text from stock where id = 2";
    cluster.site(1).wait_value(balance, "2.00").await.unwrap();
    match then {
        Then::Answered => {
            let node = &cluster.site(0).node;
            node.wait_for_log("capture stands still").await.unwrap();
            let log = std::fs::read_to_string(node.log()).unwrap();
            assert!(!log.contains("capture stopped"), "{log}");
            assert_eq!(cluster.site(1).value(balance).await.unwrap(), "2.00");
        }
        Then::DaemonKilled => {
            cluster.site_mut(0).node.crash();
            cluster.site(0).execute(&add(2)).await.unwrap();
        }
        Then::ServerKilled => {
            cluster.site_mut(0).server.crash();
            cluster.site_mut(0).server.start().await.unwrap();
        }
    }
    drop(lock);
    if then == Then::DaemonKilled {
        cluster.site_mut(0).node.start().unwrap();
    }
    cluster.wait_ready().await.unwrap();
    cluster.converged().await.unwrap();
    exactly_once(&cluster).await;
    for site in &cluster.sites {
        let lost = "select count(*) from everywrite.conflicts";
        assert_eq!(site.value(lost).await.unwrap(), "0");
    }
}

#[tokio::test]
async fn capture_waits_for_the_answer_to_a_commit() {
    while_a_commit_is_out(Then::Answered).await;
}

#[tokio::test]
async fn the_daemon_is_killed_while_a_commit_is_out() {
    while_a_commit_is_out(Then::DaemonKilled).await;
}

#[tokio::test]
async fn the_server_is_killed_while_a_commit_is_out() {
    while_a_commit_is_out(Then::ServerKilled).await;
}
