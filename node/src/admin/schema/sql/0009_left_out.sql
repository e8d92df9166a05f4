-- Rows of which a write was left out because another site's newer one was on its way: until that one stands, the row
-- is older than both. Replay writes them in the transaction that leaves the write out; the daemon reads them when it
-- starts, and deletes what has come to an end.
create table everywrite.left_out (
    key             bytea not null,
    origin          integer not null,
    applied         pg_lsn not null,
    newer_origin    integer not null,
    newer_position  pg_lsn not null,
    primary key (key, origin, newer_origin, newer_position)
);
comment on table everywrite.left_out is
    'rows (hashes of their keys) of which a write of the site origin, behind the position applied, was left out for a newer one that was on its way';
