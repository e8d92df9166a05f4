-- Policies: how conflicts of a table are decided. A row of policy_log is one change of a table's
-- policy; capture turns the insert of a local one into a message of the stream, in its place among
-- the transactions, and replay writes those of the others here. Never updated or deleted.
create table everywrite.policy_log (
    schema_name  text not null,
    table_name   text not null,
    number       integer not null check (number > 0),
    origin       integer not null,
    policy       text not null,
    kind         text not null default 'all',
    sites        text not null default '',
    options      jsonb not null default '{}',
    set_at       timestamptz not null default clock_timestamp(),
    set_by       text not null default session_user,
    lsn          pg_lsn,
    primary key (schema_name, table_name, number, origin)
);
comment on table everywrite.policy_log is
    'every change of a table''s policy; the view everywrite.policies shows what holds';
comment on column everywrite.policy_log.number is
    'counts the changes of a table; of two that were made at once, that of the greater origin holds';
comment on column everywrite.policy_log.sites is 'the ids of the sites in options, in their order';
comment on column everywrite.policy_log.lsn is
    'for a change made at this site, a place in its WAL before the commit';

create view everywrite.policies as
    select distinct on (l.schema_name, l.table_name)
           l.schema_name, l.table_name, l.kind, l.policy, l.options,
           coalesce(n.name, l.origin::text) as site, l.set_at, l.set_by
      from everywrite.policy_log l
      left join everywrite.nodes n on n.id = l.origin
     order by l.schema_name, l.table_name, l.number desc, l.origin desc;
comment on view everywrite.policies is
    'how conflicts are decided, for each table that everywrite.set_policy() was called for; all others: last_update_wins';
grant select on everywrite.policies to public;

-- The history says which policy decided. Replay sets this for tables that have one.
alter table everywrite.conflict_history alter column policy
    set default coalesce(nullif(current_setting('everywrite.policy', true), ''), 'last_update_wins');

create function everywrite.policy_sites(options jsonb) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    ids   integer[] := '{}';
    name  text;
begin
    if jsonb_typeof($1 -> 'order') is distinct from 'array' or jsonb_array_length($1 -> 'order') = 0 then
        raise exception 'node_priority needs the sites in their order'
            using errcode = 'invalid_parameter_value',
                  hint = 'Give them as options, the first one wins: ''{"order": ["a", "b"]}''.';
    end if;
    for name in select jsonb_array_elements_text($1 -> 'order') loop
        ids := ids || (everywrite.node_named(name)).id;
    end loop;
    if (select count(distinct i) from unnest(ids) i) <> cardinality(ids) then
        raise exception 'a site stands twice in the order'
            using errcode = 'invalid_parameter_value';
    end if;
    return array_to_string(ids, ',');
end
$$;

create function everywrite.set_policy(
    relation regclass, kind text, policy text, options jsonb default '{}')
returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    its_schema   text;
    its_name     text;
    its_kind     "char";
    next_number  integer;
    site_ids     text := '';
    known        text[] := '{}';
    unknown      text;
begin
    if relation is null or policy is null then
        raise exception 'set_policy needs a table and a policy'
            using errcode = 'null_value_not_allowed';
    end if;
    select n.nspname, c.relname, c.relkind into its_schema, its_name, its_kind
      from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation;
    if its_kind is distinct from 'r' then
        raise exception '% is not a table of its own', relation
            using errcode = 'wrong_object_type',
                  detail = 'Changes are known by the table that holds the row.',
                  hint = 'For a partitioned table, call set_policy for each of its partitions.';
    end if;
    if its_schema = 'everywrite' then
        raise exception '% is not replicated', relation using errcode = 'wrong_object_type';
    end if;
    if not exists (select from pg_index i where i.indrelid = relation
                      and (i.indisprimary or i.indisreplident)) then
        raise exception '% has no key', relation
            using errcode = 'object_not_in_prerequisite_state',
                  detail = 'Without a key its rows are only added, so they meet no others.',
                  hint = 'Add a primary key.';
    end if;
    if not exists (select from pg_publication_tables p where p.pubname = 'everywrite'
                      and p.schemaname = 'everywrite' and p.tablename = 'policy_log') then
        raise exception 'everywrite.policy_log is not in the publication "everywrite"'
            using errcode = 'object_not_in_prerequisite_state',
                  detail = 'The change reaches the stream through this table.',
                  hint = 'Let the owner run: alter publication everywrite add table everywrite.policy_log.';
    end if;
    if policy in ('column_wise', 'delta', 'greatest', 'least', 'union', 'function', 'park') then
        raise exception 'the policy "%" is not available in this release', policy
            using errcode = 'feature_not_supported',
                  hint = 'There are last_update_wins, first_update_wins, node_priority and stop.';
    elsif policy not in ('last_update_wins', 'first_update_wins', 'node_priority', 'stop') then
        raise exception 'there is no policy "%"', policy
            using errcode = 'invalid_parameter_value',
                  hint = 'There are last_update_wins, first_update_wins, node_priority and stop.';
    end if;
    if policy = 'stop' then
        if coalesce(kind, 'all') not in (
            'all', 'insert_exists', 'update_origin_differs', 'update_exists', 'update_missing',
            'update_deleted', 'delete_origin_differs', 'delete_missing', 'insert_deleted',
            'multiple_unique_conflicts', 'truncate_origin_differs') then
            raise exception 'there is no kind of conflict "%"', kind
                using errcode = 'invalid_parameter_value',
                      hint = 'Give ''all'', or a kind as everywrite.conflicts shows it.';
        end if;
    elsif coalesce(kind, 'all') <> 'all' then
        raise exception '% chooses a row and is set for all kinds of conflicts', policy
            using errcode = 'invalid_parameter_value',
                  detail = 'An insert, an update and a delete of one row can meet in any order. If two '
                           'kinds were decided by different policies, each of three writes could win '
                           'against the next, and the order of arrival would decide.',
                  hint = 'Give ''all'' as the kind.';
    end if;
    if policy = 'node_priority' then
        known := '{order}';
        site_ids := everywrite.policy_sites(options);
    end if;
    select k into unknown from jsonb_object_keys(coalesce(options, '{}')) k where k <> all (known) limit 1;
    if found then
        raise exception '% has no option "%"', policy, unknown
            using errcode = 'invalid_parameter_value';
    end if;
    -- One change of a table after the other, so that each has its number.
    lock table everywrite.policy_log in share row exclusive mode;
    select coalesce(max(l.number), 0) + 1 into next_number from everywrite.policy_log l
     where l.schema_name = its_schema and l.table_name = its_name;
    insert into everywrite.policy_log (schema_name, table_name, number, origin, policy, kind, sites, options, lsn)
    select its_schema, its_name, next_number, n.id, $3, coalesce($2, 'all'), site_ids, coalesce($4, '{}'),
           pg_current_wal_insert_lsn()
      from everywrite.nodes n where n.local;
    if not found then
        raise exception 'this site is not known yet'
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'The daemon writes the sites into everywrite.nodes when it starts.';
    end if;
end
$$;
comment on function everywrite.set_policy(regclass, text, text, jsonb) is
    'decides conflicts of a table by a policy, at every site, from this place in the stream on';

-- What replay writes of another site's change.
create function everywrite.policy_was_set(
    schema_name text, table_name text, number integer, origin integer, policy text, kind text, sites text,
    options text)
returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into everywrite.policy_log (schema_name, table_name, number, origin, policy, kind, sites, options)
    values ($1, $2, $3, $4, $5, $6, $7, $8::jsonb) on conflict do nothing;
$$;

revoke all on function everywrite.policy_sites(jsonb) from public;
revoke all on function everywrite.set_policy(regclass, text, text, jsonb) from public;
revoke all on function everywrite.policy_was_set(text, text, integer, integer, text, text, text, text) from public;
