create table marker(id bigint primary key, ts timestamptz default clock_timestamp());
create table probe(id bigint primary key);
create table t(id bigint primary key, a int, b text, ts timestamptz);
create table s1(id bigserial primary key, a int, b text, ts timestamptz);
create table lat(id bigserial primary key, ts timestamptz, pad text);
create table w(id bigserial primary key, pad text);
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
create procedure upd_t(base bigint, n int, per int, span int) language plpgsql as $$
declare i bigint := 0;
begin
  while i < n loop
    for j in i..least(i + per, n) - 1 loop
      update t set a = a + 1, ts = clock_timestamp() where id = base + 1 + (j * 7919) % span;
    end loop;
    commit;
    i := i + per;
  end loop;
end $$;
create procedure del_t(base bigint, n int, per int, span int) language plpgsql as $$
declare i bigint := 0;
begin
  while i < n loop
    for j in i..least(i + per, n) - 1 loop
      delete from t where id = base + 1 + (j * 7919) % span;
    end loop;
    commit;
    i := i + per;
  end loop;
end $$;
create procedure both_t(base bigint, first int, step int, n int, wobble boolean, span int, site text) language plpgsql as $$
declare i bigint := 0;
begin
  while i < n loop
    for k in i..least(i + 10, n) - 1 loop
      update t set a = a + 1, b = site, ts = clock_timestamp()
        where id = base + 1 + ((first + k * step + case when wobble then k % 2 else 0 end) * 7919) % span;
    end loop;
    commit;
    i := i + 10;
  end loop;
end $$;
