//! The oids of built-in types that statements of the daemon's own are prepared with: the same at every
//! server (`pg_type.dat`).

/// `bool`.
pub const BOOL: u32 = 16;
/// `bytea`.
pub const BYTEA: u32 = 17;
/// `int8`.
pub const INT8: u32 = 20;
/// `int2`.
pub const INT2: u32 = 21;
/// `int4`.
pub const INT4: u32 = 23;
/// `text`.
pub const TEXT: u32 = 25;
/// `xid`.
pub const XID: u32 = 28;
/// `jsonb`.
pub const JSONB: u32 = 3802;
/// `money`.
pub const MONEY: u32 = 790;
/// `date`.
pub const DATE: u32 = 1082;
/// `timestamp`.
pub const TIMESTAMP: u32 = 1114;
/// `timestamptz`.
pub const TIMESTAMPTZ: u32 = 1184;
/// `pg_lsn`.
pub const LSN: u32 = 3220;
/// `bool[]`.
pub const BOOL_ARRAY: u32 = 1000;
/// `bytea[]`.
pub const BYTEA_ARRAY: u32 = 1001;
/// `int4[]`.
pub const INT4_ARRAY: u32 = 1007;
/// `int2[]`.
pub const INT2_ARRAY: u32 = 1005;
/// `varchar[]`.
pub const VARCHAR_ARRAY: u32 = 1015;
/// `uuid[]`.
pub const UUID_ARRAY: u32 = 2951;
/// `xid[]`.
pub const XID_ARRAY: u32 = 1011;
/// `text[]`.
pub const TEXT_ARRAY: u32 = 1009;
/// `int8[]`.
pub const INT8_ARRAY: u32 = 1016;
/// `timestamptz[]`.
pub const TIMESTAMPTZ_ARRAY: u32 = 1185;
/// `pg_lsn[]`.
pub const LSN_ARRAY: u32 = 3221;
/// Oids from here on (`FirstNormalObjectId`) differ from server to server.
pub const FIRST_NORMAL: u32 = 16384;
