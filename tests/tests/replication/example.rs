//! `examples/three-sites/run.sh` does what its README says.

use std::path::Path;
use std::process::Command;

use everywrite_tests::place;

#[tokio::test]
async fn three_sites_run_to_their_end() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/three-sites/run.sh");
    let output = Command::new(script)
        .env("EVERYWRITE", place::daemon().unwrap())
        .env("EVERYWRITE_PG_BIN", place::postgres_bin(None).unwrap())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{errors}");
    // What was written at a is read at b, and the conflict is in the history.
    for part in ["coffee", "update_origin_differs", "4.50", "ended well"] {
        assert!(told.contains(part), "no {part} in:\n{told}\n{errors}");
    }
}
