//! Two sites that write without hearing of each other, and a third that hears one of them first.

use everywrite_tests::cluster::Cluster;
use everywrite_tests::conflicts::Conflict;

/// What the first two sites do meanwhile.
pub(super) struct Meeting<'a> {
    /// The rows before.
    pub(super) begin: &'a str,
    /// Removes them again.
    pub(super) clear: &'a str,
    /// (site, statement), in the order of time: the last ones have the higher versions.
    pub(super) writes: &'a [(usize, &'a str)],
    /// The rows as one text.
    pub(super) rows: &'a str,
    /// What that is in the end, at all sites.
    pub(super) expected: &'a str,
}

impl Meeting<'_> {
    /// Lets it happen twice: the third site hears the first one first, then the second one first. What
    /// all sites have decided, in each of the two.
    pub(super) async fn in_both_orders(&self, cluster: &Cluster) -> [Vec<Conflict>; 2] {
        let mut decided = [const { Vec::new() }; 2];
        for first in [0, 1] {
            if first == 1 {
                cluster.site(2).execute(self.clear).await.unwrap();
                cluster.converged().await.unwrap();
            }
            cluster.site(0).execute(self.begin).await.unwrap();
            cluster.converged().await.unwrap();
            let before = history(cluster).await;
            cluster.cut_all();
            for (site, sql) in self.writes {
                cluster.site(*site).execute(sql).await.unwrap();
            }
            cluster.proxy(2, first).heal();
            cluster.proxy(first, 2).heal();
            cluster.caught_up(2, first).await.unwrap();
            cluster.heal();
            cluster.converged().await.unwrap();
            for site in &cluster.sites {
                let rows = site.value(self.rows).await.unwrap();
                let order = format!("at {}, c heard site {first} first", site.node.name());
                assert_eq!(rows, self.expected, "{order}");
            }
            let after = history(cluster).await;
            for (had, has) in before.iter().zip(after) {
                decided[first].extend(has.into_iter().skip(had.len()));
            }
        }
        for conflict in decided.iter().flatten() {
            assert_eq!(conflict.contradiction(), None);
        }
        decided
    }
}

/// What each site has decided.
async fn history(cluster: &Cluster) -> Vec<Vec<Conflict>> {
    let mut all = Vec::new();
    for site in &cluster.sites {
        all.push(site.conflicts().await.unwrap());
    }
    all
}

/// The values of one column of the rows that lost, each once.
pub(super) fn lost(conflicts: &[Conflict], column: &str) -> Vec<String> {
    let mut values: Vec<String> = conflicts
        .iter()
        .filter_map(|c| c.loser().column(column))
        .collect();
    values.sort();
    values.dedup();
    values
}
