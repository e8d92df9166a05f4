//! A member is away while far more keys are written than the index may keep in memory: what only that
//! member can still conflict with goes to files, and comes back when its transactions come. Rows and
//! histories are those of an index that keeps all in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use everywrite_node::telemetry::IndexStatus;
use everywrite_tests::cluster::{Cluster, Plan, Site};
use everywrite_tests::conflicts::Conflict;
use everywrite_tests::{logs, wait};

/// About 585 keys.
const TINY: &str = "\"64KiB\"";
const TINY_KEYS: u64 = 585;
const ROOMY: &str = "\"64MiB\"";

const SCHEMA: &str = "create table items (id bigint primary key, n int, note text);
    create table notes (id bigint primary key, note text);
    create table codes (id bigint primary key, code text unique);";

/// What happens to daemons in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dies {
    Nobody,
    /// a and b, by kill -9, while c is away.
    Both,
    /// These, and a once more when c is back.
    OnceMore,
}

/// What a story ended with: rows, and for each site what its history lists, and how often.
#[derive(Debug, PartialEq, Eq)]
struct End {
    rows: Vec<String>,
    histories: Vec<BTreeMap<String, usize>>,
}

fn said(conflict: &Conflict) -> String {
    assert_eq!(conflict.contradiction(), None);
    let side = |side: &everywrite_tests::conflicts::Side| {
        format!(
            "{:?} of {:?}",
            side.row.as_ref().map(ToString::to_string),
            side.site
        )
    };
    let (local, incoming) = (side(&conflict.local), side(&conflict.incoming));
    let Conflict {
        kind,
        decision,
        table,
        ..
    } = conflict;
    format!("{table} {kind} {decision}: {local}, {incoming}")
}

async fn index(site: &Site) -> IndexStatus {
    site.node.status().await.unwrap().index
}

async fn wait_index(site: &Site, what: &str, is: impl Fn(&IndexStatus) -> bool) {
    wait::until(what, wait::LIMIT, async || {
        let status = site.node.status().await.map_err(|err| format!("{err:#}"))?;
        match is(&status.index) {
            true => Ok(()),
            false => Err(format!("{:?} at {}", status.index, site.node.name())),
        }
    })
    .await
    .unwrap();
}

async fn executes(site: &Site, all: &[&str]) {
    let client = site.sql().await.unwrap();
    for sql in all {
        client.batch_execute(sql).await.unwrap();
    }
}

/// a has what b wrote, and b what a wrote.
async fn a_and_b_are_even(cluster: &Cluster) {
    for table in ["items", "notes", "codes"] {
        let digest = format!("select md5(string_agg(t::text, ',' order by id)) from {table} t");
        wait::until("a and b to be even", wait::LIMIT, async || {
            let say = |err: anyhow::Error| format!("{err:#}");
            let one = cluster.site(0).value(&digest).await.map_err(say)?;
            let other = cluster.site(1).value(&digest).await.map_err(say)?;
            match one == other {
                true => Ok(()),
                false => Err(format!("{table} is {one} and {other}")),
            }
        })
        .await
        .unwrap();
    }
}

async fn story(memory: &'static str, dies: Dies) -> End {
    let plan = Plan::with_schema(SCHEMA).configure("conflicts", "index-memory", memory);
    let mut cluster = plan.start().await.unwrap();
    executes(
        cluster.site(0),
        &[
            "insert into items select g, 0, 'old' from generate_series(1, 3000) g",
            "insert into notes select g, 'old' from generate_series(1, 1500) g",
        ],
    )
    .await;
    cluster.converged().await.unwrap();
    cluster.isolate(2);

    // c's first writes are older than what a and b write, its last ones newer.
    executes(
        cluster.site(2),
        &[
            "update items set note = 'c before' where id between 1 and 50",
            "delete from items where id between 101 and 150",
            "insert into items select g, 1, 'c before' from generate_series(10001, 10050) g",
            "insert into codes select g, 'code ' || g from generate_series(1, 20) g",
            "update notes set note = 'c before' where id between 1401 and 1410",
        ],
    )
    .await;
    executes(
        cluster.site(0),
        &[
            "update items set n = 1, note = 'a' where id <= 1500",
            "update notes set note = 'a' where id <= 1000",
            "insert into items select g, 1, 'a' from generate_series(10001, 10100) g",
            "insert into codes select 100 + g, 'code ' || g from generate_series(1, 40) g",
        ],
    )
    .await;
    a_and_b_are_even(&cluster).await;
    executes(
        cluster.site(1),
        &[
            "update items set n = 2, note = 'b' where id > 1500 and id <= 3000",
            "delete from items where id between 201 and 300",
            "insert into items select g, 2, 'b' from generate_series(20001, 22000) g",
        ],
    )
    .await;
    a_and_b_are_even(&cluster).await;
    let tiny = memory == TINY;
    if tiny {
        for site in [0, 1] {
            wait_index(cluster.site(site), "keys to leave memory", |i| {
                i.entries <= TINY_KEYS && i.spilled > 3000
            })
            .await;
        }
    }
    // a and b go on with the same keys, and have nothing to ask.
    for (site, first) in [(1, 400), (0, 450)] {
        let last = first + 100;
        let more = format!("update items set n = n + 10 where id between {first} and {last}");
        executes(cluster.site(site), &[&more]).await;
        a_and_b_are_even(&cluster).await;
    }
    for site in [0, 1] {
        assert_eq!(index(cluster.site(site)).await.file_lookups, 0);
    }
    if dies != Dies::Nobody {
        for site in [0, 1] {
            cluster.site_mut(site).node.crash();
        }
        for site in [0, 1] {
            cluster.site_mut(site).node.start().unwrap();
        }
        for site in [0, 1] {
            cluster.site(site).node.wait_ready().await.unwrap();
            if tiny {
                wait_index(cluster.site(site), "a rebuilt index in files", |i| {
                    i.entries <= TINY_KEYS && i.spilled > 3000
                })
                .await;
            }
        }
    }
    executes(
        cluster.site(2),
        &[
            "update items set note = 'c after' where id between 51 and 100",
            "delete from items where id between 151 and 200",
            "update items set note = 'c after' where id between 201 and 260",
            "insert into items select g, 3, 'c after' from generate_series(10051, 10100) g",
            "insert into codes select 20 + g, 'code ' || 20 + g from generate_series(1, 10) g",
            "update items set note = 'c after' where id between 2001 and 2050",
            "truncate notes",
        ],
    )
    .await;
    // Newer than the truncate.
    executes(
        cluster.site(0),
        &[
            "update notes set note = 'a after' where id between 901 and 950",
            "insert into notes select g, 'a after' from generate_series(2001, 2050) g",
        ],
    )
    .await;
    a_and_b_are_even(&cluster).await;
    cluster.heal();
    if dies == Dies::OnceMore {
        cluster.site_mut(0).node.crash();
        cluster.site_mut(0).node.start().unwrap();
    }
    cluster.wait_ready().await.unwrap();
    cluster.converged().await.unwrap();
    if tiny {
        for site in [0, 1] {
            let index = index(cluster.site(site)).await;
            assert!(index.file_lookups > 0 && index.file_hits > 0, "{index:?}");
        }
    }
    for site in &cluster.sites {
        wait_index(site, "all to be forgotten", |i| {
            i.files == 0 && i.entries == 0
        })
        .await;
        let left = std::fs::read_dir(site.node.dir().join("data/spilled")).unwrap();
        assert_eq!(left.count(), 0);
    }
    let mut rows = Vec::new();
    for table in ["items", "notes", "codes"] {
        let all = format!("select string_agg(t::text, ',' order by id) from {table} t");
        rows.push(cluster.site(0).value(&all).await.unwrap());
    }
    let mut histories = Vec::new();
    for site in &cluster.sites {
        let mut history = BTreeMap::new();
        for conflict in site.conflicts().await.unwrap() {
            *history.entry(said(&conflict)).or_default() += 1;
        }
        histories.push(history);
    }
    cluster.finish().unwrap();
    End { rows, histories }
}

/// Which entries are in one and not in the other.
fn differences(one: &End, other: &End) -> Vec<String> {
    let mut differ = Vec::new();
    for (site, (one, other)) in one.histories.iter().zip(&other.histories).enumerate() {
        for said in one.keys().chain(other.keys()) {
            if one.get(said) != other.get(said) {
                let times = (one.get(said), other.get(said));
                differ.push(format!("site {site}: {said}: {times:?}"));
            }
        }
    }
    differ
}

#[tokio::test]
async fn rows_and_histories_are_those_of_an_index_in_memory() {
    let roomy = story(ROOMY, Dies::Nobody).await;
    assert!(
        roomy.rows[0].contains("(230,0,\"c after\")"),
        "an update wins over an older delete"
    );
    assert!(roomy.histories[0].len() > 300);
    let tiny = story(TINY, Dies::Nobody).await;
    assert_eq!(differences(&roomy, &tiny), Vec::<String>::new());
    assert_eq!(roomy.rows, tiny.rows);
}

#[tokio::test]
async fn daemons_that_are_killed_find_all_again() {
    let roomy = story(ROOMY, Dies::Both).await;
    let tiny = story(TINY, Dies::Both).await;
    assert_eq!(differences(&roomy, &tiny), Vec::<String>::new());
    assert_eq!(roomy.rows, tiny.rows);
}

#[tokio::test]
async fn a_daemon_that_is_killed_when_the_member_is_back() {
    let roomy = story(ROOMY, Dies::Nobody).await;
    let tiny = story(TINY, Dies::OnceMore).await;
    assert_eq!(roomy.rows, tiny.rows);
}

/// A small file system that is mounted over a folder.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn command(options: &str, folder: &Path) -> bool {
        let mount = ["-t", "tmpfs", "-o", options, "everywrite-test"];
        let mounted = Command::new("mount").args(mount).arg(folder).status();
        mounted.is_ok_and(|status| status.success())
    }

    /// `None`, and said so, where that cannot be done.
    fn over(folder: &Path) -> Option<Self> {
        if Self::command("size=32k", folder) {
            return Some(SmallDisk(folder.to_owned()));
        }
        eprintln!("SKIPPED: a tmpfs cannot be mounted here (root is needed)");
        None
    }

    fn make_room(&self) {
        assert!(Self::command("remount,size=8m", &self.0));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Also while somebody has a file open there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// What the log says of a file that cannot be written.
const REFUSED: &str = "cannot be written to a file, they stay in memory";

#[tokio::test]
async fn a_full_disk_keeps_them_in_memory_until_there_is_room() {
    let plan = Plan::with_schema(SCHEMA).configure("conflicts", "index-memory", TINY);
    let mut cluster = plan.start().await.unwrap();
    let fill = "insert into items select g, 0, 'old' from generate_series(1, 3000) g";
    executes(cluster.site(0), &[fill]).await;
    cluster.converged().await.unwrap();
    cluster.site_mut(0).node.crash();
    let folder = cluster.site(0).node.dir().join("data/spilled");
    let Some(disk) = SmallDisk::over(&folder) else {
        return;
    };
    cluster.site_mut(0).node.start().unwrap();
    cluster.wait_ready().await.unwrap();
    cluster.isolate(2);
    let first = "update items set note = 'c before' where id between 1 and 50";
    executes(cluster.site(2), &[first]).await;

    let update = "update items set n = 1, note = 'a' where id <= 1500";
    executes(cluster.site(0), &[update]).await;
    a_and_b_are_even(&cluster).await;
    cluster.site(0).node.wait_for_log(REFUSED).await.unwrap();
    // What is replayed goes on too, and so does a daemon that begins without room.
    let update = "update items set n = 2, note = 'b' where id between 1001 and 2000";
    executes(cluster.site(1), &[update]).await;
    a_and_b_are_even(&cluster).await;
    let all_there = |i: &IndexStatus| i.entries >= 2000 && (i.spilled, i.files) == (0, 0);
    wait_index(cluster.site(0), "all keys in memory", all_there).await;
    let lines = logs::lines(&cluster.site(0).node.log());
    let refused = lines.iter().filter(|line| line.contains(REFUSED));
    assert_eq!(refused.count(), 1, "it is tried again, and said once");
    cluster.site_mut(0).node.crash();
    cluster.site_mut(0).node.start().unwrap();
    cluster.site(0).node.wait_ready().await.unwrap();
    wait_index(cluster.site(0), "all keys in memory again", all_there).await;

    disk.make_room();
    let again = "entries of the conflict index go to files again";
    cluster.site(0).node.wait_for_log(again).await.unwrap();
    wait_index(cluster.site(0), "keys to leave memory", |i| {
        i.entries <= TINY_KEYS && i.spilled >= 2000
    })
    .await;
    let last = "update items set note = 'c after' where id between 1951 and 2050";
    executes(cluster.site(2), &[last]).await;
    cluster.heal();
    cluster.converged().await.unwrap();
    let rows = "select string_agg(concat(note, ' ', count), ', ' order by note) \
                from (select note, count(*) from items group by note) t";
    for site in &cluster.sites {
        let notes = site.value(rows).await.unwrap();
        assert_eq!(notes, "a 1000, b 950, c after 100, old 950");
    }
    // 50 rows that c lost, and 50 that b did.
    for site in &cluster.sites {
        let conflicts = site.conflicts().await.unwrap();
        let lost = |note: &str| {
            let is = |c: &&Conflict| c.loser().column("note").as_deref() == Some(note);
            conflicts.iter().filter(is).count()
        };
        assert_eq!((lost("c before"), lost("b")), (50, 50));
    }
    cluster.finish().unwrap();
}
