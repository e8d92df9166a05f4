-- Policies that merge the columns of a row. What two sites change in different columns both stays; some
-- columns are added up, keep the greatest or least value, or are sets that are merged element by element. set_policy knows the policies of version 6
-- from here on, too; the view everywrite.conflicts stands here once more, with what is added.
alter table everywrite.policy_log add column begun_at timestamptz;
comment on column everywrite.policy_log.begun_at is
    'for column_wise: since when this site merges; until every site has taken the change in, whole rows are decided';

create or replace view everywrite.policies as
    select distinct on (l.schema_name, l.table_name)
           l.schema_name, l.table_name, l.kind, l.policy, l.options,
           coalesce(n.name, l.origin::text) as site, l.set_at, l.set_by, l.begun_at
      from everywrite.policy_log l
      left join everywrite.nodes n on n.id = l.origin
     order by l.schema_name, l.table_name, l.number desc, l.origin desc;

alter table everywrite.conflict_history add column note text;
comment on column everywrite.conflict_history.note is 'what else has to be said: a floor that was crossed';

-- What can be merged as a set must be written alike at every site: distinct elements, in one order. A CHECK
-- constraint of the user's table calls is_set, so that nothing else gets in; as_set makes one.
create function everywrite.as_set(value anyarray) returns anyarray
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select array(select distinct on (e::text collate "C") e from unnest(value) e
                  where e is not null order by e::text collate "C")
$$;

create function everywrite.is_set(value anyarray) returns boolean
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    before   text collate "C";
    element  text collate "C";
begin
    if array_ndims(value) is null then
        return true;
    elsif array_ndims(value) > 1 or array_lower(value, 1) <> 1 then
        return false;
    end if;
    foreach element in array value::text[] loop
        if element is null or element <= before then
            return false;
        end if;
        before := element;
    end loop;
    return true;
end
$$;

-- jsonb keeps its keys distinct and in order by itself.
create function everywrite.is_set(value jsonb) returns boolean
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_typeof(value) = 'object'
$$;

create function everywrite.merge_elements(current anyarray, removed anyarray, added anyarray) returns anyarray
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select everywrite.as_set(
        array(select e from unnest(current) e
                left join unnest(removed::text[]) r on r collate "C" = e::text
               where r is null) || added)
$$;

create function everywrite.merge_elements(current jsonb, removed jsonb, added jsonb) returns jsonb
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select (current - array(select jsonb_object_keys(removed))) || added
$$;

-- delta, greatest, least and union are short for column_wise with such columns.
create function everywrite.column_options(policy text, options jsonb) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    merge  text;
    name   text;
    names  text[] := '{}';
begin
    if policy <> 'column_wise' then
        if jsonb_typeof(options -> 'columns') is distinct from 'array'
           or jsonb_array_length(options -> 'columns') = 0 then
            raise exception '% needs columns', policy
                using errcode = 'invalid_parameter_value',
                      hint = 'Give them as options: ''{"columns": ["balance"]}''.';
        end if;
        options := options - 'columns' || jsonb_build_object(policy, options -> 'columns');
    end if;
    foreach merge in array array['delta', 'greatest', 'least', 'union'] loop
        if not options ? merge then
            continue;
        end if;
        if jsonb_typeof(options -> merge) <> 'array' then
            raise exception '% is not a list of columns', merge
                using errcode = 'invalid_parameter_value';
        end if;
        for name in select jsonb_array_elements_text(options -> merge) loop
            if name = any (names) then
                raise exception 'the column "%" stands there twice', name
                    using errcode = 'invalid_parameter_value';
            end if;
            names := names || name;
        end loop;
    end loop;
    if options ? 'floor' then
        if jsonb_typeof(options -> 'floor') <> 'object' then
            raise exception 'floor needs a number for each column'
                using errcode = 'invalid_parameter_value',
                      hint = 'For example ''{"delta": ["balance"], "floor": {"balance": 0}}''.';
        end if;
        for name in select k from jsonb_object_keys(options -> 'floor') k loop
            if jsonb_typeof(options -> 'floor' -> name) <> 'number' then
                raise exception 'the floor of "%" is not a number', name
                    using errcode = 'invalid_parameter_value';
            end if;
            if not coalesce(options -> 'delta' ? name, false) then
                raise exception 'the column "%" has a floor and is not a delta', name
                    using errcode = 'invalid_parameter_value',
                          detail = 'Only where differences are added up a value can come out that nobody wrote.';
            end if;
        end loop;
    end if;
    if options ? 'set_replica_identity' and jsonb_typeof(options -> 'set_replica_identity') <> 'boolean' then
        raise exception 'set_replica_identity is true or false'
            using errcode = 'invalid_parameter_value';
    end if;
    return options;
end
$$;

-- Whether a column of this site can be merged as a set.
create function everywrite.prepare_set(relation regclass, name text, its_type oid, its_not_null boolean)
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    constrained  text := format('everywrite.is_set(%I)', name);
begin
    if its_type in ('float4[]'::regtype, 'float8[]'::regtype, 'numeric[]'::regtype) then
        raise exception 'the elements of the column "%" of % have more than one spelling', name, relation
            using errcode = 'invalid_parameter_value',
                  detail = 'Elements are told apart by how they are written: 1.0 and 1.00, or 0 and -0, are equal and '
                           'not the same.',
                  hint = 'Use an array of text, uuid, integers or booleans, or the keys of a jsonb object.';
    elsif its_type = 'json'::regtype then
        raise exception 'the column "%" of % is json', name, relation
            using errcode = 'invalid_parameter_value',
                  detail = 'json keeps spaces, order and repeated keys as they were written, which every site would '
                           'make otherwise.',
                  hint = format('At every site: alter table %s alter column %I type jsonb;', relation, name);
    elsif its_type not in ('bool[]'::regtype, 'int2[]'::regtype, 'int4[]'::regtype, 'int8[]'::regtype,
                           'text[]'::regtype, 'varchar[]'::regtype, 'uuid[]'::regtype, 'jsonb'::regtype) then
        raise exception 'the column "%" of % is no set that every site would write alike', name, relation
            using errcode = 'invalid_parameter_value',
                  detail = 'Elements are told apart, and put in order, by how they are written, which must not depend '
                           'on settings or catalogs.',
                  hint = 'There are arrays of text, varchar, uuid, integers and booleans, and jsonb objects.';
    end if;
    if not its_not_null then
        raise exception 'the column "%" of % may be null', name, relation
            using errcode = 'invalid_parameter_value',
                  detail = 'Nothing has no elements that could be compared with those of a set.',
                  hint = format('At every site: update %1$s set %2$I = ''{}'' where %2$I is null; alter table %1$s '
                                'alter column %2$I set not null;', relation, name);
    end if;
    if not exists (select from pg_constraint c
                    where c.conrelid = relation and c.contype = 'c' and c.convalidated
                      and coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)
                      and pg_get_expr(c.conbin, c.conrelid) = constrained) then
        raise exception 'nothing makes sure that the column "%" of % is a set', name, relation
            using errcode = 'object_not_in_prerequisite_state',
                  detail = case its_type when 'jsonb'::regtype
                           then 'Only the keys of an object can be merged.'
                           else 'The sites would put the elements in different orders, or keep some of them twice.'
                           end,
                  hint = case its_type when 'jsonb'::regtype then ''
                         else format('Let the applications write everywrite.as_set(...), and run: update %1$s set %2$I = '
                                     'everywrite.as_set(%2$I) where not %3$s; ', relation, name, constrained)
                         end || format('At every site: alter table %s add check (%s);', relation, constrained);
    end if;
end
$$;

-- Whether a table of this site can be merged; asked where the policy is set, and at every other site by
-- the transaction that brings it.
create function everywrite.prepare_merging(relation regclass, options jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    merge   text;
    wanted  text;
    its     record;
begin
    if not exists (select from pg_index i where i.indrelid = relation and i.indisprimary) then
        raise exception '% has no primary key', relation
            using errcode = 'object_not_in_prerequisite_state',
                  detail = 'Rows that are merged are known by their primary key.',
                  hint = 'Add a primary key.';
    end if;
    if exists (select from pg_index i where i.indrelid = relation and i.indisunique and not i.indisprimary) then
        raise exception '% has a second unique index', relation
            using errcode = 'object_not_in_prerequisite_state',
                  detail = 'Who keeps a unique value is decided by the versions of whole rows; a row that is merged '
                           'was written by nobody and has none.',
                  hint = 'Drop the unique index, or keep another policy.';
    end if;
    foreach merge in array array['delta', 'greatest', 'least', 'union'] loop
        for wanted in select jsonb_array_elements_text(coalesce(options -> merge, '[]')) loop
            select a.attnum, a.atttypid, a.atttypmod, a.attnotnull, a.attgenerated into its from pg_attribute a
             where a.attrelid = relation and a.attname = wanted and a.attnum > 0 and not a.attisdropped;
            if not found then
                raise exception '% has no column "%"', relation, wanted
                    using errcode = 'undefined_column';
            end if;
            if exists (select from pg_index i where i.indrelid = relation and i.indisprimary
                          and its.attnum = any (i.indkey)) then
                raise exception 'the column "%" is part of the key of %', wanted, relation
                    using errcode = 'invalid_parameter_value',
                          detail = 'A row with another key is another row.';
            end if;
            if its.attgenerated <> '' then
                raise exception 'the column "%" of % is generated', wanted, relation
                    using errcode = 'invalid_parameter_value';
            end if;
            if merge = 'delta' then
                if its.atttypid in ('float4'::regtype, 'float8'::regtype) then
                    raise exception 'the column "%" of % is a floating-point number', wanted, relation
                        using errcode = 'invalid_parameter_value',
                              detail = 'Sums of such numbers depend on the order in which they are added, which '
                                       'is another one at each site.',
                              hint = 'Use numeric with a scale, or an integer.';
                elsif its.atttypid = 'numeric'::regtype and its.atttypmod = -1 then
                    raise exception 'the column "%" of % is numeric without a scale', wanted, relation
                        using errcode = 'invalid_parameter_value',
                              detail = 'The digits that a sum shows would depend on who computed it.',
                              hint = format('For example: alter table %s alter column %I type numeric(18, 2);',
                                            relation, wanted);
                elsif its.atttypid not in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype,
                                           'numeric'::regtype, 'money'::regtype) then
                    raise exception 'the column "%" of % cannot be added up', wanted, relation
                        using errcode = 'invalid_parameter_value',
                              hint = 'A delta is an integer, a numeric with a scale, or money.';
                elsif not its.attnotnull then
                    raise exception 'the column "%" of % may be null', wanted, relation
                        using errcode = 'invalid_parameter_value',
                              detail = 'There is no difference between a number and nothing.',
                              hint = format('At every site: alter table %s alter column %I set not null;',
                                            relation, wanted);
                end if;
            elsif merge = 'union' then
                perform everywrite.prepare_set(relation, wanted, its.atttypid, its.attnotnull);
            elsif its.atttypid not in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'date'::regtype,
                                       'timestamp'::regtype, 'timestamptz'::regtype, 'money'::regtype) then
                raise exception 'the column "%" of % has no % value that every site would agree on',
                                wanted, relation, merge
                    using errcode = 'invalid_parameter_value',
                          hint = 'There are integers, dates, timestamps and money.';
            end if;
        end loop;
    end loop;
    if (select c.relreplident from pg_class c where c.oid = relation) <> 'f' then
        if not coalesce((options ->> 'set_replica_identity')::boolean, false) then
            raise exception '% has no REPLICA IDENTITY FULL', relation
                using errcode = 'object_not_in_prerequisite_state',
                      detail = 'Which columns an update changed is known from the row before it.',
                      hint = format('Run at this site: alter table %s replica identity full; or give the option '
                                    '"set_replica_identity": true, which does so at every site.', relation);
        end if;
        execute format('alter table %s replica identity full', relation);
    end if;
end
$$;

create or replace function everywrite.set_policy(
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
    if policy not in (
        'last_update_wins', 'first_update_wins', 'node_priority', 'column_wise', 'delta', 'greatest', 'least',
        'union', 'function', 'park', 'stop') then
        raise exception 'there is no policy "%"', policy
            using errcode = 'invalid_parameter_value',
                  hint = 'There are last_update_wins, first_update_wins, node_priority, column_wise, delta, greatest, '
                         'least, union, function, park and stop.';
    end if;
    if policy = 'function' then
        if coalesce(kind, 'all') not in ('all', 'insert_exists', 'update_origin_differs') then
            raise exception 'the policy "function" is not for conflicts of the kind "%"', kind
                using errcode = 'invalid_parameter_value',
                      detail = 'It merges two rows with one key: insert_exists and update_origin_differs.',
                      hint = 'Give one of these, or ''all'' for both. Where only one side has a row the last '
                             'update wins.';
        end if;
        known := '{function}';
        perform everywrite.merge_function(relation, options);
    elsif policy = 'park' then
        if coalesce(kind, 'all') not in (
            'all', 'insert_exists', 'update_origin_differs', 'update_exists', 'update_deleted',
            'delete_origin_differs', 'insert_deleted') then
            raise exception 'the policy "park" is not for conflicts of the kind "%"', kind
                using errcode = 'invalid_parameter_value',
                      detail = 'It keeps one write of two aside: insert_exists, update_origin_differs, '
                               'update_exists, update_deleted, delete_origin_differs, insert_deleted.',
                      hint = 'Give one of these, or ''all''.';
        end if;
    elsif policy = 'stop' then
        if coalesce(kind, 'all') not in (
            'all', 'insert_exists', 'update_origin_differs', 'update_exists', 'update_missing',
            'update_deleted', 'delete_origin_differs', 'delete_missing', 'insert_deleted',
            'multiple_unique_conflicts', 'truncate_origin_differs') then
            raise exception 'there is no kind of conflict "%"', kind
                using errcode = 'invalid_parameter_value',
                      hint = 'Give ''all'', or a kind as everywrite.conflicts shows it.';
        end if;
    elsif coalesce(kind, 'all') <> 'all' then
        raise exception '% is set for all kinds of conflicts', policy
            using errcode = 'invalid_parameter_value',
                  detail = 'An insert, an update and a delete of one row can meet in any order. If two '
                           'kinds were decided by different policies, each of three writes could win '
                           'against the next, and the order of arrival would decide.',
                  hint = 'Give ''all'' as the kind.';
    end if;
    if policy = 'node_priority' then
        known := '{order}';
        site_ids := everywrite.policy_sites(options);
    elsif policy in ('column_wise', 'delta', 'greatest', 'least', 'union') then
        options := everywrite.column_options(policy, coalesce(options, '{}'));
        policy := 'column_wise';
        known := '{delta, greatest, least, union, floor, set_replica_identity}';
        perform everywrite.prepare_merging(relation, options);
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

create or replace function everywrite.policy_was_set(
    schema_name text, table_name text, number integer, origin integer, policy text, kind text, sites text,
    options text)
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    relation  regclass;
begin
    if $5 = 'column_wise' then
        relation := to_regclass(quote_ident($1) || '.' || quote_ident($2));
        if relation is null then
            raise exception 'the table %.% does not exist here and is to be merged by columns', $1, $2
                using errcode = 'undefined_table';
        end if;
        perform everywrite.prepare_merging(relation, $8::jsonb);
    end if;
    insert into everywrite.policy_log (schema_name, table_name, number, origin, policy, kind, sites, options)
    values ($1, $2, $3, $4, $5, $6, $7, $8::jsonb) on conflict do nothing;
end
$$;

-- A sum that nobody wrote is below the floor: said in the history, and to who listens.
create function everywrite.floor_crossed(
    schema_name text, table_name text, key jsonb, column_name text, floor numeric, before numeric, after numeric,
    row_now jsonb, stamp bigint, origin integer, position_origin integer, position_lsn pg_lsn, xid bigint)
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    entry  bigint;
begin
    insert into everywrite.conflict_history (site, schema_name, table_name, key, kind, policy, decision, local_row,
           incoming_stamp, incoming_origin, incoming_position_origin, incoming_position_lsn, incoming_xid, note)
    select n.id, $1, $2, $3, 'update_origin_differs', 'column_wise', 'merged', $8,
           '2000-01-01 00:00:00+00'::timestamptz + $9 * interval '1 microsecond', $10, $11, $12, $13,
           format('%s crossed its floor %s: from %s to %s', $4, $5, $6, $7)
      from everywrite.nodes n where n.local
    returning id into entry;
    perform pg_notify('everywrite_floor', entry::text);
end
$$;

grant execute on function everywrite.as_set(anyarray), everywrite.is_set(anyarray), everywrite.is_set(jsonb) to public;
revoke all on function everywrite.merge_elements(anyarray, anyarray, anyarray) from public;
revoke all on function everywrite.merge_elements(jsonb, jsonb, jsonb) from public;
revoke all on function everywrite.column_options(text, jsonb) from public;
revoke all on function everywrite.prepare_set(regclass, text, oid, boolean) from public;
revoke all on function everywrite.prepare_merging(regclass, jsonb) from public;
revoke all on function everywrite.floor_crossed(text, text, jsonb, text, numeric, numeric, numeric, jsonb, bigint,
                                                integer, integer, pg_lsn, bigint) from public;
