//! Everything that is measured with the servers of one version.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use everywrite_node::admin::schema;
use everywrite_node::replay::measured::Inserts;

use super::apply::{self, Way};
use super::backlog::{Backlog, Transaction};
use super::figure::{Figure, Stage};
use super::walsender::{self, Reader};
use crate::bench::installed::{self, Postgres};
use crate::bench::load::{Load, Range};
use crate::bench::server::Server;

/// Two servers of one version: A is written, B gets what replay would write.
struct Servers {
    major: u32,
    a: Server,
    b: Server,
    figures: Vec<Figure>,
}

/// One scenario of the bench.
struct Scenario {
    name: &'static str,
    load: Load,
    unit: &'static str,
    /// What is put right at B before each way, so that the same can be written again.
    again: &'static str,
    /// Whether the same can be written again at all.
    repeats: bool,
}

/// Measures all loads with fresh servers, which are removed afterwards.
pub(crate) async fn measure(postgres: &Postgres, scale: f64, work: &Path) -> Result<Vec<Figure>> {
    let system = format!("floor{}", postgres.major);
    let pgbench = installed::pgbench(std::iter::once(postgres))?;
    let server = |label| Server::new(&system, label, &postgres.bin, &pgbench, work, false);
    let (a, b) = (server('a')?, server('b')?);
    for server in [&a, &b] {
        server.init().await?;
        server.start().await?;
        server
            .create_tables(if scale < 0.1 { 1 } else { 10 })
            .await?;
        walsender::publish(server).await?;
    }
    let client = b.connect().await?;
    let migrated = schema::migrate(&client).await;
    migrated.context("make the schema everywrite")?;
    let mut servers = Servers {
        major: postgres.major,
        a,
        b,
        figures: Vec::new(),
    };
    for scenario in scenarios(scale) {
        let measured = servers.scenario(&scenario).await;
        measured.with_context(|| {
            format!(
                "scenario {} on PostgreSQL {}",
                scenario.name, postgres.major
            )
        })?;
    }
    servers.lag(scaled(1e6, scale)).await?;
    servers.a.stop().await?;
    servers.b.stop().await?;
    Ok(servers.figures)
}

/// In thousands, as the loads are.
fn scaled(units: f64, scale: f64) -> i64 {
    ((units * scale / 1e3).ceil() as i64).max(2) * 1000
}

fn scenarios(scale: f64) -> Vec<Scenario> {
    let rows = scaled(1e6, scale);
    let range = Range { base: 0, rows };
    let changed = scaled(2e5, scale);
    let scenario = |name, load, unit, again| Scenario {
        name,
        load,
        unit,
        again,
        repeats: name != "dd",
    };
    vec![
        scenario("a", Load::Insert(range), "row", "truncate t"),
        scenario(
            "c1",
            Load::SingleInserts(changed),
            "transaction",
            "truncate s1",
        ),
        scenario(
            "c2",
            Load::TpcB(scaled(5e4, scale)),
            "transaction",
            "truncate pgbench_history",
        ),
        scenario("du", Load::Update(changed, range), "row", "select"),
        scenario("dd", Load::Delete(changed, range), "row", "select"),
    ]
}

impl Servers {
    async fn scenario(&mut self, scenario: &Scenario) -> Result<()> {
        eprintln!(
            "floor: {} on {}: load and walsender",
            scenario.name, self.major
        );
        let slot = format!("floor_{}", scenario.name);
        walsender::slot(&self.a, &slot).await?;
        self.a.execute("checkpoint").await?;
        scenario.load.run(&self.a).await?;
        walsender::mark(&self.a, &slot).await?;
        self.a.execute("vacuum analyze").await?;
        self.a.execute("checkpoint").await?;
        let units = scenario.load.units() as f64;
        for reader in Reader::ALL {
            let spent = walsender::read(&self.a, &slot, reader, |_| Ok(())).await?;
            let what = format!("decoded and sent to {}", reader.name());
            self.add(
                scenario,
                spent.figure(Stage::Decode, what, scenario.unit, units),
            );
        }
        let mut backlog = Backlog::default();
        let keep = |payload| backlog.push(payload);
        walsender::read(&self.a, &slot, Reader::Eager, keep).await?;
        walsender::drop_slot(&self.a, &slot).await?;

        let all = backlog.transactions.as_slice();
        let per_transaction = match scenario.unit {
            "row" => 0.0,
            _ => 1.0,
        };
        let units_of = |transactions: &[Transaction]| {
            let changes = transactions.iter().map(|t| t.changes.len()).sum::<usize>();
            if per_transaction > 0.0 {
                transactions.len() as f64
            } else {
                changes as f64
            }
        };
        let ways = ways(scenario);
        // What can be written only once is shared out: half of it for the way that counts.
        let (mut rest, last) = (all, ways.len() - 1);
        for (at, (what, way, small)) in ways.iter().enumerate() {
            let part = if scenario.repeats {
                let part = if *small { all.len() / 4 } else { all.len() };
                all.get(..part).unwrap_or(all)
            } else {
                let part = if at == last {
                    rest.len()
                } else {
                    all.len() / (2 * last.max(1))
                };
                let (part, after) = rest.split_at(part.min(rest.len()));
                rest = after;
                part
            };
            eprintln!("floor: {} on {}: {what}", scenario.name, self.major);
            self.b.execute(scenario.again).await?;
            self.b.execute("vacuum analyze").await?;
            let counts = at == last;
            if counts {
                walsender::slot(&self.b, &slot).await?;
            }
            self.b.execute("checkpoint").await?;
            let spent = apply::run(&self.b, &backlog, part, *way).await?;
            let units = units_of(part);
            let mut figure = spent.figure(Stage::Apply, what.as_str(), scenario.unit, units);
            figure.counts = counts;
            self.add(scenario, figure);
            if counts {
                walsender::mark(&self.b, &slot).await?;
                for reader in Reader::ALL {
                    let spent = walsender::read(&self.b, &slot, reader, |_| Ok(())).await?;
                    let what = match self.major {
                        ..16 => format!("decoded and sent, with an origin, to {}", reader.name()),
                        _ => "origin = none: decoded and dropped in the server".to_owned(),
                    };
                    self.add(
                        scenario,
                        spent.figure(Stage::SecondDecode, what, scenario.unit, units),
                    );
                }
                walsender::drop_slot(&self.b, &slot).await?;
            }
        }
        self.compare(&scenario.load).await
    }

    fn add(&mut self, scenario: &Scenario, figure: Figure) {
        self.figures.push(Figure {
            major: Some(self.major),
            load: Some(scenario.name),
            ..figure
        });
    }

    /// What is fast and wrong is no floor.
    async fn compare(&self, load: &Load) -> Result<()> {
        let check = load.check();
        let (a, b): (String, String) = (self.a.value(&check).await?, self.b.value(&check).await?);
        if a != b {
            bail!("B has {b} and A has {a}: {check}");
        }
        Ok(())
    }

    /// The better one counts.
    async fn lag(&mut self, rows: i64) -> Result<()> {
        eprintln!("floor: b on {}", self.major);
        let mut best = None;
        for (run, reader) in (1..).zip(Reader::ALL) {
            self.a.execute("checkpoint").await?;
            let spent = walsender::lag(&self.a, "floor_b", reader, run * 100_000_000, rows).await?;
            best = match best {
                Some(before) if spent.wall > before => Some(before),
                _ => Some(spent.wall),
            };
            let what = format!(
                "one transaction of {rows} rows, behind COMMIT, at {}",
                reader.name()
            );
            self.figures.push(Figure {
                major: Some(self.major),
                load: Some("b"),
                ..spent.figure(Stage::Lag, what, "transaction", 1.0)
            });
        }
        for figure in &mut self.figures {
            let here = (figure.stage, figure.major) == (Stage::Lag, Some(self.major));
            figure.counts |= here && best.is_some_and(|best| figure.wall_us <= best * 1e6);
        }
        Ok(())
    }
}

/// The ways of writing a scenario, the one that counts last; `true` where a quarter of it is enough.
fn ways(scenario: &Scenario) -> Vec<(String, Way, bool)> {
    let of = |verb: &str, group: usize, small| {
        let what = format!("{verb}, groups of {group}");
        (what, Way::groups_of(group), small)
    };
    let two = |verb: &str| {
        let way = Way {
            sessions: 2,
            ..Way::groups_of(20_000)
        };
        (
            format!("{verb}, groups of 20000, two sessions at once"),
            way,
            false,
        )
    };
    let arrays = Way {
        inserts: Inserts::Arrays,
        ..Way::groups_of(20_000)
    };
    match scenario.name {
        "a" => vec![
            ("unnest, groups of 20000".to_owned(), arrays, false),
            of("COPY", 1000, false),
            two("COPY"),
            of("COPY", 20_000, false),
        ],
        "c1" => vec![of("COPY", 1000, false), of("COPY", 20_000, false)],
        // Four changes a transaction.
        "c2" => vec![
            of("folded", 1000, false),
            of("folded", 4000, false),
            of("folded", 20_000, false),
        ],
        "du" => vec![
            of("update from unnest", 10, true),
            of("update from unnest", 1000, false),
            two("update from unnest"),
            of("update from unnest", 20_000, false),
        ],
        _ => vec![
            of("delete using unnest", 10, true),
            of("delete using unnest", 1000, true),
            two("delete using unnest"),
            of("delete using unnest", 20_000, false),
        ],
    }
}
