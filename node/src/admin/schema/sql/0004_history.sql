-- The conflict history for people and applications: found by table and kind, counted,
-- told to the site whose write lost.

-- Together with the index on decided_at: the filters that people use. One column each, because equal
-- entries are kept as lists then, in a third of the room.
create index conflict_history_table on everywrite.conflict_history
    ((quote_ident(schema_name) || '.' || quote_ident(table_name)));
create index conflict_history_kind on everywrite.conflict_history (kind);

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
