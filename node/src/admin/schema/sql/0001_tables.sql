-- The daemon's own tables. One daemon works beside one database, so one copy of this schema
-- describes one site; nothing in it is replicated.

grant usage on schema everywrite to public;

-- Every site that was ever a member: numbers are never reused, so old conflicts keep a name.
create table everywrite.nodes (
    id       integer primary key check (id between 1 and 65535),
    name     text not null,
    address  text not null default '',
    local    boolean not null default false,
    left_at  timestamptz
);
create unique index nodes_name on everywrite.nodes (name) where left_at is null;
create unique index nodes_local on everywrite.nodes (local) where local;
comment on table everywrite.nodes is
    'the sites of the cluster as the daemon beside this database knows them';
comment on column everywrite.nodes.local is 'true for the site of this database';
comment on column everywrite.nodes.left_at is 'when it stopped being a member; null for members';

-- Every decision about a row that two sites wrote. Written by replay inside the transaction that
-- decided, so a lost row is here exactly if it is lost in the table.
create table everywrite.conflict_history (
    id                        bigint generated always as identity primary key,
    decided_at                timestamptz not null default clock_timestamp(),
    site                      integer not null,
    schema_name               text not null,
    table_name                text not null,
    key                       jsonb,
    kind                      text not null,
    policy                    text not null default 'last_update_wins',
    decision                  text not null,
    local_row                 jsonb,
    incoming_row              jsonb,
    local_stamp               timestamptz,
    local_origin              integer,
    incoming_stamp            timestamptz,
    incoming_origin           integer,
    local_position_origin     integer,
    local_position_lsn        pg_lsn,
    incoming_position_origin  integer,
    incoming_position_lsn     pg_lsn,
    local_xid                 bigint,
    incoming_xid              bigint
);
create index conflict_history_decided_at on everywrite.conflict_history (decided_at);
comment on table everywrite.conflict_history is
    'every conflict decided at this site, with both rows; the view everywrite.conflicts is easier to read';

-- Deletes that must travel to all sites. Replay writes them in the deciding transaction; the
-- daemon takes them out and into the stream in a session without replication origin.
create table everywrite.outbox (
    id           bigint generated always as identity primary key,
    schema_name  text not null,
    table_name   text not null,
    content      bytea not null,
    created_at   timestamptz not null default clock_timestamp()
);
comment on table everywrite.outbox is 'deletes that still have to enter the stream to all sites';

-- Transactions that a person decided not to apply here.
create table everywrite.skipped (
    origin        integer not null,
    lsn           pg_lsn not null,
    requested_at  timestamptz not null default clock_timestamp(),
    requested_by  text not null default session_user,
    primary key (origin, lsn)
);
comment on table everywrite.skipped is 'transactions that a person told this site not to apply';

-- Peers that a person paused; kept here so that a restart of the daemon changes nothing.
create table everywrite.paused (
    peer       text primary key,
    paused_at  timestamptz not null default clock_timestamp(),
    paused_by  text not null default session_user
);
comment on table everywrite.paused is 'peers whose transactions wait here until everywrite.resume()';

-- What the daemon last said of itself. Unlogged: rewritten each second, worthless after a crash.
-- The free space lets each update stay on its page.
create unlogged table everywrite.node_status (
    one         boolean primary key default true check (one),
    status      jsonb not null,
    updated_at  timestamptz not null
) with (fillfactor = 20);
comment on table everywrite.node_status is
    'one row: the status document of the daemon, written each second';
