-- Entries of the conflict history that differ only in their rows and places are written together, as one
-- row of arrays. A storm of conflicts costs a fraction of the time, WAL and room that way, and logical
-- decoding, which has to read and send whatever is written, gets one row instead of a hundred.

-- Entries that are open (merging, parked), and those that have no company, stay in conflict_history. Ids are
-- of one sequence.
create table everywrite.conflict_sets (
    last_id                   bigint primary key,
    entries                   integer not null,
    decided_at                timestamptz not null default clock_timestamp(),
    site                      integer not null,
    schema_name               text not null,
    table_name                text not null,
    kind                      text not null,
    policy                    text not null
        default coalesce(nullif(current_setting('everywrite.policy', true), ''), 'last_update_wins'),
    decision                  text not null,
    local_origin              integer,
    local_position_origin     integer,
    incoming_origin           integer,
    incoming_position_origin  integer,
    ids                       bigint[] not null,
    keys                      jsonb[] not null,
    local_rows                jsonb[] not null,
    incoming_rows             jsonb[] not null,
    local_stamps              timestamptz[] not null,
    local_position_lsns       pg_lsn[] not null,
    incoming_stamps           timestamptz[] not null,
    incoming_position_lsns    pg_lsn[] not null,
    incoming_xids             bigint[] not null
);
comment on table everywrite.conflict_sets is
    'conflicts decided at this site that were written together; the view everywrite.conflicts has each of them';
-- Compressing them takes as long as all the rest.
alter table everywrite.conflict_sets
    alter column ids set storage external,
    alter column keys set storage external,
    alter column local_rows set storage external,
    alter column incoming_rows set storage external,
    alter column local_stamps set storage external,
    alter column local_position_lsns set storage external,
    alter column incoming_stamps set storage external,
    alter column incoming_position_lsns set storage external,
    alter column incoming_xids set storage external;

-- Every entry, whichever table holds it. batch: the greatest id of those written together.
create view everywrite.conflict_entries as
select c.id as batch, c.id, c.decided_at, c.site, c.schema_name, c.table_name, c.key, c.kind, c.policy, c.decision,
       c.local_row, c.incoming_row, c.local_stamp, c.local_origin, c.incoming_stamp, c.incoming_origin,
       c.local_position_origin, c.local_position_lsn, c.incoming_position_origin, c.incoming_position_lsn,
       c.local_xid, c.incoming_xid, c.done_at, c.done_by, c.done, c.note
  from everywrite.conflict_history c
 union all
select s.last_id, e.id, s.decided_at, s.site, s.schema_name, s.table_name, e.key, s.kind, s.policy, s.decision,
       e.local_row, e.incoming_row, e.local_stamp, s.local_origin, e.incoming_stamp, s.incoming_origin,
       s.local_position_origin, e.local_position_lsn, s.incoming_position_origin, e.incoming_position_lsn,
       null::bigint, e.incoming_xid, null::timestamptz, null::text, null::text, null::text
  from everywrite.conflict_sets s
 cross join lateral unnest(s.ids, s.keys, s.local_rows, s.incoming_rows, s.local_stamps, s.local_position_lsns,
                           s.incoming_stamps, s.incoming_position_lsns, s.incoming_xids)
       as e (id, key, local_row, incoming_row, local_stamp, local_position_lsn,
             incoming_stamp, incoming_position_lsn, incoming_xid);
comment on view everywrite.conflict_entries is
    'every conflict decided at this site, as it is kept; the view everywrite.conflicts is easier to read';

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
       case when c.decision = 'applied' then coalesce(l.name, c.local_origin::text)
            when c.decision in ('kept local', 'merging', 'parked')
            then coalesce(i.name, c.incoming_origin::text)
       end as lost_by,
       c.done,
       c.done_at,
       c.done_by,
       c.note,
       c.batch
  from everywrite.conflict_entries c
  left join everywrite.nodes s on s.id = c.site
  left join everywrite.nodes l on l.id = c.local_origin
  left join everywrite.nodes i on i.id = c.incoming_origin
  left join everywrite.nodes lp on lp.id = c.local_position_origin
  left join everywrite.nodes ip on ip.id = c.incoming_position_origin;
comment on column everywrite.conflicts.lost_by is
    'the site whose write lost; null if neither did, or nobody knows any more who wrote the row';
comment on column everywrite.conflicts.batch is
    'the greatest id of the conflicts that were written together with this one';

-- One conflict, without a walk through the history: what is written together has ids close to each other.
-- Runs with the rights of who calls it.
create function everywrite.conflict(conflict_id bigint) returns setof everywrite.conflicts
language plpgsql stable strict rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    return query select c.* from everywrite.conflicts c
                  where c.id = conflict_id and c.batch between conflict_id and conflict_id + 10000;
    if not found then
        return query select c.* from everywrite.conflicts c where c.id = conflict_id;
    end if;
end
$$;
comment on function everywrite.conflict(bigint) is
    'one conflict of the history by its id, as everywrite.conflicts has it';
grant execute on function everywrite.conflict(bigint) to public;

-- Runs with the rights and the search path of who calls it, so that it may do what he may do, and the
-- table's triggers find what they find for his own statements.
create function everywrite.restore_row(conflict_id bigint) returns text
language plpgsql volatile strict
as $$
declare
    c          record;
    lost       jsonb;
    condition  text;
begin
    select v.* into c from everywrite.conflict(conflict_id) v;
    if not found then
        raise exception 'there is no conflict % in the history of this site', conflict_id
            using errcode = 'undefined_object',
                  hint = 'Each site has a history of its own, and keeps it as long as [conflicts] says.';
    end if;
    if c.decision not in ('applied', 'kept local') then
        raise exception 'no row lost conflict %', conflict_id
            using errcode = 'object_not_in_prerequisite_state',
                  detail = pg_catalog.format('Its decision is "%s".', c.decision),
                  hint = case c.decision
                         when 'parked' then pg_catalog.format('To have it written: select everywrite.retry(%s);',
                                                              conflict_id)
                         else 'Both rows are in everywrite.conflicts.' end;
    end if;
    lost := case c.decision when 'applied' then c.local_row else c.incoming_row end;
    if lost is null then
        select pg_catalog.string_agg(pg_catalog.format('%I = %L', k.key, k.value), ' and ') into condition
          from pg_catalog.jsonb_each_text(c.key) k;
        raise exception 'what lost conflict % is a delete, not a row', conflict_id
            using errcode = 'object_not_in_prerequisite_state',
                  detail = 'Nothing was changed.',
                  hint = pg_catalog.format('To have it deleted after all: delete from %s where %s;',
                                           c."table", condition);
    end if;
    return everywrite.write_back(conflict_id, c."table", c.key, lost);
end
$$;
comment on function everywrite.restore_row(bigint) is
    'writes the row that lost a conflict back, as a new update of this site; says "updated" or "inserted"';

-- What is beyond the newest `keep_rows`: the greatest id of it. Reads indexes only, of the sets their rows.
create function everywrite.beyond_newest(keep_rows bigint) returns bigint
language sql stable strict
set search_path = pg_catalog, pg_temp
as $$
    select k.batch
      from (select u.batch, sum(u.entries) over (order by u.batch desc rows unbounded preceding) - u.entries as newer
              from (select c.id as batch, 1 as entries from everywrite.conflict_history c
                     union all
                    select s.last_id, s.entries from everywrite.conflict_sets s) u) k
     where k.newer >= keep_rows
     order by k.batch desc limit 1
$$;
revoke all on function everywrite.beyond_newest(bigint) from public;

-- Deletes what is old or has an id up to `up_to`: about `at_most` entries, at least one set. What is open stays,
-- however old.
create function everywrite.forget_entries(cutoff timestamptz, up_to bigint, at_most bigint) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    deleted  bigint;
    of_sets  bigint;
begin
    -- Each half walks an index from its old end, so a call that finds nothing to do is cheap.
    delete from everywrite.conflict_history c
     where c.id in (
        (select old.id from everywrite.conflict_history old
          where old.decided_at < cutoff
            and (old.decision not in ('merging', 'parked') or old.done_at is not null)
          order by old.decided_at limit at_most)
        union
        (select old.id from everywrite.conflict_history old
          where old.id <= up_to
            and (old.decision not in ('merging', 'parked') or old.done_at is not null)
          order by old.id limit at_most)
        limit at_most);
    get diagnostics deleted = row_count;
    with gone as (
        delete from everywrite.conflict_sets s
         where s.last_id in (
            select old.last_id
              from (select f.last_id, sum(f.entries) over (order by f.last_id) - f.entries as before
                      from (select o.last_id, o.entries from everywrite.conflict_sets o
                             where o.decided_at < cutoff or o.last_id <= up_to
                             order by o.last_id limit at_most) f) old
             where deleted + old.before < at_most)
        returning s.entries)
    select coalesce(sum(g.entries), 0) into of_sets from gone g;
    return deleted + of_sets;
end
$$;
revoke all on function everywrite.forget_entries(timestamptz, bigint, bigint) from public;

create or replace function everywrite.forget_conflicts(
    older_than interval, keep_rows bigint, at_most bigint default 10000)
returns bigint
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    select everywrite.forget_entries(
        clock_timestamp() - older_than,
        case when keep_rows is not null then everywrite.beyond_newest(greatest(keep_rows, 0)) end,
        at_most)
$$;
