-- What people and applications call. All run as the owner with a fixed search path; each one that
-- changes what the daemon does is revoked from public.
-- A message is: one byte format version (1), one byte kind, payload (docs/formats/messages.md).

create function everywrite.emit_command(command jsonb) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    select pg_logical_emit_message(
        true, 'everywrite', '\x0163'::bytea || convert_to(command::text, 'UTF8'));
$$;
comment on function everywrite.emit_command(jsonb) is
    'tells the daemon, in WAL order, that a person decided something';

-- Raises what every function says about a name it does not know.
create function everywrite.node_named(name text) returns everywrite.nodes
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    node everywrite.nodes;
begin
    select n.* into node from everywrite.nodes n where n.name = $1 and n.left_at is null;
    if not found then
        raise exception 'there is no site named "%"', $1
            using errcode = 'undefined_object',
                  hint = coalesce(
                      'The sites are: ' || (select string_agg(n.name, ', ' order by n.id)
                                              from everywrite.nodes n where n.left_at is null) || '.',
                      'No sites are known yet: the daemon writes them here when it starts.');
    end if;
    return node;
end
$$;

create function everywrite.peer_named(name text) returns everywrite.nodes
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    node everywrite.nodes := everywrite.node_named($1);
begin
    if node.local then
        raise exception '"%" is this site itself', $1
            using errcode = 'invalid_parameter_value',
                  hint = 'Name another site: ' || (
                      select string_agg(n.name, ', ' order by n.id)
                        from everywrite.nodes n where n.left_at is null and not n.local) || '.';
    end if;
    return node;
end
$$;

create function everywrite.pause(peer text) returns void
language plpgsql volatile strict security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform everywrite.peer_named($1);
    insert into everywrite.paused (peer) values ($1) on conflict do nothing;
    perform everywrite.emit_command(jsonb_build_object('command', 'pause', 'peer', $1));
end
$$;
comment on function everywrite.pause(text) is
    'stops applying the transactions of a peer here until everywrite.resume(peer); nothing is lost';

create function everywrite.resume(peer text) returns void
language plpgsql volatile strict security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform everywrite.peer_named($1);
    delete from everywrite.paused p where p.peer = $1;
    perform everywrite.emit_command(jsonb_build_object('command', 'resume', 'peer', $1));
end
$$;
comment on function everywrite.resume(text) is 'ends everywrite.pause(peer)';

create function everywrite.skip_transaction(origin text, lsn pg_lsn) returns void
language plpgsql volatile strict security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    node everywrite.nodes := everywrite.peer_named($1);
begin
    insert into everywrite.skipped (origin, lsn) values (node.id, $2) on conflict do nothing;
    perform everywrite.emit_command(
        jsonb_build_object('command', 'skip_transaction', 'origin', $1, 'lsn', $2));
end
$$;
comment on function everywrite.skip_transaction(text, pg_lsn) is
    'does not apply one transaction of a site here; its rows differ from the other sites afterwards';

-- A place in this site's WAL behind everything committed so far. The mark makes a transaction
-- behind that place travel, so that waiting for it ends at every site, however idle this one is.
create function everywrite.last_commit() returns pg_lsn
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    behind_all pg_lsn;
begin
    -- The commit of a transaction that is still open lies behind any place it can name.
    if pg_current_xact_id_if_assigned() is not null then
        raise exception 'last_commit() is called inside a transaction that has already written'
            using errcode = 'active_sql_transaction',
                  detail = 'The commit of this transaction has no position yet.',
                  hint = 'Commit first, then call everywrite.last_commit() on its own.';
    end if;
    behind_all := pg_current_wal_insert_lsn();
    perform pg_logical_emit_message(true, 'everywrite', '\x016d'::bytea);
    return behind_all;
end
$$;
comment on function everywrite.last_commit() is
    'a position behind every commit of this site so far, for everywrite.wait_for() at another site';

create function everywrite.wait_for(origin text, lsn pg_lsn, timeout interval default '10 s')
returns boolean
language plpgsql volatile strict security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    node         everywrite.nodes := everywrite.node_named($1);
    deadline     timestamptz := clock_timestamp() + $3;
    origin_name  text := 'everywrite_' || node.id;
    origin_oid   oid;
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
        select o.roident into origin_oid
          from pg_replication_origin o where o.roname = origin_name;
        exit when found and pg_replication_origin_progress(origin_name, false) >= $2;
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
               and (pg_xact_commit_timestamp_origin(a.backend_xid)).roident = origin_oid);
        if unfinished <> '{}' and clock_timestamp() >= deadline then
            return false;
        end if;
    end loop;
    return true;
end
$$;
comment on function everywrite.wait_for(text, pg_lsn, interval) is
    'waits until everything that a site committed up to a position can be read here; false after the timeout';

-- The guard of replay's fast path. The outer function is plain SQL so that the planner puts its
-- CASE into the statement: a guard that holds costs a comparison, no call. Such a function may not
-- set a search path, so it names its operator in full.
create function everywrite.guard_failed(found bigint, expected bigint) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'guard failed'
        using errcode = 'EW001', detail = format('expected %s rows, found %s', $2, $1);
end
$$;

create function everywrite.expect(found bigint, expected bigint) returns void
language sql volatile
as $$
    select case when found operator(pg_catalog.=) expected then null
                else everywrite.guard_failed(found, expected) end
$$;
comment on function everywrite.expect(bigint, bigint) is
    'raises EW001 unless both numbers are equal; used by the daemon';

-- Deletes history by age and by number, oldest first, at most so many rows in one call so that
-- none holds locks for long. Null means no limit of that sort.
create function everywrite.forget_conflicts(
    older_than interval, keep_rows bigint, at_most bigint default 10000)
returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    -- A variable, because an index is not searched for what a volatile function gives.
    cutoff        timestamptz := clock_timestamp() - older_than;
    newest_to_go  bigint;
    deleted       bigint;
begin
    if keep_rows is not null then
        select c.id into newest_to_go
          from everywrite.conflict_history c order by c.id desc offset greatest(keep_rows, 0) limit 1;
    end if;
    -- Each half walks an index from its old end, so a call that finds nothing to do is cheap.
    delete from everywrite.conflict_history c
     where c.id in (
        (select old.id from everywrite.conflict_history old
          where old.decided_at < cutoff
          order by old.decided_at limit at_most)
        union
        (select old.id from everywrite.conflict_history old
          where old.id <= newest_to_go
          order by old.id limit at_most)
        limit at_most);
    get diagnostics deleted = row_count;
    return deleted;
end
$$;
comment on function everywrite.forget_conflicts(interval, bigint, bigint) is
    'deletes conflict history older than an age or beyond a number of rows; says how many rows went';

revoke all on all functions in schema everywrite from public;
grant execute on function
    everywrite.last_commit(),
    everywrite.wait_for(text, pg_lsn, interval)
    to public;
