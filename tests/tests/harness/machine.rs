//! What a preloaded process believes of its clock and its disk.

use everywrite_tests::machine::{Machine, now_us};
use everywrite_tests::place::scratch;
use everywrite_tests::postgres::{Options, Server};

const HOUR_US: i64 = 3_600_000_000;

async fn clock_us(server: &Server) -> i64 {
    let sql = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
    server.value(sql).await.unwrap().parse().unwrap()
}

#[tokio::test]
async fn clocks_jump_and_stand_and_disks_are_full() {
    let dir = scratch("ew-").unwrap();
    let mut server = Server::prepare(&dir.path().join("a"), &Options::default()).unwrap();
    let machine = Machine::new(dir.path(), "a").unwrap();
    server.set_environment(machine.environment());
    server.start().await.unwrap();

    // Half an hour is how long no test machine is busy.
    let near = |clock: i64, wanted: i64| (clock - wanted).abs() < HOUR_US / 2;
    assert!(near(clock_us(&server).await, now_us()));
    machine.set_clock_offset(2 * HOUR_US).unwrap();
    assert!(near(clock_us(&server).await, now_us() + 2 * HOUR_US));
    machine.set_clock_offset(-2 * HOUR_US).unwrap();
    assert!(near(clock_us(&server).await, now_us() - 2 * HOUR_US));
    let moment = now_us();
    machine.stop_clock(moment).unwrap();
    assert_eq!(clock_us(&server).await, moment);
    machine.set_clock_offset(0).unwrap();

    machine.leave_room(0).unwrap();
    let fill = "create table t as select repeat('x', 5000) from generate_series(1, 100)";
    let refused = server.execute(fill).await.unwrap_err();
    assert!(
        format!("{refused:?}").contains("No space left"),
        "{refused:?}"
    );
    machine.heal().unwrap();
    server.execute(fill).await.unwrap();
}
