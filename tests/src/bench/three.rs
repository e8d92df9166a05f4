//! Scenario w3: three sites, all written at full speed, each with rows of its own; then how long until all have
//! everything.

use std::time::Instant;

use anyhow::{Result, bail};

use super::load::Script;
use super::mesh::Mesh;
use super::record::Record;
use super::server::Server;

/// Branches of one site: two and a half for each client, as in `w`.
pub(crate) const BRANCHES: i64 = 5;

/// Clients at one site.
const CLIENTS: i64 = 2;

/// First and last key of a site (from 0) in a TPC-B table with so many rows a branch.
fn keys(site: i64, rows_per_branch: i64) -> (i64, i64) {
    let rows = BRANCHES * rows_per_branch;
    (site * rows + 1, (site + 1) * rows)
}

/// pgbench's TPC-B on the rows of one site.
fn script(site: i64) -> String {
    let random = |name: &str, rows_per_branch| {
        let (first, last) = keys(site, rows_per_branch);
        format!("\\set {name} random({first}, {last})\n")
    };
    [
        random("aid", 100_000),
        random("bid", 1),
        random("tid", 10),
        "\\set delta random(-5000, 5000)\n\
         begin;\n\
         update pgbench_accounts set abalance = abalance + :delta where aid = :aid;\n\
         select abalance from pgbench_accounts where aid = :aid;\n\
         update pgbench_tellers set tbalance = tbalance + :delta where tid = :tid;\n\
         update pgbench_branches set bbalance = bbalance + :delta where bid = :bid;\n\
         insert into pgbench_history (tid, bid, aid, delta, mtime) values (:tid, :bid, :aid, :delta, current_timestamp);\n\
         end;\n"
            .into(),
    ]
    .concat()
}

/// Measures the sum over the sites.
pub(crate) async fn measure(mesh: &mut Mesh, seconds: u64) -> Result<Record> {
    mesh.wait_caught_up().await?;
    mesh.checkpoint().await?;
    mesh.reset_peaks();
    let scripts = (0..)
        .zip(&mesh.servers)
        .map(|(site, _)| Script::new(&script(site)));
    let scripts = scripts.collect::<Result<Vec<_>>>()?;
    let (clients, seconds) = (CLIENTS.to_string(), seconds.to_string());
    let meter = mesh.meter().await?;
    let [a, b, c] = mesh.servers.as_slice() else {
        bail!("w3 needs three sites")
    };
    let [script_a, script_b, script_c] = scripts.as_slice() else {
        bail!("w3 needs three sites")
    };
    let load = async |server: &Server, script: &Script| {
        let arguments = [
            "-n",
            "-M",
            "prepared",
            "-f",
            script.path(),
            "-c",
            &clients,
            "-j",
            "1",
            "-T",
            &seconds,
        ];
        server.pgbench(&arguments, "").await
    };
    let reports = tokio::try_join!(load(a, script_a), load(b, script_b), load(c, script_c))?;
    let ended = Instant::now();
    let drained = mesh.wait_caught_up().await? - ended;
    let cpu = meter.stop().await?;
    let different = mesh.differences().await?;
    if !different.is_empty() {
        bail!("THE SITES DIFFER: {}", different.join("; "));
    }
    let reports = [reports.0, reports.1, reports.2];
    let transactions: f64 = reports.iter().map(|report| report.transactions).sum();
    let mut record = Record {
        ok: true,
        unit: "transaction".into(),
        units: transactions,
        cpu: Some(cpu),
        daemon_peak_bytes: mesh.peaks(),
        ..Record::default()
    };
    record.set("tps", reports.iter().map(|report| report.tps).sum());
    for (name, report) in ["tps_a", "tps_b", "tps_c"].into_iter().zip(reports) {
        record.set(name, report.tps);
    }
    record.set("drain_s", drained.as_secs_f64());
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_share_no_key_and_leave_none_out() {
        for rows in [1, 10, 100_000] {
            assert_eq!(keys(0, rows).0, 1);
            for site in 0..2 {
                assert_eq!(keys(site, rows).1 + 1, keys(site + 1, rows).0);
            }
            assert_eq!(keys(2, rows).1, 3 * BRANCHES * rows);
        }
    }

    #[test]
    fn the_script_names_its_sites_keys() {
        let script = script(1);
        for set in [
            "\\set aid random(500001, 1000000)\n",
            "\\set bid random(6, 10)\n",
            "\\set tid random(51, 100)\n",
        ] {
            assert!(script.contains(set), "{set} in {script}");
        }
    }
}
