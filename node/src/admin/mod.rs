//! HTTP, SQL schema, commands.
