//! The only code that speaks PostgreSQL's protocol.
