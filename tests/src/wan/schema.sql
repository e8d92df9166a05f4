create table t(id bigint primary key, a int, b text, ts timestamptz);
create table wide(id bigint primary key, pad text);
create table lat(id bigint primary key, ts timestamptz, pad text);
create table accounts(aid int primary key, bid int, abalance int, filler char(84));
create table tellers(tid int primary key, bid int, tbalance int, filler char(84));
create table branches(bid int primary key, bbalance int, filler char(88));
create table history(id bigint primary key, tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
insert into accounts select g, 1, 0, '' from generate_series(1, 10000) g;
insert into tellers select g, 1, 0, '' from generate_series(1, 10) g;
insert into branches values (1, 0, '');
create procedure load_t(base bigint, n int, per int) language plpgsql as $$
declare i bigint := 1;
begin
  while i <= n loop
    insert into t select base + g, g::int, 'payload-' || lpad(g::text, 32, 'x'), clock_timestamp()
      from generate_series(i, least(i + per - 1, n)) g;
    commit;
    i := i + per;
  end loop;
end $$;
create procedure load_wide(base bigint, n int, per int) language plpgsql as $$
declare i bigint := 1;
begin
  while i <= n loop
    insert into wide select base + g, (select string_agg(md5(g::text || p::text), '') from generate_series(1, 50) p)
      from generate_series(i, least(i + per - 1, n)) g;
    commit;
    i := i + per;
  end loop;
end $$;
create function insert_one(n bigint) returns bigint language sql as $$
  insert into lat values (n, clock_timestamp(), 'payload-' || lpad(n::text, 32, 'x')) returning id;
$$;
create function tpcb(n bigint) returns bigint language plpgsql as $$
declare
  account int := 1 + (n * 7919) % 10000;
  teller int := 1 + n % 10;
begin
  update accounts set abalance = abalance + 1 where aid = account;
  update tellers set tbalance = tbalance + 1 where tid = teller;
  update branches set bbalance = bbalance + 1 where bid = 1;
  insert into history values (n, teller, 1, account, 1, clock_timestamp(), '');
  return n;
end $$;
