//! The demo's tables and who writes them: shops at three sites.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::cluster::Site;
use crate::postgres::{self, DATABASE, SUPERUSER};
use crate::random::{self, Random};

/// The tables, made at each server before the first daemon starts.
pub(crate) const SCHEMA: &str = "
create table accounts (id int primary key, owner text not null, balance numeric not null default 100);
create table orders (id uuid primary key default gen_random_uuid(), site text not null,
    account int, sku text, amount int not null, status text not null default 'new',
    placed_at timestamptz not null default now());
create index on orders (placed_at);
create table stock (sku text primary key, quantity int not null, counted_by text);
create table coupons (id bigint primary key, code text not null unique, site text not null);";

/// Accounts of each site: transfers stay among them, so that money is neither made nor lost.
const ACCOUNTS: u64 = 50;
/// Rows that all sites fight for.
const HOT: u64 = 3;
const CLIENTS: u64 = 2;

/// Writers at all sites.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    writers: JoinSet<()>,
}

impl Traffic {
    pub(crate) fn start(sites: &[Site]) -> Traffic {
        let (stop, count) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let random = Random::new(random::seed());
        let mut writers = JoinSet::new();
        for (index, site) in (0..).zip(sites) {
            for client in 0..CLIENTS {
                let writer = Writer {
                    site: site.node.name().to_owned(),
                    first_account: index * 1000,
                    server: site.server.dir().to_owned(),
                    random: random.fork(index * CLIENTS + client),
                };
                writers.spawn(writer.run(Arc::clone(&stop), Arc::clone(&count)));
            }
        }
        Traffic {
            stop,
            count,
            writers,
        }
    }

    /// Transactions committed so far.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Ends the writers; transactions committed.
    pub(crate) async fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        while self.writers.join_next().await.is_some() {}
        self.count.load(Ordering::Relaxed)
    }
}

struct Writer {
    site: String,
    first_account: u64,
    server: PathBuf,
    random: Random,
}

impl Writer {
    async fn run(mut self, stop: Arc<AtomicBool>, count: Arc<AtomicU64>) {
        let mut client: Option<Client> = None;
        while !stop.load(Ordering::Relaxed) {
            let Some(session) = client.as_ref().filter(|c| !c.is_closed()) else {
                client = postgres::connect(&self.server, SUPERUSER, DATABASE)
                    .await
                    .ok();
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            // One of two transactions that wait for each other is ended by the server; the next
            // one is as good for a demo.
            match session.batch_execute(&self.transaction()).await {
                Ok(()) => count.fetch_add(1, Ordering::Relaxed),
                Err(_) => {
                    session.batch_execute("rollback").await.ok();
                    0
                }
            };
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
    }

    fn transaction(&mut self) -> String {
        let site = self.site.clone();
        let hot = format!("hot-{}", self.random.below(HOT) + 1);
        let quantity = self.random.below(1000);
        match self.random.below(100) {
            0..40 => {
                let account = self.account();
                format!(
                    "begin; insert into orders (site, account, sku, amount) \
                     values ('{site}', {account}, 'sku-{}', {quantity}), ('{site}', {account}, 'sku-{}', 1); commit",
                    quantity % 50,
                    quantity % 7,
                )
            }
            40..60 => self.transfer(quantity % 20),
            60..75 => "update orders set status = 'sent' where id = (select id from orders \
                 where status = 'new' order by placed_at limit 1 for update skip locked)"
                .to_owned(),
            75..85 => "delete from orders where id in (select id from orders \
                 where status = 'sent' order by placed_at limit 2 for update skip locked)"
                .to_owned(),
            85..97 => format!(
                "insert into stock values ('{hot}', {quantity}, '{site}') on conflict (sku) \
                 do update set quantity = excluded.quantity, counted_by = excluded.counted_by"
            ),
            97 => format!("delete from stock where sku = '{hot}'"),
            _ => format!(
                "insert into coupons values ({}, 'CODE-{}', '{site}') on conflict do nothing",
                self.random.below(1 << 40),
                self.random.below(200)
            ),
        }
    }

    fn account(&mut self) -> u64 {
        self.first_account + self.random.below(ACCOUNTS)
    }

    /// Both accounts in one transaction, made on the way if need be, in the order of their ids.
    fn transfer(&mut self, amount: u64) -> String {
        let (one, two) = (self.account(), self.account());
        let (one, two) = (one.min(two), one.max(two));
        let change = |account: u64, sign: char| {
            format!(
                "insert into accounts as a (id, owner, balance) values ({account}, 'owner-{account}', \
                 100 {sign} {amount}) on conflict (id) do update set balance = a.balance {sign} {amount};"
            )
        };
        format!("begin; {} {} commit", change(one, '-'), change(two, '+'))
    }
}
