//! Real servers and real daemons, one failure story per module.
//!
//! Every test starts its own servers, daemons and proxies, and waits on levels: "all sites hold the
//! same rows". `EVERYWRITE_PG` chooses the major, `EVERYWRITE_KEEP` keeps the folders.

mod away;
mod bad_input;
mod barrier_of_an_earlier_run;
mod basic;
mod chained_groups;
mod column_types;
mod conflict_history;
mod conflict_notification;
mod crash_of_the_daemon;
mod crash_of_the_server;
mod delete_against_late_update;
mod delete_and_insert_again;
mod example;
mod expired_certificate;
mod failing_disk;
mod guide_conflicts;
mod half_open;
mod insert_against_insert;
mod known_conflicts;
mod large_transaction;
mod merged_columns;
mod merged_columns_crashes;
mod merged_columns_cut_journal;
mod merged_sets;
mod multi_row_transactions;
mod named_cases;
mod new_table;
mod nothing_twice;
mod passed_by;
mod pause_and_resume;
mod policies;
mod policy_and_crash;
mod policy_function;
mod policy_park;
mod primary_key_change;
mod read_your_writes;
mod relay;
mod restart_in_any_order;
mod restore_row;
mod rows_beneath;
mod schema_mismatch;
mod second_unique_key;
mod skip_transaction;
mod slot_dropped;
mod spilled;
mod stop_by_signal;
mod strangers;
mod toast;
mod truncate_against_insert;
mod update_against_update;
mod update_before_its_insert;
mod verify;
mod verify_repair;
