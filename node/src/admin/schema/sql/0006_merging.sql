-- The policies "function" and "park": what lost is merged by the site whose write stands, or waits there
-- for a person. Both are entries of the history that are open; the deciding transaction writes them.

-- decision: applied, kept local, parked; merging until the merge is done, then merged.
alter table everywrite.conflict_history
    add column done_at       timestamptz,
    add column done_by       text,
    add column done          text,
    add column attempts      integer,
    add column error         text;
comment on column everywrite.conflict_history.done is
    'what became of what was parked (retried, discarded) or to be merged (merged, superseded)';
comment on column everywrite.conflict_history.error is 'why the last attempt to merge failed';
-- A key may be larger than an index takes.
create index conflict_history_open on everywrite.conflict_history
    (decision, schema_name, table_name, jsonb_hash(key))
    where decision in ('merging', 'parked') and done_at is null;

create view everywrite.parked as
select c.id,
       c.decided_at as since,
       quote_ident(c.schema_name) || '.' || quote_ident(c.table_name) as "table",
       c.key,
       c.kind,
       coalesce(l.name, c.local_origin::text) as local_site,
       c.local_row,
       c.local_stamp as local_written_at,
       coalesce(i.name, c.incoming_origin::text) as incoming_site,
       c.incoming_row,
       c.incoming_stamp as incoming_written_at
  from everywrite.conflict_history c
  left join everywrite.nodes l on l.id = c.local_origin
  left join everywrite.nodes i on i.id = c.incoming_origin
 where c.decision = 'parked' and c.done_at is null;
comment on view everywrite.parked is
    'rows that lost a conflict and wait for everywrite.retry() or everywrite.discard(); each at the site whose write stands';

create view everywrite.merging as
select c.id,
       c.decided_at as since,
       quote_ident(c.schema_name) || '.' || quote_ident(c.table_name) as "table",
       c.key,
       c.kind,
       c.local_row,
       coalesce(i.name, c.incoming_origin::text) as incoming_site,
       c.incoming_row,
       c.attempts,
       c.error
  from everywrite.conflict_history c
  left join everywrite.nodes i on i.id = c.incoming_origin
 where c.decision = 'merging' and c.done_at is null;
-- Numbers, which everybody may see, of what the views above show to who may.
create or replace view everywrite.status as
select o.name,
       case when alive.yes then o.state else 'unknown' end as state,
       case when alive.yes then o.reason
            else 'the daemon has not reported since '
                 || to_char(s.updated_at, 'YYYY-MM-DD HH24:MI:SS TZ') end as reason,
       o.journal_end as received,
       o.applied,
       o.lag_bytes::bigint as lag_bytes,
       make_interval(secs => o.lag_s) as lag,
       round(o.transactions_per_s::numeric, 1) as rate,
       o.conflicts,
       alive.yes as daemon_alive,
       s.updated_at,
       open.merging,
       open.parked,
       open.since as open_since
  from everywrite.node_status s
 cross join lateral (select s.updated_at > clock_timestamp() - interval '5 s') as alive (yes)
 cross join lateral jsonb_to_recordset(s.status -> 'origins') as o (
       node integer, name text, state text, reason text, journal_end pg_lsn, applied pg_lsn,
       lag_bytes numeric, lag_s double precision, transactions_per_s double precision,
       conflicts bigint)
 cross join lateral (
       select count(*) filter (where c.decision = 'merging'),
              count(*) filter (where c.decision = 'parked'),
              min(c.decided_at)
         from everywrite.conflict_history c
        where c.decision in ('merging', 'parked') and c.done_at is null
          and c.incoming_origin = o.node) as open (merging, parked, since)
 order by o.node;
comment on view everywrite.status is
    'for every other site: what of its transactions is here, what is not yet, and what of them lost and is open';

comment on view everywrite.merging is
    'rows that lost a conflict and are still to be merged by the function of the table''s policy, and why if that failed';

-- Who may delete from everywrite.parked may discard and retry: one right for one thing.
create function everywrite.unpark() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update everywrite.conflict_history c
       set done_at = clock_timestamp(), done_by = session_user,
           done = coalesce(nullif(current_setting('everywrite.unparked', true), ''), 'discarded')
     where c.id = old.id and c.decision = 'parked' and c.done_at is null;
    if not found then
        return null;
    end if;
    return old;
end
$$;
create trigger unpark instead of delete on everywrite.parked
    for each row execute function everywrite.unpark();

-- Writes a row, or a delete, that lost a conflict as a new write of this site. Runs with the rights and the
-- search path of who calls it, so that it may do what he may do, and the table's triggers find what they
-- find for his own statements.
create function everywrite.write_back(conflict_id bigint, table_name text, key jsonb, lost jsonb) returns text
language plpgsql volatile
as $$
#variable_conflict use_variable
declare
    relation   regclass := pg_catalog.to_regclass(table_name);
    names      text;
    condition  text;
    assigned   text;
    touched    bigint;
begin
    if relation is null then
        raise exception 'the table % of conflict % does not exist any more', table_name, conflict_id
            using errcode = 'undefined_table',
                  hint = 'The losing row is in everywrite.conflicts.';
    end if;
    select pg_catalog.string_agg(pg_catalog.quote_ident(k), ', ') into names
      from pg_catalog.jsonb_object_keys(coalesce(lost, key)) k
     where not exists (
           select from pg_catalog.pg_attribute a
            where a.attrelid = relation and a.attname = k and a.attnum > 0 and not a.attisdropped);
    if names is not null then
        raise exception 'the table % has changed since conflict %', table_name, conflict_id
            using errcode = 'undefined_column',
                  detail = 'Columns of the losing row that it does not have any more: ' || names || '.',
                  hint = 'Write by hand what still has a place; the losing row is in everywrite.conflicts.';
    end if;
    select pg_catalog.string_agg(pg_catalog.format('t.%I = r.%I', k, k), ' and ') into condition
      from pg_catalog.jsonb_object_keys(key) k;
    if lost is null then
        execute pg_catalog.format(
            'delete from %s t using pg_catalog.jsonb_populate_record(null::%s, $1) r where %s',
            relation, relation, condition) using key;
        get diagnostics touched = row_count;
        return case when touched > 0 then 'deleted' else 'gone already' end;
    end if;

    -- What the row had is written; what it had not (values that its writer left alone, columns that are
    -- newer) stays as it is.
    select pg_catalog.string_agg(pg_catalog.format('%I = r.%I', a.attname, a.attname), ', '
                                 order by a.attnum) into assigned
      from pg_catalog.pg_attribute a
     where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
       and a.attgenerated = '' and a.attidentity <> 'a'
       and (lost ? a.attname::text) and not (key ? a.attname::text);
    -- A row of nothing but its key is written too.
    assigned := coalesce(assigned, (
        select pg_catalog.format('%I = t.%I', k, k) from pg_catalog.jsonb_object_keys(key) k limit 1));
    execute pg_catalog.format(
        'update %s t set %s from pg_catalog.jsonb_populate_record(null::%s, $1) r where %s',
        relation, assigned, relation, condition) using lost;
    get diagnostics touched = row_count;
    if touched > 0 then
        return 'updated';
    end if;

    select pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' order by a.attnum) into names
      from pg_catalog.pg_attribute a
     where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
       and a.attgenerated = '' and not (lost ? a.attname::text);
    if names is not null then
        raise exception 'the history has not the whole row that lost conflict %', conflict_id
            using errcode = 'object_not_in_prerequisite_state',
                  detail = 'The row is gone, and these columns are missing: ' || names
                      || '. They are newer than the conflict, or large values that the writer left alone.',
                  hint = pg_catalog.format(
                      'Insert it by hand: insert into %s select * from jsonb_populate_record(null::%s, %L);',
                      relation, relation, lost);
    end if;
    select pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' order by a.attnum),
           pg_catalog.string_agg('r.' || pg_catalog.quote_ident(a.attname), ', ' order by a.attnum)
      into names, assigned
      from pg_catalog.pg_attribute a
     where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attgenerated = '';
    execute pg_catalog.format(
        'insert into %s (%s) overriding system value select %s
           from pg_catalog.jsonb_populate_record(null::%s, $1) r',
        relation, names, assigned, relation) using lost;
    return 'inserted';
end
$$;
comment on function everywrite.write_back(bigint, text, jsonb, jsonb) is
    'what everywrite.restore_row() and everywrite.retry() have in common';

create function everywrite.retry(conflict_id bigint) returns text
language plpgsql volatile strict
as $$
declare
    c  record;
begin
    select p.* into c from everywrite.parked p where p.id = conflict_id;
    perform pg_catalog.set_config('everywrite.unparked', 'retried', true);
    delete from everywrite.parked p where p.id = conflict_id;
    if not found then
        raise exception 'nothing is parked here as conflict %', conflict_id
            using errcode = 'undefined_object',
                  hint = 'everywrite.parked shows what is; each row at the site whose write stands.';
    end if;
    perform pg_catalog.set_config('everywrite.unparked', '', true);
    return everywrite.write_back(conflict_id, c."table", c.key, c.incoming_row);
end
$$;
comment on function everywrite.retry(bigint) is
    'writes what is parked as a new write of this site; says "updated", "inserted" or "deleted"';

create function everywrite.discard(conflict_id bigint) returns void
language plpgsql volatile strict
as $$
begin
    delete from everywrite.parked p where p.id = conflict_id;
    if not found then
        raise exception 'nothing is parked here as conflict %', conflict_id
            using errcode = 'undefined_object',
                  hint = 'everywrite.parked shows what is; each row at the site whose write stands.';
    end if;
end
$$;
comment on function everywrite.discard(bigint) is
    'takes what is parked off the list; it stays in the history';

-- The function of a table's policy as it is called; an error says what is wrong with it. Asked when the
-- policy is set, and again before each merge: functions are replaced, and are made at every site by itself.
create function everywrite.merge_function(relation regclass, options jsonb) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    parts     text[];
    row_type  regtype;
    wanted    text;
    p         pg_proc;
begin
    if jsonb_typeof(options -> 'function') is distinct from 'string' then
        raise exception 'the policy "function" needs the name of a function'
            using errcode = 'invalid_parameter_value',
                  hint = 'Give it as an option: ''{"function": "shop.merge_stock"}''.';
    end if;
    parts := parse_ident(options ->> 'function');
    if cardinality(parts) <> 2 then
        raise exception 'the name of the function % needs its schema and nothing else', options ->> 'function'
            using errcode = 'invalid_parameter_value',
                  hint = 'Its arguments are given by the policy: ''{"function": "shop.merge_stock"}''.';
    end if;
    select c.reltype into row_type from pg_class c where c.oid = relation;
    wanted := format('%I.%I(%s, %s, timestamptz, timestamptz, text)', parts[1], parts[2], row_type, row_type);
    select f.* into p from pg_proc f where f.oid = to_regprocedure(wanted);
    if not found then
        raise exception 'there is no function % at this site', wanted
            using errcode = 'undefined_function',
                  detail = 'It is called with the row that stands, the row that lost, the times of both and '
                           'the kind of the conflict.',
                  hint = 'DDL does not travel: create the function at every site.';
    end if;
    if p.prorettype <> row_type or p.proretset or p.prokind <> 'f' then
        raise exception 'the function % does not return one row of %', wanted, relation
            using errcode = 'invalid_function_definition',
                  hint = format('Let it return %s.', row_type);
    end if;
    if p.provolatile = 'v' then
        raise exception 'the function % is volatile', wanted
            using errcode = 'invalid_function_definition',
                  detail = 'What it returns must follow from its arguments, or swapping them could not be '
                           'expected to give the same row; and it must not write.',
                  hint = 'Declare it immutable, or stable if it reads tables.';
    end if;
    if not p.prosecdef then
        raise exception 'the function % is not "security definer"', wanted
            using errcode = 'invalid_function_definition',
                  detail = 'It would run with the rights of the daemon''s role.',
                  hint = 'Declare it security definer: it runs with the rights of its owner then.';
    end if;
    if not has_table_privilege(p.proowner, relation, 'UPDATE') then
        raise exception 'the owner of the function % may not update %', wanted, relation
            using errcode = 'insufficient_privilege',
                  detail = 'Who decides what is written must be allowed to write it.';
    end if;
    if not has_schema_privilege(p.pronamespace, 'USAGE') or not has_function_privilege(p.oid, 'EXECUTE') then
        raise exception 'the daemon''s role may not call the function %', wanted
            using errcode = 'insufficient_privilege',
                  hint = format('grant usage on schema %I to %I; grant execute on function %s to %I;',
                                parts[1], current_user, wanted, current_user);
    end if;
    return format('%I.%I', parts[1], parts[2]);
end
$$;

-- The next rows to be merged: the oldest entry of each key.
create function everywrite.merge_next(behind bigint, at_most bigint)
returns table (id bigint, schema_name text, table_name text, key text, epoch text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select min(c.id), c.schema_name, c.table_name, c.key::text,
           (select coalesce(max(l.number), 0) || ' ' || count(*) from everywrite.policy_log l
             where l.schema_name = c.schema_name and l.table_name = c.table_name)
      from everywrite.conflict_history c
     where c.decision = 'merging' and c.done_at is null
     group by c.schema_name, c.table_name, c.key
    having min(c.id) > $1
     order by 1 limit $2
$$;

-- Closes all entries of a key that wait to be merged.
create function everywrite.merge_close(c everywrite.conflict_history, decision text, done text) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    update everywrite.conflict_history h
       set decision = $2, done = $3, done_at = clock_timestamp(), done_by = session_user, error = null
     where h.schema_name = c.schema_name and h.table_name = c.table_name and h.key = c.key
       and jsonb_hash(h.key) = jsonb_hash(c.key) and h.decision = 'merging' and h.done_at is null
$$;

-- Begins a merge: locks the row and says which write it is. No row comes back if there is nothing to merge.
-- The row first, then the history, as replay does.
create function everywrite.merge_begin(conflict_id bigint)
returns table (write bigint, own boolean)
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
declare
    c          everywrite.conflict_history;
    policy     text;
    relation   regclass;
    condition  text;
    stands     boolean;
begin
    select h.* into c from everywrite.conflict_history h
     where h.id = conflict_id and h.decision = 'merging' and h.done_at is null;
    if not found then
        return;
    end if;
    select p.policy into policy from everywrite.policies p
     where p.schema_name = c.schema_name and p.table_name = c.table_name;
    relation := to_regclass(format('%I.%I', c.schema_name, c.table_name));
    if policy is distinct from 'function' or relation is null then
        perform everywrite.merge_close(c, 'kept local', 'superseded');
        return;
    end if;
    select string_agg(format('t.%I = r.%I', k, k), ' and ') into condition from jsonb_object_keys(c.key) k;
    execute format(
        'select t.xmin::text::bigint,
                coalesce((pg_xact_commit_timestamp_origin(t.xmin)).roident, 0) = 0, true
           from %s t, jsonb_populate_record(null::%s, $1) r where %s for update of t',
        relation, relation, condition) into write, own, stands using c.key;
    if stands is null then
        -- Somebody has deleted it since: there is nothing to merge into.
        perform everywrite.merge_close(c, 'kept local', 'superseded');
        return;
    end if;
    return next;
end
$$;

-- Merges what waits for the row that merge_begin() has locked, oldest first, and writes the result as an
-- ordinary update. Says which transaction wrote it; null if nothing had to be written.
-- Error EW010: the function breaks its contract, and no other row of the table will fare better.
create function everywrite.merge_rows(conflict_id bigint, both_ways boolean) returns bigint
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
declare
    c          everywrite.conflict_history;
    e          everywrite.conflict_history;
    relation   regclass;
    merge      text;
    one_call   text;
    condition  text;
    keys       text[];
    written    text[];
    began      jsonb;
    stands     text;
    as_json    jsonb;
    at_time    timestamptz;
    lost       jsonb;
    result     text;
    its_json   jsonb;
    swapped    jsonb;
    differ     text;
    touched    bigint;
begin
    select h.* into c from everywrite.conflict_history h where h.id = conflict_id;
    relation := to_regclass(format('%I.%I', c.schema_name, c.table_name));
    select everywrite.merge_function(relation, p.options) into merge from everywrite.policies p
     where p.schema_name = c.schema_name and p.table_name = c.table_name;
    select array_agg(k), string_agg(format('t.%I = r.%I', k, k), ' and ') into keys, condition
      from jsonb_object_keys(c.key) k;
    -- Columns that an update may set.
    select coalesce(array_agg(a.attname::text order by a.attnum), '{}') into written from pg_attribute a
     where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
       and a.attgenerated = '' and a.attidentity <> 'a' and a.attname <> all (keys);
    -- Rows are handed on as text, which loses nothing. What the writer of the lost row left alone, and what
    -- was not a column then, is as in the row that stands.
    one_call := format(
        'select (m.r)::text, to_jsonb(m.r) from (select %s($1::%s, jsonb_populate_record($1::%s, $2), $3, $4, $5) as r
          offset 0) m', merge, relation, relation);
    execute format(
        'select t::text, to_jsonb(t), coalesce(pg_xact_commit_timestamp(t.xmin), now())
           from %s t, jsonb_populate_record(null::%s, $1) r where %s', relation, relation, condition)
       into strict stands, as_json, at_time using c.key;
    began := as_json;
    for e in select h.* from everywrite.conflict_history h
              where h.schema_name = c.schema_name and h.table_name = c.table_name and h.key = c.key
                and jsonb_hash(h.key) = jsonb_hash(c.key) and h.decision = 'merging' and h.done_at is null
              order by h.id for update
    loop
        execute format('select to_jsonb(jsonb_populate_record($1::%s, $2))', relation)
           into lost using stands, e.incoming_row;
        if lost::text = as_json::text then
            continue;
        end if;
        execute one_call into result, its_json using stands, e.incoming_row, at_time, e.incoming_stamp, e.kind;
        if result is null then
            raise exception 'the function % gave no row', merge
                using errcode = 'EW010', hint = 'It has to return one for any two rows with the same key.';
        end if;
        select string_agg(quote_ident(k), ', ') into differ from unnest(keys) k
         where (its_json -> k)::text is distinct from (as_json -> k)::text;
        if differ is not null then
            raise exception 'the function % changed the key: %', merge, differ
                using errcode = 'EW010', hint = 'It has to return a row with the key of both.';
        end if;
        if both_ways then
            execute format(
                'select to_jsonb(m.r) from (select %s(jsonb_populate_record($1::%s, $2), $1::%s, $4, $3, $5) as r
                  offset 0) m', merge, relation, relation)
               into swapped using stands, e.incoming_row, at_time, e.incoming_stamp, e.kind;
            select string_agg(quote_ident(k), ', ') into differ from unnest(written) k
             where (its_json -> k)::text is distinct from (swapped -> k)::text;
            if differ is not null then
                raise exception 'the function % gives another row when its arguments are swapped: %', merge, differ
                    using errcode = 'EW010',
                          detail = 'Which of two rows stands is decided by their versions, so its result would '
                                   'depend on clocks.',
                          hint = 'Let it treat both rows alike; where one must have precedence, by the two times.';
            end if;
        end if;
        stands := result;
        as_json := its_json;
        at_time := greatest(at_time, e.incoming_stamp);
    end loop;
    perform everywrite.merge_close(c, 'merged', 'merged');
    select string_agg(format('%I = r.%I', k, k), ', ') into differ from unnest(written) k
     where (as_json -> k)::text is distinct from (began -> k)::text;
    if differ is null then
        return null;
    end if;
    execute format('update %s t set %s from (select ($1::%s).*) r where %s', relation, differ, relation, condition)
      using stands;
    get diagnostics touched = row_count;
    if touched <> 1 then
        raise exception 'the row of conflict % is not there any more', conflict_id using errcode = '40001';
    end if;
    return (pg_current_xact_id()::text::numeric % 4294967296)::bigint;
end
$$;

-- An attempt that failed.
create function everywrite.merge_failed(conflict_id bigint, reason text) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    update everywrite.conflict_history h set attempts = coalesce(h.attempts, 0) + 1, error = $2
     where h.id = $1 and h.decision = 'merging' and h.done_at is null
$$;

-- How much is open, by table.
create function everywrite.open_conflicts()
returns table (schema_name text, table_name text, merging bigint, parked bigint, oldest timestamptz)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select c.schema_name, c.table_name, count(*) filter (where c.decision = 'merging'),
           count(*) filter (where c.decision = 'parked'), min(c.decided_at)
      from everywrite.conflict_history c
     where c.decision in ('merging', 'parked') and c.done_at is null
     group by 1, 2 order by 1, 2
$$;

-- What the daemon alone calls; and everywrite.parked is what gives the rights to retry and discard.
revoke all on function everywrite.unpark() from public;
revoke all on function everywrite.merge_function(regclass, jsonb) from public;
revoke all on function everywrite.merge_next(bigint, bigint) from public;
revoke all on function everywrite.merge_close(everywrite.conflict_history, text, text) from public;
revoke all on function everywrite.merge_begin(bigint) from public;
revoke all on function everywrite.merge_rows(bigint, boolean) from public;
revoke all on function everywrite.merge_failed(bigint, text) from public;
revoke all on function everywrite.open_conflicts() from public;
