//! The newcomer's command, as its JSON tells it.

use serde_json::Value;
use tranship_tests::tranship;

#[test]
fn the_demo_compares_every_file_and_reads_the_registry_about_once() {
    let said = tranship(&["demo", "--nodes", "3", "--output", "json"]);
    let report: Value = serde_json::from_str(&said).expect("one JSON object");
    println!("{report:#}");
    for key in ["full_pull", "lazy_registry", "lazy_peers"] {
        assert!(
            report["ready_seconds"][key].as_f64().expect("seconds") > 0.0,
            "{key} was measured"
        );
    }
    let bytes = |key: &str| report["bytes"][key].as_u64().expect("bytes");
    assert!(bytes("blob") > 0);
    assert!(
        bytes("peers") + bytes("seed") > 0,
        "something came from the swarm"
    );
    assert!(report["files"]["compared"].as_u64().expect("a count") > 0);
    assert_eq!(report["files"]["wrong"], 0);
}
