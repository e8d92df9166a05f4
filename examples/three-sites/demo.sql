-- What there is to see, as one psql session that goes from site to site.
-- run.sh runs it; the sites are databases "shop" at the ports 17441 (a), 17442 (b) and 17443 (c).
\set ON_ERROR_STOP on
\pset footer off

\echo '\n1. Write at a, read at b: wait_for() returns once b has applied what a committed'
\connect shop postgres 127.0.0.1 17441
insert into products values (1, 'tea', 3.50), (2, 'coffee', 4.00);
select everywrite.last_commit() as position \gset
\connect shop postgres 127.0.0.1 17442
select everywrite.wait_for('a', :'position') as arrived;
select * from products order by id;

\echo '\n2. Write at b and c, too'
update products set price = 4.20 where id = 2;
select everywrite.last_commit() as position \gset
\connect shop postgres 127.0.0.1 17443
select everywrite.wait_for('b', :'position') as arrived;
insert into products values (3, 'cake', 5.00);
select * from products order by id;

\echo '\n3. A conflict: a and b do not listen to each other for a while, and write the same row'
select everywrite.last_commit() as position \gset
\connect shop postgres 127.0.0.1 17441
select everywrite.wait_for('c', :'position') as arrived;
select everywrite.pause('b');
\connect shop postgres 127.0.0.1 17442
select everywrite.wait_for('c', :'position') as arrived;
select everywrite.pause('a');
select pg_sleep(0.5) \g /dev/null
update products set price = 4.40 where id = 1;
\connect shop postgres 127.0.0.1 17441
update products set price = 4.50 where id = 1;
select everywrite.resume('b');
select everywrite.last_commit() as position \gset
\connect shop postgres 127.0.0.1 17442
select everywrite.resume('a');
select everywrite.wait_for('a', :'position') as arrived;
\echo 'The later write won, at b too; the row that lost is kept in the history:'
select * from products where id = 1;
select kind, decision, local_row ->> 'price' as local, incoming_row ->> 'price' as incoming
  from everywrite.conflicts order by id desc limit 1;

\echo '\n4. How the sites are doing, seen from b'
select name, state, applied, lag_bytes, conflicts from everywrite.status;
