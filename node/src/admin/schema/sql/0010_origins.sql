-- Transactions of one site are applied in up to two sessions, each with a replication origin of its own, in the
-- order in which the site committed them: the greater progress of the two is how far the site is applied here.
--
-- A daemon that knows only the first origin would apply what the second one has a second time. It does not start
-- with a schema that has this file.

create or replace function everywrite.wait_for(origin text, lsn pg_lsn, timeout interval default '10 s')
returns boolean
language plpgsql volatile strict security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    node         everywrite.nodes := everywrite.node_named($1);
    deadline     timestamptz := clock_timestamp() + $3;
    origin_names text[] := array['everywrite_' || node.id, 'everywrite_' || node.id || '_2'];
    origin_oids  oid[];
    reached      pg_lsn;
    sleep_s      double precision := 0.001;
    unfinished   xid[];
begin
    if node.local then
        return true;
    end if;
    -- Rows that arrive while a snapshot is kept stay invisible to it: "true" would mislead.
    if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
        raise exception 'wait_for() cannot help a transaction that keeps its snapshot'
            using errcode = 'active_sql_transaction',
                  detail = 'The isolation level is ' || current_setting('transaction_isolation') || '.',
                  hint = 'Call it on its own at READ COMMITTED, then begin the transaction that reads.';
    end if;

    -- Every statement of a volatile function sees the present; the progress itself is read from
    -- shared memory.
    loop
        select array_agg(o.roident), max(pg_replication_origin_progress(o.roname, false))
          into origin_oids, reached
          from pg_replication_origin o where o.roname = any (origin_names);
        exit when reached >= $2;
        if clock_timestamp() >= deadline then
            return false;
        end if;
        perform pg_sleep(least(sleep_s, greatest(
            extract(epoch from deadline - clock_timestamp())::double precision, 0)));
        sleep_s := least(sleep_s * 1.5, 0.02);
    end loop;

    -- A commit moves the progress a moment before its rows become visible. Such a transaction is
    -- still running and already has the commit timestamp with this origin: let it end.
    perform pg_stat_clear_snapshot();
    unfinished := array(select a.backend_xid from pg_stat_get_activity(null) a
                         where a.backend_xid is not null and a.pid <> pg_backend_pid());
    while unfinished <> '{}' loop
        perform pg_sleep(0.001);
        perform pg_stat_clear_snapshot();
        unfinished := array(
            select a.backend_xid from pg_stat_get_activity(null) a
             where a.backend_xid = any (unfinished)
               and (pg_xact_commit_timestamp_origin(a.backend_xid)).roident = any (origin_oids));
        if unfinished <> '{}' and clock_timestamp() >= deadline then
            return false;
        end if;
    end loop;
    return true;
end
$$;
