-- The conflict history for people and applications: found by table and kind, counted, put back,
-- told to the site whose write lost.

-- Together with the index on decided_at: the filters that people use. One column each, because equal
-- entries are kept as lists then, in a third of the room.
create index conflict_history_table on everywrite.conflict_history
    ((quote_ident(schema_name) || '.' || quote_ident(table_name)));
create index conflict_history_kind on everywrite.conflict_history (kind);

create or replace view everywrite.conflicts as
select c.id,
       c.decided_at,
       quote_ident(c.schema_name) || '.' || quote_ident(c.table_name) as "table",
       c.key,
       c.kind,
       c.decision,
       coalesce(l.name, c.local_origin::text) as local_site,
       c.local_row,
       c.local_stamp as local_written_at,
       coalesce(i.name, c.incoming_origin::text) as incoming_site,
       c.incoming_row,
       c.incoming_stamp as incoming_written_at,
       c.policy,
       coalesce(s.name, c.site::text) as decided_by,
       coalesce(lp.name, c.local_position_origin::text)
           || ' ' || c.local_position_lsn as local_position,
       coalesce(ip.name, c.incoming_position_origin::text)
           || ' ' || c.incoming_position_lsn as incoming_position,
       c.local_xid,
       c.incoming_xid,
       case c.decision when 'applied' then coalesce(l.name, c.local_origin::text)
                       when 'kept local' then coalesce(i.name, c.incoming_origin::text)
       end as lost_by
  from everywrite.conflict_history c
  left join everywrite.nodes s on s.id = c.site
  left join everywrite.nodes l on l.id = c.local_origin
  left join everywrite.nodes i on i.id = c.incoming_origin
  left join everywrite.nodes lp on lp.id = c.local_position_origin
  left join everywrite.nodes ip on ip.id = c.incoming_position_origin;
comment on column everywrite.conflicts.lost_by is
    'the site whose write lost; null if neither did, or nobody knows any more who wrote the row';

create view everywrite.conflict_counts as
select quote_ident(c.schema) || '.' || quote_ident(c."table") as "table",
       c.kind,
       c.conflicts
  from everywrite.node_status s
 cross join lateral jsonb_to_recordset(s.status -> 'conflict_counts') as c (
       schema text, "table" text, kind text, conflicts bigint)
 order by 1, 2;
comment on view everywrite.conflict_counts is
    'conflicts decided at this site since its daemon started, by table and kind';
grant select on everywrite.conflict_counts to public;

-- Called in the transaction that decided, with the ids of the conflicts that this site lost. A
-- transaction may decide many thousands: the first hundred are told one by one, then one
-- notification says from which id on there are more.
create function everywrite.tell_lost(ids bigint[]) returns void
language plpgsql volatile strict
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Of this transaction alone: empty, how many are told, or 'enough'.
    told  text := coalesce(current_setting('everywrite.told', true), '');
    so_far integer;
    id    bigint;
begin
    if told = 'enough' then
        return;
    end if;
    so_far := coalesce(nullif(told, ''), '0')::integer;
    foreach id in array ids loop
        if so_far = 100 then
            perform pg_notify('everywrite_conflict', id || '+');
            perform set_config('everywrite.told', 'enough', true);
            return;
        end if;
        perform pg_notify('everywrite_conflict', id::text);
        so_far := so_far + 1;
    end loop;
    perform set_config('everywrite.told', so_far::text, true);
end
$$;
comment on function everywrite.tell_lost(bigint[]) is
    'notifies the channel everywrite_conflict of conflicts that this site lost';
revoke all on function everywrite.tell_lost(bigint[]) from public;

-- Runs with the rights and the search path of who calls it, so that it may do what he may do, and the
-- table's triggers find what they find for his own statements.
create function everywrite.restore_row(conflict_id bigint) returns text
language plpgsql volatile strict
as $$
declare
    c         record;
    lost      jsonb;
    relation  regclass;
    names     text;
    condition text;
    assigned  text;
    touched   bigint;
begin
    select v.* into c from everywrite.conflicts v where v.id = conflict_id;
    if not found then
        raise exception 'there is no conflict % in the history of this site', conflict_id
            using errcode = 'undefined_object',
                  hint = 'Each site has a history of its own, and keeps it as long as [conflicts] says.';
    end if;
    if c.decision not in ('applied', 'kept local') then
        raise exception 'no row lost conflict %', conflict_id
            using errcode = 'object_not_in_prerequisite_state',
                  detail = pg_catalog.format('Its decision is "%s".', c.decision),
                  hint = 'Both rows are in everywrite.conflicts.';
    end if;
    lost := case c.decision when 'applied' then c.local_row else c.incoming_row end;
    select pg_catalog.string_agg(pg_catalog.format('%I = %L', k.key, k.value), ' and ') into condition
      from pg_catalog.jsonb_each_text(c.key) k;
    if lost is null then
        raise exception 'what lost conflict % is a delete, not a row', conflict_id
            using errcode = 'object_not_in_prerequisite_state',
                  detail = 'Nothing was changed.',
                  hint = pg_catalog.format('To have it deleted after all: delete from %s where %s;',
                                           c."table", condition);
    end if;
    relation := pg_catalog.to_regclass(c."table");
    if relation is null then
        raise exception 'the table % of conflict % does not exist any more', c."table", conflict_id
            using errcode = 'undefined_table',
                  hint = 'The losing row is in everywrite.conflicts.';
    end if;
    select pg_catalog.string_agg(pg_catalog.quote_ident(k), ', ') into names
      from pg_catalog.jsonb_object_keys(lost) k
     where not exists (
           select from pg_catalog.pg_attribute a
            where a.attrelid = relation and a.attname = k and a.attnum > 0 and not a.attisdropped);
    if names is not null then
        raise exception 'the table % has changed since conflict %', c."table", conflict_id
            using errcode = 'undefined_column',
                  detail = 'Columns of the losing row that it does not have any more: ' || names || '.',
                  hint = 'Write by hand what still has a place; the losing row is in everywrite.conflicts.';
    end if;

    -- What the row had is written; what it had not (values that its writer left alone, columns that are
    -- newer) stays as it is.
    select pg_catalog.string_agg(pg_catalog.format('t.%I = r.%I', k, k), ' and ') into condition
      from pg_catalog.jsonb_object_keys(c.key) k;
    select pg_catalog.string_agg(pg_catalog.format('%I = r.%I', a.attname, a.attname), ', '
                                 order by a.attnum) into assigned
      from pg_catalog.pg_attribute a
     where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
       and a.attgenerated = '' and a.attidentity <> 'a'
       and (lost ? a.attname::text) and not (c.key ? a.attname::text);
    -- A row of nothing but its key is written too.
    assigned := coalesce(assigned, (
        select pg_catalog.format('%I = t.%I', k, k) from pg_catalog.jsonb_object_keys(c.key) k limit 1));
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
comment on function everywrite.restore_row(bigint) is
    'writes the row that lost a conflict back, as a new update of this site; says "updated" or "inserted"';
