//! Readers in a guest: this program once more, which is told over its standard input when to look, since a shell cannot check what it reads
//! nor tell how long a read took.

use std::env;
use std::io::{self, BufRead};
use std::path::Path;

use super::matrix::{Row, rounds_of};
use super::readers::Readers;

/// Names the folder to be read, and the front end that it stands on.
const FOLDER: &str = "TRANSHIP_TEST_READ";
const FRONT_END: &str = "TRANSHIP_TEST_FRONT_END";

/// Shell that starts the readers (`begin FRONT-END`, with `deaths` for the table), waits until all have read some more (`go`; where they do not,
/// what hangs in the kernel is shown, and what the agent said last), prints a line of the table (`row FAULT`) and
/// ends them (`over`).
pub(crate) const SHELL: &str = r#"
begin() {
    mkfifo /tmp/ask /tmp/said
    TRANSHIP_TEST_READ=/mnt TRANSHIP_TEST_FRONT_END=$1 TRANSHIP_FAULT_ROUNDS=$deaths system --exact faults::in_guest::readers_do_as_they_are_told --nocapture --test-threads=1 </tmp/ask >/tmp/read 2>/tmp/said &
    reading=$!
    exec 3>/tmp/ask 4</tmp/said
    go
    row begin >/dev/null
}
go() { echo go >&3; read -r said <&4; [ "$said" = gone ] || { stuck; echo "readers: $said"; cat <&4; exit 1; }; }
stuck() {
    for task in /proc/[0-9]*/task/[0-9]*; do
        if grep -q '^State:.*D' $task/status 2>/dev/null; then cat $task/comm $task/stack; fi
    done
    tail -n 20 /tmp/agent.log
}
row() { echo "$1" >&3; read -r said <&4; echo "$said"; }
over() { echo over >&3; wait $reading || { echo "readers failed"; cat /tmp/read; exit 1; }; exec 3>&- 4<&-; rm /tmp/ask /tmp/said; }
"#;

#[test]
fn readers_do_as_they_are_told() {
    let Some(folder) = env::var_os(FOLDER) else {
        return;
    };
    let front_end = env::var(FRONT_END).expect("a front end");
    let readers = Readers::start(Path::new(&folder));
    for word in io::stdin().lock().lines() {
        match word.expect("a word").as_str() {
            // The pipe does not end: agents that were started meanwhile have it open, too.
            "over" => break,
            "go" => {
                readers.wait_for_progress();
                eprintln!("gone");
            }
            fault => {
                let row = Row {
                    fault: fault.to_owned(),
                    front_end: front_end.clone(),
                    rounds: rounds_of(fault),
                    tells_readers: fault.starts_with("detach"),
                    left_out: None,
                    seen: readers.take(),
                };
                eprintln!("{row}");
                assert!(row.is_right(), "{row}");
            }
        }
    }
    readers.finish();
}
