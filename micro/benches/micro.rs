//! Every path in seconds: `make micro`, or `cargo bench -p everywrite-micro -- capture/`.

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};

/// Rounds between two preparations.
const ROUNDS: usize = 8;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for path in everywrite_micro::paths() {
        let (stage, what) = path.name.split_once('/').expect("stage/what");
        let mut group = criterion.benchmark_group(stage);
        group.throughput(Throughput::Elements(path.units * ROUNDS as u64));
        group.bench_function(what, |bencher| {
            bencher.iter_batched_ref(
                || (path.start)(ROUNDS),
                |work| (0..ROUNDS).for_each(work),
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }
    criterion.final_summary();
}
