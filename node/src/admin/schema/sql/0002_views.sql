-- What people read. The document in node_status is the one that GET /v1/status serves.

create view everywrite.status as
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
       s.updated_at
  from everywrite.node_status s
 cross join lateral (select s.updated_at > clock_timestamp() - interval '5 s') as alive (yes)
 cross join lateral jsonb_to_recordset(s.status -> 'origins') as o (
       node integer, name text, state text, reason text, journal_end pg_lsn, applied pg_lsn,
       lag_bytes numeric, lag_s double precision, transactions_per_s double precision,
       conflicts bigint)
 order by o.node;
comment on view everywrite.status is
    'for every other site: what of its transactions is here, and what is not yet';

create view everywrite.peers as
select p.name,
       p.address,
       p.connected and alive.yes as connected,
       p.connected_inbound and alive.yes as connected_inbound,
       make_interval(secs => p.rtt_ms / 1000) as rtt,
       make_interval(secs => p.clock_skew_ms / 1000) as clock_skew,
       p.received_bytes,
       p.sent_bytes,
       array(select coalesce(n.name, f.id::text)
               from unnest(p.feeds) with ordinality as f (id, place)
               left join everywrite.nodes n on n.id = f.id
              order by f.place) as feeds,
       p.paused,
       p.error,
       alive.yes as daemon_alive
  from everywrite.node_status s
 cross join lateral (select s.updated_at > clock_timestamp() - interval '5 s') as alive (yes)
 cross join lateral jsonb_to_recordset(s.status -> 'peers') as p (
       node integer, name text, address text, connected boolean, connected_inbound boolean,
       error text, rtt_ms double precision, clock_skew_ms double precision,
       received_bytes bigint, sent_bytes bigint, feeds integer[], paused boolean)
 order by p.node;
comment on view everywrite.peers is 'the link to every other site';

create view everywrite.conflicts as
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
       c.incoming_xid
  from everywrite.conflict_history c
  left join everywrite.nodes s on s.id = c.site
  left join everywrite.nodes l on l.id = c.local_origin
  left join everywrite.nodes i on i.id = c.incoming_origin
  left join everywrite.nodes lp on lp.id = c.local_position_origin
  left join everywrite.nodes ip on ip.id = c.incoming_position_origin;
comment on view everywrite.conflicts is
    'every conflict decided at this site: both rows, who wrote them when, and which one stayed';

-- How a site is doing is for everybody; addresses are for those who watch the server; conflicts
-- hold rows of the tables, so the owner grants them to whom may read those.
grant select on everywrite.status to public;
grant select on everywrite.peers, everywrite.nodes to pg_monitor;
